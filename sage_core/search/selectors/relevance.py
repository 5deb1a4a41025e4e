"""Relevance: the reply that the dialogue makes likelier by most, under m0."""

from collections.abc import Sequence
from dataclasses import dataclass

from sage_core.engines.base import Engine
from sage_core.errors import ItemError
from sage_core.schema import Message
from sage_core.search.likelihood import Asked, log_likelihoods
from sage_core.search.selectors.scores import ScoreSelector
from sage_core.search.selectors.selector import Ballot, Decision, Inputs, Selector, SelectorKind


@dataclass(frozen=True)
class RelevanceSelector:
    """The candidate that the dialogue makes likelier by most wins (Li et al. 2016, "A
    Diversity-Promoting Objective Function for Neural Conversation Models"; the reranker of
    DialoGPT). Votes are log p(reply | dialogue) - log p(reply | nothing said) under m0 in nats,
    divided by the reply's tokens to the power ``length_penalty``: 0 for a reply that would do in
    any dialogue, below for one that does not belong. Replies of equal text after the same dialogue
    have equal votes. A mean over few tokens varies more than one over many, so that with the power
    1 the highest of several is often that of a fragment.

    Departure from the release, whose LLM ranks letters: a small model scores better than it ranks.
    """

    engine: Engine
    seed: int
    length_penalty: float = 1.0
    may_refuse: bool = False

    @property
    def independent(self) -> bool:
        return self.engine.capabilities.independent

    def decide(self, ballots: Sequence[Ballot]) -> list[Decision]:
        after: dict[tuple[Message, ...], dict[str, None]] = {}
        for ballot in ballots:
            for course in ballot.candidates:
                for place, message in enumerate(course):
                    if message.role == "assistant" and message.content.strip():
                        history = (*ballot.history, *course[:place])
                        after.setdefault(history, {})[message.content] = None
        replies = list(dict.fromkeys(reply for found in after.values() for reply in found))
        asked = [Asked(history, tuple(found)) for history, found in after.items()]
        likelihoods = log_likelihoods(self.engine, [Asked((), tuple(replies)), *asked], self.seed)
        found = dict(zip(asked, likelihoods[1:], strict=True))
        alone = likelihoods[0]
        tokens = dict(zip(replies, self.engine.token_counts(replies), strict=True))

        def score(utterance: str, history: tuple[Message, ...]) -> float:
            if not utterance.strip():
                raise ValueError("it says nothing")
            here = found[Asked(history, tuple(after[history]))]
            for answer in (here, alone):
                if isinstance(answer, ItemError):
                    raise answer
            gain: float = here[utterance] - alone[utterance]  # type: ignore[index]
            return gain / float(max(tokens[utterance], 1) ** self.length_penalty)

        return ScoreSelector(score, independent=True).decide(ballots)


def _made(inputs: Inputs) -> Selector:
    return RelevanceSelector(inputs.engine(), inputs.seed, inputs.settings.length_penalty)


SELECTOR = SelectorKind(_made)
