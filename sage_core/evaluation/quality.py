"""Measures of conversations that need no judge, from rollouts on held-out situations.

First :func:`measure` takes a model's rollouts and m0 and keeps each measure's values by situation;
then :func:`compare` makes shares and means of them and holds each later model against m1, on the
same situations.

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
from dataclasses import dataclass, field
from functools import cache
from random import Random

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sage_core import languages
from sage_core.config.evaluation import QualityConfig
from sage_core.corpus.sentiment import analyser
from sage_core.emotions import polarity, sign
from sage_core.engines.base import Engine
from sage_core.errors import ItemError
from sage_core.evaluation import embedding
from sage_core.evaluation.metrics import CONFIDENCE, Mean, Rate
from sage_core.sac import parse
from sage_core.schema import Message, Trajectory
from sage_core.search.likelihood import Asked, log_likelihoods
from sage_core.states import FIELDS

Values = dict[str, list[float]]
"""Situation -> the values of its replies, utterances or dialogue; shares are of 0s and 1s."""

Embed = Callable[[Sequence[str], Sequence[str]], NDArray[np.float32]]
"""As :func:`sage_core.evaluation.embedding.embed`."""

BASELINE = "m1"
_BOOTSTRAP_CELLS = 10**7  # numbers drawn together, as in winrate
_NAMES = "|".join(field.name for field in FIELDS)
_STATE_LIKE = re.compile(rf"[{{}}]|\b(?:u|a|user|assistant|agent)_(?:{_NAMES})s?\b")
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")


@dataclass(frozen=True)
class Measure:
    """A measure as it is shown.

    Attributes:
        name: of its metric in MLflow.
        title: of its row in tables.
        meaning: one sentence for a reader who has not read the code.
        of: what its n counts.
        share: whether it is a share; else a mean.
    """

    name: str
    title: str
    meaning: str
    of: str
    share: bool


MEASURES = tuple(
    Measure(*row)
    for row in (
        ("situation_recovery", "Situation recovered by m0",
         "Shown the reply and several situations, m0 finds the one that the reply answers.",
         "first replies", True),
        ("situation_recovery_embedding", "Situation recovered by embeddings",
         "The same, by the similarity of sentence embeddings, which know nothing of m0.",
         "first replies", True),
        ("situation_rank", "Rank of the situation, m0",
         "Where the true situation is among those compared, 1 being the first.",
         "first replies", False),
        ("situation_rank_embedding", "Rank of the situation, embeddings",
         "The same, by the similarity of sentence embeddings.", "first replies", False),
        ("loglik_m0", "Log-likelihood under m0",
         "Nats per token: how expected the words are to the base model. Far below m0's own means "
         "text that is hard to read.", "replies", False),
        ("content_overlap", "Words taken up",
         "Of the words of a reply that carry content, the share that the person used before.",
         "replies", False),
        ("sentiment_agreement", "Same sentiment",
         "The reply and what it answers are both positive, both negative, or both neutral (VADER).",
         "replies", True),
        ("emotion_accuracy", "User's emotion, exactly",
         "The model's first guess at the person's emotion is the situation's label.",
         "dialogues", True),
        ("emotion_polarity", "User's emotion, good or bad",
         "The guess is as good or as bad a feeling as the label; mixed labels are left out.",
         "dialogues", True),
        ("reply_words", "Words of a reply", "States not counted.", "replies", False),
        ("question_rate", "Questions", "The reply ends in a question mark.", "replies", True),
        ("cut_share", "Cut off",
         "The reply was still going on when the tokens allowed were used up.", "replies", True),
        ("stray_braces", "Stray braces",
         "An utterance of the model or of the simulated person has braces or keys of states in it.",
         "utterances", True),
    )
)  # fmt: skip


@dataclass(frozen=True)
class Measurements:
    """What was measured of one model.

    Attributes:
        scorer: which second scorer it was.
        compared: situations that each first reply was matched with, the true one included.
        notes: what could not be measured, by reason, and how often.
        values: by measure; one that could not be measured is not there.
    """

    model: str
    scorer: str
    compared: int
    notes: dict[str, int]
    values: dict[str, Values]

    def rate(self, measure: str) -> Rate:
        """A share over all situations."""
        found = _flat(self.values.get(measure, {}))
        return Rate.of(round(sum(found)), len(found))


@dataclass(frozen=True)
class Difference:
    """A model's value less m1's over the ``n`` situations that both have, with the 95% interval of
    a paired bootstrap over them; the interval is None below n = 2."""

    n: int
    value: float | None
    ci_low: float | None
    ci_high: float | None


@dataclass(frozen=True)
class Figure:
    """A share with its Wilson interval, or a mean with its t-interval, of ``n`` cases. The interval
    takes cases as independent: two replies of one dialogue are less than that."""

    n: int
    value: float | None
    ci_low: float | None
    ci_high: float | None
    vs_m1: Difference | None = None


@dataclass(frozen=True)
class ModelQuality:
    """One model's figures, by measure, in the order of :data:`MEASURES`."""

    model: str
    figures: dict[str, Figure]
    notes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Quality:
    """All models' figures; see :class:`Measurements` for the rest."""

    scorer: str
    compared: int
    models: tuple[ModelQuality, ...]


# --- of one model --------------------------------------------------------------------------------


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


STEPS = 3


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


# --- of all models -------------------------------------------------------------------------------


def compare(measured: Sequence[Measurements], bootstrap_samples: int, seed: int) -> Quality:
    """Shares and means of each model, in the order of their making; those after m1 are held against
    it."""
    baseline: Measurements | None = None
    models = []
    for each in measured:
        figures = {}
        for kind in MEASURES:
            if kind.name not in each.values:
                continue
            found = _flat(each.values[kind.name])
            if kind.share:
                rate = Rate.of(round(sum(found)), len(found))
                shown = (rate.n, rate.value, rate.ci_low, rate.ci_high)
            else:
                mean = Mean.of(found)
                shown = (mean.n, mean.value, mean.ci_low, mean.ci_high)
            versus = None
            if baseline is not None and kind.name in baseline.values:
                versus = paired_difference(
                    baseline.values[kind.name], each.values[kind.name], bootstrap_samples, seed
                )
            figures[kind.name] = Figure(*shown, versus)
        models.append(ModelQuality(each.model, figures, each.notes))
        if each.model == BASELINE:
            baseline = each
    return Quality(
        scorer=measured[0].scorer if measured else "",
        compared=max((each.compared for each in measured), default=0),
        models=tuple(models),
    )


def paired_difference(before: Values, after: Values, samples: int, seed: int) -> Difference:
    """The difference of two means over the situations that have values in both; see
    :class:`Difference`. Situations are drawn anew with all of their values, in both models alike.
    """
    shared = sorted(name for name in before if before[name] and after.get(name))
    if not shared:
        return Difference(0, None, None, None)
    columns = [
        np.array([reduce(values[name]) for name in shared], dtype=float)
        for values in (before, after)
        for reduce in (sum, len)
    ]
    point = float(_difference(columns[0], columns[1], columns[2], columns[3]))
    if len(shared) < 2:
        return Difference(1, point, None, None)
    if all(len(set(column)) == 1 for column in columns):  # SciPy refuses what does not vary
        return Difference(len(shared), point, point, point)
    interval = stats.bootstrap(
        columns,
        _difference,
        paired=True,
        vectorized=True,
        n_resamples=samples,
        batch=max(1, _BOOTSTRAP_CELLS // len(shared)),
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=seed,
    ).confidence_interval
    return Difference(len(shared), point, float(interval.low), float(interval.high))


def _difference(
    before: NDArray[np.float64],
    n_before: NDArray[np.float64],
    after: NDArray[np.float64],
    n_after: NDArray[np.float64],
    axis: int = -1,
) -> NDArray[np.float64]:
    difference: NDArray[np.float64] = after.sum(axis=axis) / n_after.sum(axis=axis) - before.sum(
        axis=axis
    ) / n_before.sum(axis=axis)
    return difference


def key_figures(model: ModelQuality) -> dict[str, float]:
    """The figures to log, named for a tracker: each measure, and its interval against m1."""
    values: dict[str, float | None] = {}
    for name, figure in model.figures.items():
        values[name] = figure.value
        if figure.vs_m1 is not None:
            values[f"{name}.vs_m1"] = figure.vs_m1.value
            values[f"{name}.vs_m1.ci_low"] = figure.vs_m1.ci_low
            values[f"{name}.vs_m1.ci_high"] = figure.vs_m1.ci_high
    return {name: value for name, value in values.items() if value is not None}


def _flat(values: Values) -> list[float]:
    return [value for name in sorted(values) for value in values[name]]
