"""Measures of conversations that need no judge, from rollouts on held-out situations: the values of
each measure by situation (:mod:`sage_core.evaluation.quality` makes figures of them).

*Situation recovery* asks of a first reply which situation it answers: the true one is put among
others, the same ones for every model, and the reply is scored after each. It is recovered where the
true one has the highest score alone: equal scores recover nothing. One scorer is m0, by
log p(reply | situation): with the reply fixed, the situation of the highest pointwise mutual
information is the same. The other is :mod:`sage_core.evaluation.embedding`, by cosine, which shares
nothing with m0 and so cannot favour a model for being like it. Chance is 1 in the number of
situations that are compared.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

import numpy as np
from numpy.typing import NDArray

from sage_core import languages
from sage_core.config.evaluation import QualityConfig
from sage_core.corpus.sentiment import analyser
from sage_core.emotions import polarity, sign
from sage_core.engines.base import Engine
from sage_core.errors import ItemError
from sage_core.evaluation import embedding
from sage_core.evaluation.quality import MEASURES, Measurements, Values
from sage_core.sac import parse
from sage_core.schema import Message, Trajectory
from sage_core.search.likelihood import Asked, log_likelihoods
from sage_core.states import FIELDS

Embed = Callable[[Sequence[str], Sequence[str]], NDArray[np.float32]]
"""As :func:`sage_core.evaluation.embedding.embed`."""

STEPS = 3
_NAMES = "|".join(field.name for field in FIELDS)
_STATE_LIKE = re.compile(rf"[{{}}]|\b(?:u|a|user|assistant|agent)_(?:{_NAMES})s?\b")
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")


def measure(
    model: str,
    trajectories: Sequence[Trajectory],
    m0: Engine,
    config: QualityConfig,
    seed: int,
    *,
    states: bool,
    embed: Embed = embedding.embed,
    on_progress: Callable[[int], None] = lambda count: None,
) -> Measurements:
    """Measure a model's rollouts; ``states`` says whether it speaks State-Action Chains.
    ``on_progress`` is called after each of :data:`STEPS`.

    Raises:
        EngineError: m0's engine cannot score replies.
    """
    spoken = [_Spoken.of(trajectory, states=states) for trajectory in trajectories]
    values = _of_words(spoken) | _of_emotions(trajectories, states=states)
    on_progress(1)
    notes: dict[str, int] = {}
    likelihoods = _likelihoods(spoken, m0, config.likelihood_replies, seed, notes)
    on_progress(1)
    recovered, compared = _recovery(spoken, m0, config, seed, embed, notes)
    on_progress(1)
    values |= likelihoods | recovered
    values = {
        each.name: {situation: found for situation, found in values[each.name].items() if found}
        for each in MEASURES
        if any(values.get(each.name, {}).values())
    }
    return Measurements(model, embedding.scorer_name(), compared, notes, values)


@dataclass(frozen=True)
class _Spoken:
    """A dialogue's utterances; ``cut`` tells the replies that were cut off."""

    situation: str
    text: str
    messages: tuple[Message, ...]
    cut: tuple[bool, ...]

    @classmethod
    def of(cls, trajectory: Trajectory, *, states: bool) -> "_Spoken":
        messages = tuple(
            Message(
                turn.role,
                parse(turn.content).utterance if states and turn.role == "assistant"
                else turn.content,
            )
            for turn in trajectory.turns
        )  # fmt: skip
        return cls(
            trajectory.situation_id,
            trajectory.situation,
            messages,
            tuple(turn.cut for turn in trajectory.turns),
        )

    def replies(self) -> list[tuple[int, str]]:
        """The agent's replies with their places."""
        return [
            (place, message.content)
            for place, message in enumerate(self.messages)
            if message.role == "assistant"
        ]


def _of_words(spoken: Sequence[_Spoken]) -> dict[str, Values]:
    values: dict[str, Values] = {
        name: {} for name in ("reply_words", "question_rate", "cut_share", "stray_braces",
                              "content_overlap", "sentiment_agreement")
    }  # fmt: skip
    for each in spoken:
        found = {name: values[name].setdefault(each.situation, []) for name in values}
        for message in each.messages[1:]:  # the first is the situation, which nobody generated
            found["stray_braces"].append(float(bool(_STATE_LIKE.search(message.content))))
        for place, reply in each.replies():
            found["reply_words"].append(float(len(languages.words(reply))))
            found["question_rate"].append(float(languages.is_question(reply)))
            found["cut_share"].append(float(each.cut[place]))
            said = [m.content for m in each.messages[:place] if m.role == "user"]
            if words := content_words(reply):
                known = frozenset[str]().union(*map(content_words, said))
                found["content_overlap"].append(len(words & known) / len(words))
            if said:
                signs = {sign(analyser()(text)) for text in (reply, said[-1])}
                found["sentiment_agreement"].append(float(len(signs) == 1))
    return values


def _of_emotions(trajectories: Sequence[Trajectory], *, states: bool) -> dict[str, Values]:
    """Of the first reply's guess; a reply without one is wrong."""
    exact: Values = {}
    polar: Values = {}
    for each in trajectories if states else ():
        for turn in [turn for turn in each.turns if turn.role == "assistant"][:1]:
            told, label = parse(turn.content).user.emotion or "", each.emotion
            exact.setdefault(each.situation_id, []).append(
                float(told.casefold() == label.casefold())
            )
            if polarity(label):
                polar.setdefault(each.situation_id, []).append(
                    float(polarity(told) == polarity(label))
                )
    return {"emotion_accuracy": exact, "emotion_polarity": polar}


def content_words(text: str) -> frozenset[str]:
    """The stems of a text's words (Porter's English stemmer), without those that only bind others
    (scikit-learn's stop words)."""
    stop, stem = _language()
    return frozenset(
        stem(word)
        for word in _WORD.findall(text.casefold().replace("\u2019", "'"))
        if len(word) > 1 and not word.endswith("n't") and word.partition("'")[0] not in stop
    )


@cache
def _language() -> tuple[frozenset[str], Callable[[str], str]]:
    from nltk.stem.snowball import EnglishStemmer
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return ENGLISH_STOP_WORDS, cache(EnglishStemmer().stem)


def _likelihoods(
    spoken: Sequence[_Spoken], m0: Engine, limit: int, seed: int, notes: dict[str, int]
) -> dict[str, Values]:
    """Log-likelihood per token of up to ``limit`` replies, the first replies before the second."""
    queue = sorted(
        (number, index, place, reply)
        for index, each in enumerate(spoken)
        for number, (place, reply) in enumerate(each.replies())
        if reply.strip()
    )[:limit]
    asked = [
        Asked(spoken[index].messages[:place], (reply.strip(),)) for _, index, place, reply in queue
    ]
    found: Values = {}
    texts = [each.replies[0] for each in asked]
    scored = log_likelihoods(m0, asked, seed) if asked else []
    tokens = m0.token_counts(texts) if texts else []
    for (_, index, _, _), text, answer, count in zip(queue, texts, scored, tokens, strict=True):
        if isinstance(answer, ItemError):
            notes["too_long_for_m0"] = notes.get("too_long_for_m0", 0) + 1
        elif np.isfinite(answer[text]) and count:
            found.setdefault(spoken[index].situation, []).append(answer[text] / count)
    return {"loglik_m0": found}


def _recovery(
    spoken: Sequence[_Spoken],
    m0: Engine,
    config: QualityConfig,
    seed: int,
    embed: Embed,
    notes: dict[str, int],
) -> tuple[dict[str, Values], int]:
    """Recovery and rank by both scorers, and how many situations each reply was matched with."""
    # Of situations with the same text none can be told from the other: the first one is kept.
    situations: dict[str, str] = {}
    for name, text in sorted({each.situation: each.text for each in spoken}.items()):
        if text not in situations.values():
            situations[name] = text
    if dropped := len({each.situation for each in spoken}) - len(situations):
        notes["situations_alike"] = dropped
    if len(situations) < 2:
        notes["nothing_to_recover"] = len(situations)
        return {}, 0
    kept = list(situations)
    if config.situations and len(kept) > config.situations:
        kept = sorted(Random(seed).sample(kept, config.situations))
    among = {name: _among(name, kept, config.alternatives, seed) for name in kept}
    first: dict[str, str] = {}
    for each in spoken:
        replies = [reply.strip() for _, reply in each.replies()[:1]]
        if each.situation in among and replies and replies[0]:
            first.setdefault(each.situation, replies[0])
        elif each.situation in among:
            notes["no_first_reply"] = notes.get("no_first_reply", 0) + 1
    if not first:
        return {}, 0

    start = {name: _beginning(reply, config.matched_words) for name, reply in first.items()}
    asked = {
        other: Asked(
            (Message("user", situations[other]),),
            tuple(dict.fromkeys(start[name] for name in first if other in among[name])),
        )
        for other in kept
    }
    scored = dict(zip(asked, log_likelihoods(m0, list(asked.values()), seed), strict=True))
    compared = [situations[name] for name in kept]
    vectors = embed([*first.values(), *compared], compared)
    cosines = vectors[: len(first)] @ vectors[len(first) :].T
    values: dict[str, Values] = {name: {} for name in (
        "situation_recovery", "situation_rank", "situation_recovery_embedding",
        "situation_rank_embedding")}  # fmt: skip
    for row, name in enumerate(first):
        by_m0: dict[str, float] = {}
        for other in among[name]:
            answer = scored[other]
            if not isinstance(answer, ItemError):
                by_m0[other] = answer[start[name]]
        if len(by_m0) == len(among[name]):
            _rank(name, by_m0, values["situation_recovery"], values["situation_rank"])
        else:
            notes["too_long_for_m0"] = notes.get("too_long_for_m0", 0) + 1
        by_cosine = {
            other: round(float(cosines[row, kept.index(other)]), 6) for other in among[name]
        }
        _rank(name, by_cosine, values["situation_recovery_embedding"],
              values["situation_rank_embedding"])  # fmt: skip
    return values, len(next(iter(among.values())))


def _among(name: str, situations: Sequence[str], alternatives: int, seed: int) -> list[str]:
    """The situations that the replies to ``name`` are matched with, itself included: the same for
    every model."""
    others = [other for other in situations if other != name]
    if alternatives and len(others) > alternatives:
        others = Random(f"{seed}|{name}").sample(others, alternatives)
    return sorted([name, *others])


def _beginning(reply: str, words: int) -> str:
    """The reply's first words, as they are written; all of it at 0."""
    ends = [match.end() for match in re.finditer(r"\S+", reply)]
    return reply if not words or len(ends) <= words else reply[: ends[words - 1]]


def _rank(name: str, scores: Mapping[str, float], top: Values, ranks: Values) -> None:
    """Whether the true situation is first alone, and its rank; equal ones share theirs."""
    own = scores[name]
    above = sum(score > own for score in scores.values())
    alike = sum(score == own for score in scores.values()) - 1
    top[name] = [float(above == 0 and alike == 0)]
    ranks[name] = [1 + above + alike / 2]
