"""The records that move between stages, and their Arrow schemas.

Every arrow of the pipeline is a Parquet file holding one of these types (see ``ARROW_SCHEMAS``).
Roles are ``user`` and ``assistant`` throughout, so that any message list can be handed to a chat
template as it is.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import pyarrow as pa

from sage_core.states import FIELDS, SCORED, StateAction, one_for_each

Role = Literal["user", "assistant"]
Split = Literal["search", "evaluation"]
Part = Literal["train", "validation", "test"]
Order = Literal["ab", "ba"]
Verdict = Literal["model_a", "model_b", "tie", "unparsed"]
Loss = Literal["none", "open", "whole"]
NodeKind = Literal["situation", "action", "reply", "look_ahead"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A human conversation: turns alternate, and either speaker may open it.

    All dialogues of a thread (the paths of one reply tree) are in the same ``split``.

    Attributes:
        has_roles: the roles are the record's own. Otherwise the turns are those of two people, and
            the first one is taken as the user's.
        left_out: what the messages of its record were that are not among ``messages``, one each:
            their role, or ``blank``. Only readers know; tables do not keep it.
    """

    dialogue_id: str
    source: str
    thread_id: str
    messages: tuple[Message, ...]
    split: Part = "train"
    has_roles: bool = False
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rejection:
    """A dialogue that a filter dropped, and the name of that filter's reason."""

    dialogue_id: str
    reason: str


@dataclass(frozen=True)
class _Utterance:
    role: str
    utterance: str


@dataclass(frozen=True)
class AnnotatedTurn(StateAction, _Utterance):
    """An utterance with the state its speaker was in: ``role``, ``utterance``, and the fields of
    the state."""

    @classmethod
    def of(cls, role: str, utterance: str, state: StateAction) -> Self:
        return cls(role, utterance, **vars(state))

    @property
    def state(self) -> StateAction:
        return StateAction(**{field.column: getattr(self, field.column) for field in FIELDS})


@dataclass(frozen=True)
class AnnotatedDialogue:
    """A dialogue whose every turn carries a state."""

    dialogue_id: str
    turns: tuple[AnnotatedTurn, ...]
    split: Part = "train"


@dataclass(frozen=True)
@one_for_each(SCORED, tuple[float, ...])
class ScoredTurn:
    """One utterance with the log-probabilities of the listed values of each scored field, in the
    order of the lists."""

    role: str
    utterance: str


@dataclass(frozen=True)
class ScoredDialogue:
    """A dialogue whose every turn is scored, before any value is chosen."""

    dialogue_id: str
    turns: tuple[ScoredTurn, ...]
    split: Part = "train"


@dataclass(frozen=True)
class Situation:
    """A first-person statement that opens a simulated conversation, with its emotion label."""

    situation_id: str
    text: str
    emotion: str
    split: Split


@dataclass(frozen=True)
class Candidate:
    """One reply the agent could have given; ``votes`` are the selector's points for it. ``cut``: it
    reached its token limit; the selector is not asked about it where others were finished."""

    text: str
    votes: float
    chosen: bool
    cut: bool = False


@dataclass(frozen=True)
class TrajectoryTurn:
    """A turn of self-play.

    Attributes:
        content: of the agent, its whole State-Action Chain text; of the user, the utterance.
        left_out: the messages that the speaker's context had no room for.
        notes: what did not go as planned, each as ``reason`` or ``reason: detail``.
        cut: the turn reached its token limit.
        states: of the user, the states that it wrote before ``content``; only it sees them.
    """

    role: str
    content: str
    candidates: tuple[Candidate, ...]
    left_out: int = 0
    notes: tuple[str, ...] = ()
    cut: bool = False
    states: str = ""


@dataclass(frozen=True)
class Trajectory:
    """A simulated conversation that started from a situation.

    ``ended`` says why it has no further turn (see :data:`ENDINGS`), in ``reason`` or ``reason:
    detail``; ``generated_tokens`` were drawn for it, those of candidates and branches that were not
    kept included.
    """

    trajectory_id: str
    situation_id: str
    situation: str
    emotion: str
    turns: tuple[TrajectoryTurn, ...]
    ended: str = "turns"
    generated_tokens: int = 0


ENDINGS = {
    "turns": "as many turns as asked for",
    "no_reply": "all of the agent's candidates were empty",
    "states_never_closed": "no candidate of the agent got past its states",
    "none_good": "the selector found none good, in all redraws",
    "user_silent": "the user's reply was empty",
    "user_states_never_closed": "the user's reply did not get past its states",
    "context_full": "what has to stay is longer than the context",
    "request_failed": "the server did not answer this request",
}


@dataclass(frozen=True)
class SearchNode:
    """A branch of a dialogue's search tree (the paper's Figure 4).

    Attributes:
        node: its number in the tree, from 0, the situation.
        parent: the node that it goes on from; -1 for the situation.
        kind: 'reply' is a turn of either speaker; 'action' the agent's states without words, under
            which its wordings are; 'look_ahead' a turn that was played to value a branch only.
        content: as of a trajectory's turn; of an action, its states.
        votes: the selector's points among the branches it was compared with; None where nothing was
            compared.
        chosen: whether the dialogue went on through it.
    """

    trajectory_id: str
    node: int
    parent: int
    kind: NodeKind
    role: str
    content: str
    votes: float | None
    chosen: bool


@dataclass(frozen=True)
class Showing:
    """One order in which the selector was shown the options of a ballot.

    Attributes:
        options: how many it was shown.
        place: of the option that it ranked first, from 0; None where it ranked several
            first, or the answer could not be read.
        outcome: what became of the request (:data:`sage_core.answers.outcomes.OUTCOMES`).
    """

    trajectory_id: str
    ballot_id: str
    shuffle: int
    options: int
    place: int | None
    outcome: str = "read"


@dataclass(frozen=True)
class PreferencePair:
    """Two replies to the same history: the selected one, and one that was not.

    Attributes:
        prompt: what the agent saw.
        pinned: how many messages at the start of the prompt stay where it is too long.
        chosen_cut, rejected_cut: the reply reached its token limit, so its end is not trained.
    """

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    pinned: int = 0
    chosen_cut: bool = False
    rejected_cut: bool = False


@dataclass(frozen=True)
class TrainingDialogue:
    """A conversation as the trainer reads it.

    Attributes:
        loss: of each message, what of it is trained: ``none``, ``whole`` (the text and the token
            that ends the turn), or ``open`` (the text only: the reply was cut, so where it ends is
            not to be learned). Empty: all of what the assistant says in reply to the user; what
            it opens the conversation with is context.
    """

    messages: tuple[Message, ...]
    loss: tuple[Loss, ...] = ()

    @property
    def losses(self) -> tuple[Loss, ...]:
        """``loss``, with the default written out."""
        first = next((n for n, each in enumerate(self.messages) if each.role == "user"), 0)
        return self.loss or tuple(
            "whole" if message.role == "assistant" and number > first else "none"
            for number, message in enumerate(self.messages)
        )


@dataclass(frozen=True)
class Judgement:
    """One judge's answer about one item in one order, mapped back from position to model.

    Attributes:
        raw: what the judge wrote, or why there is no answer.
        log_odds: log P(model_b) - log P(model_a) of the answers that name a model, in nats, where
            the judge was asked for it; positive favours ``model_b``.
        outcome: what became of the request (:data:`sage_core.answers.outcomes.OUTCOMES`); '' in
            tables that do not say.
    """

    item_id: str
    judge: str
    model_a: str
    model_b: str
    order: Order
    verdict: Verdict
    raw: str
    log_odds: float | None = None
    outcome: str = ""


@dataclass(frozen=True)
class BenchmarkDocument:
    """A model's value on one document of a benchmark; ``hash`` is that of the document's text."""

    model: str
    task: str
    document: str
    hash: str
    metric: str
    value: float


_ROLES = ("user", "assistant")


def with_roles(utterances: Iterable[str]) -> tuple[Message, ...]:
    """Utterances as messages that alternate, the first one being the user's."""
    return tuple([Message(_ROLES[turn % 2], text) for turn, text in enumerate(utterances)])


def whole_exchanges(messages: Sequence[Message], max_turns: int = 0) -> tuple[Message, ...]:
    """The first ``max_turns`` messages (0 = all) without a last one of the user's: it has no reply.

    An assistant's message that opens the conversation stays. Empty where no message of the user's
    has a reply.
    """
    kept = messages[: max_turns or None]
    if kept and kept[-1].role == "user":
        kept = kept[:-1]
    return tuple(kept) if any(message.role == "user" for message in kept) else ()


_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_STATE_FIELDS = [
    (field.column, pa.list_(pa.string()) if field.many else pa.string()) for field in FIELDS
]
_SCORES = [(field.plural, pa.list_(pa.float64())) for field in SCORED]

ARROW_SCHEMAS: dict[type, pa.Schema] = {
    Dialogue: pa.schema(
        [
            ("dialogue_id", pa.string()),
            ("source", pa.string()),
            ("thread_id", pa.string()),
            ("messages", _MESSAGES),
            ("split", pa.string()),
            ("has_roles", pa.bool_()),
        ]
    ),
    BenchmarkDocument: pa.schema(
        [
            ("model", pa.string()),
            ("task", pa.string()),
            ("document", pa.string()),
            ("hash", pa.string()),
            ("metric", pa.string()),
            ("value", pa.float64()),
        ]
    ),
    Rejection: pa.schema([("dialogue_id", pa.string()), ("reason", pa.string())]),
    AnnotatedDialogue: pa.schema(
        [
            ("dialogue_id", pa.string()),
            (
                "turns",
                pa.list_(
                    pa.struct([("role", pa.string()), ("utterance", pa.string()), *_STATE_FIELDS])
                ),
            ),
            ("split", pa.string()),
        ]
    ),
    ScoredDialogue: pa.schema(
        [
            ("dialogue_id", pa.string()),
            (
                "turns",
                pa.list_(pa.struct([("role", pa.string()), ("utterance", pa.string()), *_SCORES])),
            ),
            ("split", pa.string()),
        ]
    ),
    Situation: pa.schema(
        [
            ("situation_id", pa.string()),
            ("text", pa.string()),
            ("emotion", pa.string()),
            ("split", pa.string()),
        ]
    ),
    Trajectory: pa.schema(
        [
            ("trajectory_id", pa.string()),
            ("situation_id", pa.string()),
            ("situation", pa.string()),
            ("emotion", pa.string()),
            (
                "turns",
                pa.list_(
                    pa.struct(
                        [
                            ("role", pa.string()),
                            ("content", pa.string()),
                            (
                                "candidates",
                                pa.list_(
                                    pa.struct(
                                        [
                                            ("text", pa.string()),
                                            ("votes", pa.float64()),
                                            ("chosen", pa.bool_()),
                                            ("cut", pa.bool_()),
                                        ]
                                    )
                                ),
                            ),
                            ("left_out", pa.int64()),
                            ("notes", pa.list_(pa.string())),
                            ("cut", pa.bool_()),
                            ("states", pa.string()),
                        ]
                    )
                ),
            ),
            ("ended", pa.string()),
            ("generated_tokens", pa.int64()),
        ]
    ),
    SearchNode: pa.schema(
        [
            ("trajectory_id", pa.string()),
            ("node", pa.int64()),
            ("parent", pa.int64()),
            ("kind", pa.string()),
            ("role", pa.string()),
            ("content", pa.string()),
            ("votes", pa.float64()),
            ("chosen", pa.bool_()),
        ]
    ),
    Showing: pa.schema(
        [
            ("trajectory_id", pa.string()),
            ("ballot_id", pa.string()),
            ("shuffle", pa.int64()),
            ("options", pa.int64()),
            ("place", pa.int64()),
            ("outcome", pa.string()),
        ]
    ),
    PreferencePair: pa.schema(
        [
            ("prompt", _MESSAGES),
            ("chosen", pa.string()),
            ("rejected", pa.string()),
            ("pinned", pa.int64()),
            ("chosen_cut", pa.bool_()),
            ("rejected_cut", pa.bool_()),
        ]
    ),
    TrainingDialogue: pa.schema([("messages", _MESSAGES), ("loss", pa.list_(pa.string()))]),
    Judgement: pa.schema(
        [
            (name, pa.string())
            for name in (
                "item_id",
                "judge",
                "model_a",
                "model_b",
                "order",
                "verdict",
                "raw",
                "outcome",
            )
        ]
        + [("log_odds", pa.float64())]
    ),
}
