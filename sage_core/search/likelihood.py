"""Log-likelihoods of replies under m0, given a dialogue or given nothing.

m0 reads utterances only, as a plain conversation. *Nothing said* is the same frame around an empty
message of the user's: what a chat model says when it is only told that it is its turn. A bare
generation prompt would be simpler, but not every chat template can write one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sage_core.config.engine import SamplingConfig
from sage_core.engines.answered import answered
from sage_core.engines.base import Engine, Request
from sage_core.errors import ItemError
from sage_core.schema import Message
from sage_core.storage import shards

_NOTHING = (Message("user", ""),)
_MOST_REPLIES = 64  # in one request: a vLLM server scores 128 different first tokens at most


@dataclass(frozen=True)
class Asked:
    """Distinct replies after one history of utterances; an empty history is nothing said."""

    history: tuple[Message, ...]
    replies: tuple[str, ...]


def context(history: Sequence[Message]) -> tuple[Message, ...]:
    """What m0 sees before a reply."""
    return tuple(history) or _NOTHING


def log_likelihoods(
    engine: Engine, asked: Sequence[Asked], seed: int
) -> list[dict[str, float] | ItemError]:
    """For each of ``asked``, reply -> log-probability in nats, the end of the reply not counted.
    Each history is read once for every 64 replies. One that is too long for the context loses its
    oldest turns after the situation; the error is raised where that is not enough.

    Raises:
        EngineError: the engine cannot score replies, or one of them is empty.
    """
    texts = list(dict.fromkeys(reply for each in asked for reply in each.replies))
    tokens = dict(zip(texts, engine.token_counts(texts), strict=True))
    parts = [
        (number, part)
        for number, each in enumerate(asked)
        for part in shards(each.replies, _MOST_REPLIES)
    ]
    items = [
        (
            Request(
                request_id=f"score/{number}",
                messages=context(asked[number].history),
                sampling=SamplingConfig(
                    temperature=0,
                    top_k=0,
                    repetition_penalty=1,
                    # The room that the replies need behind the prompt.
                    max_new_tokens=max(1, *(tokens[reply] for reply in part)),
                ),
                seed=seed,
                pinned=1,
            ),
            part,
        )
        for number, part in parts
    ]
    answers = answered(
        lambda some: engine.choose([request for request, _ in some], [part for _, part in some]),
        items,
    )
    found: list[dict[str, float] | ItemError] = [{} for _ in asked]
    for (number, part), answer in zip(parts, answers, strict=True):
        so_far = found[number]
        if isinstance(answer, ItemError):
            found[number] = answer
        elif not isinstance(so_far, ItemError):
            so_far.update(zip(part, answer, strict=True))
    return found
