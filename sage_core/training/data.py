"""What the trainers read: dialogues and preference pairs, made from trajectories and cut to the
longest length by whole turns."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Generic, Literal, TypeVar

from sage_core.config.conversation import ProfileConfig
from sage_core.conversation import of_turns, shortened, view
from sage_core.errors import DataError
from sage_core.sac import utterance_of
from sage_core.schema import Candidate, Message, PreferencePair, TrainingDialogue, Trajectory

Length = Callable[[Sequence[Message]], int]
Example = TypeVar("Example")

_REASONS = {
    "no_reply": "have no reply of the agent",
    "empty_reply": "have an empty reply",
    "equal_replies": "have the same reply as chosen and as rejected",
    "refused": "are refused by the model's chat template",
    "too_long": "are longer than max_length",
}


@dataclass(frozen=True)
class Usable(Generic[Example]):
    """The examples that can be trained on.

    Attributes:
        rows: the examples, cut to the longest length.
        places: the place of each in the input, from 0.
        left_out: how many were not used, by reason.
    """

    rows: list[Example]
    places: list[int]
    left_out: dict[str, int]


def selected_dialogues(
    trajectories: Sequence[Trajectory], profile: ProfileConfig
) -> list[TrainingDialogue]:
    """The dialogues that search selected, as the agent saw them; a last user turn carries no loss
    and is left out, as is a dialogue without a turn of the agent."""
    dialogues = []
    for trajectory in trajectories:
        seen = view(of_turns(trajectory.turns), profile, states=True).training()
        dialogue = _to_last_reply(seen)
        if dialogue.messages:
            dialogues.append(dialogue)
    return dialogues


def preference_pairs(
    trajectories: Sequence[Trajectory],
    profile: ProfileConfig,
    seed: int,
    rejected: Literal["random", "lowest"] = "random",
) -> list[PreferencePair]:
    """One pair per agent turn with more than one distinct utterance: the selected candidate, and
    one of the others at random (section 4.5), or one with the fewest votes.

    Candidates that say nothing are left out, and those that were cut where others were not: the
    selector did not compare these.
    """
    pairs = []
    for trajectory in trajectories:
        for position, turn in enumerate(trajectory.turns):
            spoken = [each for each in turn.candidates if utterance_of(each.text).strip()]
            chosen = next((each for each in spoken if each.chosen), None)
            if chosen is None:
                continue
            others = [
                each for each in spoken if utterance_of(each.text) != utterance_of(chosen.text)
            ]
            others = [each for each in others if not each.cut] or others
            if rejected == "lowest":
                others = _lowest(others)
            if others:
                draw = Random(f"{seed}|{trajectory.trajectory_id}|{position}")
                other = draw.choice(others)
                seen = view(of_turns(trajectory.turns[:position]), profile, states=True)
                pairs.append(
                    PreferencePair(
                        seen.messages,
                        chosen.text,
                        other.text,
                        seen.pinned,
                        chosen_cut=chosen.cut,
                        rejected_cut=other.cut,
                    )
                )
    return pairs


def fitting_dialogues(
    dialogues: Sequence[TrainingDialogue], max_length: int, length: Length
) -> Usable[TrainingDialogue]:
    """Cut dialogues before an empty reply, and to ``max_length`` tokens by leaving out their last
    exchanges.

    Raises:
        DataError: no dialogue is left.
    """
    fitting: list[TrainingDialogue] = []
    places: list[int] = []
    left_out: Counter[str] = Counter()
    for place, dialogue in enumerate(dialogues):
        cut = _to_last_reply(dialogue)
        reason = "no_reply"
        if cut.messages:
            cut, reason = _to_last_reply(_before_empty_reply(cut)), "empty_reply"
        if cut.messages:
            reason = "too_long"
            try:
                while cut.messages and length(cut.messages) > max_length:
                    cut = _to_last_reply(_first(cut, len(cut.messages) - 1))
            except DataError:  # instruction data may have any order of roles
                cut, reason = _first(cut, 0), "refused"
        if cut.messages:
            fitting.append(cut)
            places.append(place)
        else:
            left_out[reason] += 1
    if not fitting:
        raise DataError(
            f"nothing is left to train on: of {len(dialogues)} dialogues {_why(left_out)} (of "
            f"{max_length} tokens, with their first exchange alone); raise max_length or give "
            "other dialogues"
        )
    return Usable(fitting, places, dict(left_out))


def fitting_pairs(
    pairs: Sequence[PreferencePair], max_length: int, length: Length
) -> Usable[PreferencePair]:
    """Leave out pairs that prefer nothing, and cut the others to ``max_length`` tokens by leaving
    out the oldest exchanges of the prompt.

    Raises:
        DataError: no pair is left.
    """
    fitting: list[PreferencePair] = []
    places: list[int] = []
    left_out: Counter[str] = Counter()
    for place, pair in enumerate(pairs):
        if pair.chosen == pair.rejected:
            left_out["equal_replies"] += 1
            continue
        if not all(utterance_of(reply).strip() for reply in (pair.chosen, pair.rejected)):
            left_out["empty_reply"] += 1
            continue
        prompt: tuple[Message, ...] | None = pair.prompt
        while prompt and _pair_length(prompt, pair, length) > max_length:
            prompt = shortened(prompt, pair.pinned)
        if prompt:
            fitting.append(replace(pair, prompt=prompt))
            places.append(place)
        else:
            left_out["too_long"] += 1
    if not fitting:
        raise DataError(
            f"nothing is left to train on: of {len(pairs)} preference pairs {_why(left_out)} (of "
            f"{max_length} tokens, with their last turn alone); raise max_length, "
            "search.candidates or search.situations"
        )
    return Usable(fitting, places, dict(left_out))


def _first(dialogue: TrainingDialogue, count: int) -> TrainingDialogue:
    """The first ``count`` messages."""
    return replace(dialogue, messages=dialogue.messages[:count], loss=dialogue.loss[:count])


def _to_last_reply(dialogue: TrainingDialogue) -> TrainingDialogue:
    """The messages up to the last with a loss."""
    end = len(dialogue.messages)
    while end and dialogue.losses[end - 1] == "none":
        end -= 1
    return _first(dialogue, end)


def _before_empty_reply(dialogue: TrainingDialogue) -> TrainingDialogue:
    """What was said before the agent had nothing to say; what follows answers that."""
    for place, message in enumerate(dialogue.messages):
        if message.role == "assistant" and not utterance_of(message.content).strip():
            return _first(dialogue, place)
    return dialogue


def _lowest(candidates: Sequence[Candidate]) -> list[Candidate]:
    fewest = min((each.votes for each in candidates), default=0.0)
    return [each for each in candidates if each.votes == fewest]


def _why(left_out: Counter[str]) -> str:
    found = [f"{count} {_REASONS[reason]}" for reason, count in sorted(left_out.items())]
    return ", ".join(found) or "none was given"


def _pair_length(prompt: Sequence[Message], pair: PreferencePair, length: Length) -> int:
    """Tokens of the prompt with the longer of both replies."""
    replies = (pair.chosen, pair.rejected)
    return max(length((*prompt, Message("assistant", reply))) for reply in replies)
