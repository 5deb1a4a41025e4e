"""Selectors that score each reply by itself: a Python function, a reward model, or relevance.

A course of several turns is worth the mean of its replies' scores. What goes wrong with one reply
(an error, no number, not finite) puts its candidate last and is noted with the reason.
"""

import hashlib
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from sage_core.config.search import SelectorConfig
from sage_core.engines.base import Engine
from sage_core.engines.memory import droppable
from sage_core.errors import ConfigError, ContextError
from sage_core.named import load
from sage_core.schema import Message
from sage_core.search.likelihood import Asked, log_likelihoods
from sage_core.search.selector import Ballot, Decision

Score = Callable[[str, tuple[Message, ...]], float]
"""Of an utterance and the utterances before it."""


@dataclass(frozen=True)
class ScoreSelector:
    """The candidate with the highest score wins; the scores are its votes."""

    score: Score
    independent: bool
    may_refuse: bool = False

    def decide(self, ballots: Sequence[Ballot]) -> list[Decision]:
        decisions = []
        for ballot in ballots:
            notes: dict[str, None] = {}
            votes = [self._value(ballot.history, course, notes) for course in ballot.candidates]
            decisions.append(Decision(tuple(votes), notes=tuple(notes)))
        return decisions

    def _value(
        self, history: tuple[Message, ...], course: tuple[Message, ...], notes: dict[str, None]
    ) -> float:
        scores = []
        for place, message in enumerate(course):
            if message.role != "assistant":
                continue
            try:
                score = float(self.score(message.content, (*history, *course[:place])))
            except Exception as error:  # the user's own code: any error is one reply's loss
                notes[f"score_failed: {type(error).__name__}: {error}"] = None
                return -math.inf
            if not math.isfinite(score):
                notes[f"score_failed: it is {score}"] = None
                return -math.inf
            scores.append(score)
        return sum(scores) / len(scores)


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
                if isinstance(answer, ContextError):
                    raise answer
            gain: float = here[utterance] - alone[utterance]  # type: ignore[index]
            return gain / float(max(tokens[utterance], 1) ** self.length_penalty)

        return ScoreSelector(score, independent=True).decide(ballots)


def load_function(name: str) -> Score:
    """The function ``package.module:name`` as a score of (utterance, history).

    Raises:
        ConfigError: it cannot be imported, or takes no one or two arguments.
    """
    try:
        found: Any = load(name)
        arguments = _positional(found)
    except (ConfigError, TypeError, ValueError) as error:
        raise ConfigError(
            f"search.selector.function = '{name}' cannot be used: {error}; name a function that "
            "can be imported here, as package.module:name"
        ) from None
    if arguments == 1:
        return lambda utterance, history: found(utterance)
    if arguments == 2:
        function: Score = found
        return function
    raise ConfigError(
        f"search.selector.function = '{name}' takes {arguments} arguments; it is called with the "
        "utterance, or with the utterance and the history"
    )


def check_reward_model(folder: Path) -> None:
    """Check that ``folder`` holds a model with one output.

    Raises:
        ConfigError: it does not.
    """
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"search.selector.reward_model = '{folder}' is no model folder; give one with "
            "config.json, weights and tokenizer, as save_pretrained writes it"
        )
    from transformers import AutoConfig

    outputs = AutoConfig.from_pretrained(folder).num_labels
    if outputs != 1:
        raise ConfigError(
            f"search.selector.reward_model = '{folder}' has {outputs} outputs; a reward model has "
            "one (num_labels=1)"
        )


def load_reward_model(folder: Path, device: str) -> Score:
    """The reward model's output for a conversation, through its chat template where it has one,
    else for the pair (history, reply).

    Raises:
        ConfigError: see :func:`check_reward_model`.
    """
    check_reward_model(folder)
    import torch

    tokenizer, model = _reward_model(folder, device)
    limit = getattr(model.config, "max_position_embeddings", None) or 512

    def score(utterance: str, history: tuple[Message, ...]) -> float:
        if tokenizer.chat_template:
            messages = [{"role": m.role, "content": m.content} for m in history]
            messages.append({"role": "assistant", "content": utterance})
            text = tokenizer.apply_chat_template(messages, tokenize=False)
            inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        else:
            said = "\n".join(message.content for message in history)
            inputs = tokenizer(said, utterance, return_tensors="pt")
        cut = {name: rows[:, -limit:].to(device) for name, rows in inputs.items()}  # keeps the end
        with torch.inference_mode():
            return float(model(**cut).logits[0, 0])

    return score


def fingerprint(config: SelectorConfig) -> str:
    """A hash of the reward model's files, '' where there is none: a cached search is stale where
    they are others."""
    if not config.reward_model:
        return ""
    digest = hashlib.sha256()
    for path in sorted(path for path in config.reward_model.rglob("*") if path.is_file()):
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


@droppable
def release() -> None:
    """Forget the reward model in memory."""
    _reward_model.cache_clear()


@lru_cache(maxsize=1)
def _reward_model(folder: Path, device: str) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder)
    return tokenizer, model.to(device).eval()


def _positional(function: Any) -> int:
    """How many arguments it is given: those without a default, and a second one called history."""
    parameters = list(inspect.signature(function).parameters.values())
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    taken = [parameter for parameter in parameters if parameter.kind in kinds]
    required = [parameter for parameter in taken if parameter.default is inspect.Parameter.empty]
    wants_history = len(taken) > 1 and taken[1].name == "history"
    return max(len(required), 2 if wants_history else 1) if taken else 0
