"""What SFT trains on besides one corpus: several corpora by weight, blends, instruction data.

Instruction data is the paper's own remedy for the arithmetic that dialogue training unlearns
(its section 5.2 reports the drop on GSM8k).
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from sage_core.config.conversation import ConversationConfig
from sage_core.config.corpus import CorpusConfig
from sage_core.config.mixture import InstructionsConfig
from sage_core.conversation import of_annotated, view
from sage_core.corpus.records import BadRecord
from sage_core.corpus.sources import read, reader_of, sources
from sage_core.errors import ConfigError, DataError
from sage_core.schema import (
    AnnotatedDialogue,
    Dialogue,
    TrainingDialogue,
    whole_exchanges,
)

_log = logging.getLogger(__name__)


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


def blend(
    dialogues: Sequence[AnnotatedDialogue], share: float, seed: int
) -> list[AnnotatedDialogue]:
    """Join random pairs into one dialogue that changes its subject, until ``share`` of all
    dialogues are in a pair: the turns of the second follow those of the first.

    What the assistant opens the second with would be trained as a reply to the first, and is left
    out; so is a last turn of the user's in the first, which has no reply."""
    order = list(range(len(dialogues)))
    random = Random(seed)
    random.shuffle(order)
    pairs = int(share * len(dialogues)) // 2
    second_of = dict(zip(order[:pairs], order[pairs : 2 * pairs], strict=True))
    appended = set(second_of.values())
    return [
        _joined(dialogue, dialogues[second_of[index]]) if index in second_of else dialogue
        for index, dialogue in enumerate(dialogues)
        if index not in appended
    ]


def _joined(first: AnnotatedDialogue, second: AnnotatedDialogue) -> AnnotatedDialogue:
    turns, following = first.turns, second.turns
    if following and following[0].role == "assistant":
        following = following[1:]
    if turns and following and turns[-1].role == following[0].role:
        turns = turns[:-1]
    return replace(first, turns=turns + following)


def training_text(
    dialogues: Sequence[AnnotatedDialogue], conversation: ConversationConfig, *, states: bool
) -> list[TrainingDialogue]:
    """What m1 trains on, or, without states, raw: each dialogue as its agent sees it, and with
    ``conversation.train_user`` also as its user does."""
    found = []
    for dialogue in dialogues:
        said = of_annotated(dialogue)
        found.append(view(said, conversation.agent, states=states).training())
        if conversation.train_user:
            found.append(view(said, conversation.user, states=states, speaker="user").training())
    return found


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
    return CorpusConfig(
        reader=config.reader,
        input=config.input,
        configuration=config.configuration,
        splits=config.splits,
        columns=config.columns,
        roles=config.roles,
    )


def check_instructions(config: InstructionsConfig) -> None:
    """
    Raises:
        ConfigError: the reader yields posts, of which no conversation is made here.
    """
    if reader_of(instruction_corpus(config)).posts:
        raise ConfigError(
            f"mixture.instructions.reader = '{config.reader}' reads reply trees; take a reader of "
            "dialogues, such as messages"
        )


@dataclass(frozen=True)
class Instructions:
    """Instruction data, and what became of its records.

    Attributes:
        unused: the number of records that could not be used, by reason; ``no_exchange`` is one
            without a question and its answer.
    """

    dialogues: list[TrainingDialogue]
    read: int
    unused: dict[str, int]

    @property
    def counts(self) -> dict[str, Any]:
        """As the artefact keeps them: read = used + unused."""
        return {"read": self.read, "used": len(self.dialogues), "unused": self.unused}


def read_instructions(config: InstructionsConfig) -> Instructions:
    """Instruction data as it is, without states, each conversation cut to whole exchanges; an
    assistant's turn that opens one stays.

    Raises:
        DataError: missing, without one whole exchange, or more than ``max_unused_share`` of the
            records cannot be used.
    """
    corpus = instruction_corpus(config)
    found = []
    unused: Counter[str] = Counter()
    first = ""
    for source in sources(corpus):
        for record in read(source, corpus):
            if isinstance(record, Dialogue) and (messages := whole_exchanges(record.messages)):
                found.append(TrainingDialogue(messages))
            elif isinstance(record, BadRecord):
                unused[record.reason] += 1
                first = first or str(record)
            else:
                unused["no_exchange"] += 1
    read_all = len(found) + unused.total()
    reasons = ", ".join(f"{reason}: {count}" for reason, count in unused.most_common())
    problem = f"{unused.total()} of {read_all} records cannot be used ({reasons or 'no record'})"
    if first:
        problem += f"; the first is {first}"
    if not found:
        raise DataError(
            f"mixture.instructions.input = '{config.input}' holds no conversation of a question "
            f"and an answer that the reader '{config.reader}' can read: {problem}"
        )
    if unused.total() > config.max_unused_share * read_all:
        raise DataError(
            f"mixture.instructions.input = '{config.input}': {problem}. That is more than "
            f"mixture.instructions.max_unused_share = {config.max_unused_share:g}; fix the input, "
            "set mixture.instructions.columns or roles, or raise the limit"
        )
    if unused:
        _log.warning("mixture.instructions.input = '%s': %s", config.input, problem)
    return Instructions(found, read_all, dict(unused))
