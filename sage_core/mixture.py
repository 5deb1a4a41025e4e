"""What SFT trains on besides one corpus: several corpora by weight, blends, instruction data.

Instruction data is the paper's own remedy for the arithmetic that dialogue training unlearns
(its section 5.2 reports the drop on GSM8k).
"""

from collections.abc import Sequence
from random import Random

from sage_core.config import CorpusConfig, InstructionsConfig
from sage_core.corpus import readers
from sage_core.errors import DataError
from sage_core.schema import Dialogue, TrainingDialogue, whole_exchanges


def draw(
    corpora: Sequence[Sequence[Dialogue]], weights: Sequence[float], seed: int
) -> list[Dialogue]:
    """Dialogues of all corpora, in random order if there are several.

    Of corpora with a weight, numbers in proportion to the weights are drawn, as many as the
    scarcest of them allows; a weight of 0 stands for all dialogues.
    """
    if len(corpora) == 1:
        return list(corpora[0])
    random = Random(seed)
    per_weight = min(
        (len(corpus) / weight for corpus, weight in zip(corpora, weights, strict=True) if weight),
        default=0.0,
    )
    drawn: list[Dialogue] = []
    for corpus, weight in zip(corpora, weights, strict=True):
        size = min(len(corpus), round(weight * per_weight)) if weight else len(corpus)
        drawn += random.sample(list(corpus), size)
    random.shuffle(drawn)
    return drawn


def blend(dialogues: Sequence[TrainingDialogue], share: float, seed: int) -> list[TrainingDialogue]:
    """Join random pairs into one dialogue that changes its subject, until ``share`` of all
    dialogues are in a pair: the turns of the second follow those of the first.

    Dialogues end with a reply, so those that the assistant opens come first in their pairs; where
    there are too many of them, the second one's opening turn is left out."""
    order = list(range(len(dialogues)))
    random = Random(seed)
    random.shuffle(order)
    pairs = int(share * len(dialogues)) // 2
    paired = sorted(order[: 2 * pairs], key=lambda index: not _opens_with_reply(dialogues[index]))
    second_of = dict(zip(paired[:pairs], paired[pairs:], strict=True))
    appended = set(second_of.values())

    def joined(first: TrainingDialogue, second: TrainingDialogue) -> TrainingDialogue:
        return TrainingDialogue(first.messages + second.messages[int(_opens_with_reply(second)) :])

    return [
        joined(dialogue, dialogues[second_of[index]]) if index in second_of else dialogue
        for index, dialogue in enumerate(dialogues)
        if index not in appended
    ]


def with_instructions(
    dialogues: Sequence[TrainingDialogue],
    instructions: Sequence[TrainingDialogue],
    share: float,
    seed: int,
) -> list[TrainingDialogue]:
    """``dialogues`` with random ``instructions`` among them, which are then ``share`` of all, or
    fewer where there are not enough."""
    random = Random(seed)
    wanted = round(len(dialogues) * share / (1 - share))
    mixed = [*dialogues, *random.sample(list(instructions), min(wanted, len(instructions)))]
    random.shuffle(mixed)
    return mixed


def instruction_corpus(config: InstructionsConfig) -> CorpusConfig:
    """How instruction data is read."""
    return CorpusConfig(reader=config.reader, input=config.input)


def read_instructions(config: InstructionsConfig) -> list[TrainingDialogue]:
    """Instruction data as it is, without states, each conversation cut to whole exchanges; an
    assistant's turn that opens one stays.

    Raises:
        DataError: missing, or without one whole exchange.
    """
    corpus = instruction_corpus(config)
    found = []
    for source in readers.sources(corpus):
        for record in readers.read(source, corpus):
            if isinstance(record, Dialogue) and (messages := whole_exchanges(record.messages)):
                found.append(TrainingDialogue(messages))
    if not found:
        raise DataError(
            f"mixture.instructions.input = '{config.input}' holds no conversation of a question "
            f"and an answer that the reader '{config.reader}' can read"
        )
    return found


def _opens_with_reply(dialogue: TrainingDialogue) -> bool:
    return dialogue.messages[0].role == "assistant"
