"""What the trainers read: dialogues and preference pairs, made from trajectories and cut to the
longest length by whole turns."""

from collections.abc import Callable, Sequence
from random import Random

from sage_core.errors import DataError
from sage_core.sac import utterance_of
from sage_core.schema import Message, PreferencePair, TrainingDialogue, Trajectory

Length = Callable[[Sequence[Message]], int]


def selected_dialogues(trajectories: Sequence[Trajectory]) -> list[TrainingDialogue]:
    """The dialogues that search selected; a last user turn carries no loss and is left out."""
    dialogues = []
    for trajectory in trajectories:
        messages = [Message(turn.role, turn.content) for turn in trajectory.turns]
        whole = messages[: len(messages) - len(messages) % 2]
        if whole:
            dialogues.append(TrainingDialogue(tuple(whole)))
    return dialogues


def preference_pairs(trajectories: Sequence[Trajectory], seed: int) -> list[PreferencePair]:
    """One pair per agent turn with more than one distinct utterance: the selected candidate, and
    one of the others at random (section 4.5)."""
    pairs = []
    for trajectory in trajectories:
        history: list[Message] = []
        for position, turn in enumerate(trajectory.turns):
            chosen = [candidate.text for candidate in turn.candidates if candidate.chosen]
            others = [
                candidate.text
                for candidate in turn.candidates
                if chosen and utterance_of(candidate.text) != utterance_of(chosen[0])
            ]
            if others:
                draw = Random(f"{seed}|{trajectory.trajectory_id}|{position}")
                pairs.append(PreferencePair(tuple(history), chosen[0], draw.choice(others)))
            history.append(Message(turn.role, turn.content))
    return pairs


def fitting_dialogues(
    dialogues: Sequence[TrainingDialogue], max_length: int, length: Length
) -> list[TrainingDialogue]:
    """Cut dialogues to ``max_length`` tokens by leaving out their last exchanges.

    Raises:
        DataError: no dialogue is left.
    """
    fitting = []
    for dialogue in dialogues:
        messages = dialogue.messages
        while messages and length(messages) > max_length:
            messages = messages[:-2]
        if messages:
            fitting.append(TrainingDialogue(messages))
    if not fitting:
        raise DataError(
            f"nothing is left to train on: of {len(dialogues)} dialogues none has a first exchange "
            f"of at most {max_length} tokens; raise max_length or give more dialogues"
        )
    return fitting


def fitting_pairs(
    pairs: Sequence[PreferencePair], max_length: int, length: Length
) -> list[PreferencePair]:
    """Cut pairs to ``max_length`` tokens by leaving out the oldest exchanges of the prompt.

    Raises:
        DataError: no pair is left.
    """
    fitting = []
    for pair in pairs:
        prompt = pair.prompt
        while len(prompt) > 1 and _pair_length(prompt, pair, length) > max_length:
            prompt = prompt[2:]
        if _pair_length(prompt, pair, length) <= max_length:
            fitting.append(PreferencePair(prompt, pair.chosen, pair.rejected))
    if not fitting:
        raise DataError(
            f"nothing is left to train on: of {len(pairs)} preference pairs none fits into "
            f"{max_length} tokens; raise max_length, search.candidates or search.situations"
        )
    return fitting


def _pair_length(prompt: Sequence[Message], pair: PreferencePair, length: Length) -> int:
    """Tokens of the prompt with the longer of both replies."""
    replies = (pair.chosen, pair.rejected)
    return max(length((*prompt, Message("assistant", reply))) for reply in replies)
