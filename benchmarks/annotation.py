"""``make bench-annotation``: how well are emotions annotated by calibrated scoring?

The situations of EmpatheticDialogues' validation part (Rashkin et al., 2019), each with one of 32
emotions, scored by the embedded model as ``annotation.method: score`` does it
(:mod:`sage_core.labels`). The baseline is the same scores without the calibration, which uses no
label. The last row is about ``annotation.calibration``: of the pleasant situations alone, a
corpus of one sentiment as the demo's is, how many get a pleasant emotion if the scores are compared
with the embedded situations, and if they are compared with their own mean.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.harness import Benchmark
from sage_core.config.loading import load_config
from sage_core.corpus.readers.empathetic_dialogues import read_situations
from sage_core.evaluation.annotations import sign_of_emotion
from sage_core.evaluation.metrics import Rate
from sage_core.labels import calibrated, margins, score_field
from sage_core.schema import Dialogue, Message
from sage_core.search.situations import situations
from sage_core.states import EMOTION

TOP_1, TOP_5 = 0.16, 0.40
CHANCE_OF_SIGN = 0.5
SHARES = (0.5, 0.25)  # of the situations, those with the widest margins


def main(
    data: Annotated[
        Path,
        typer.Option(
            envvar="EMPATHETIC_DIALOGUES", help="valid.csv of EmpatheticDialogues, or its folder."
        ),
    ],
    limit: Annotated[int, typer.Option(help="Situations, from the start; 0 = all.")] = 0,
    dtype: Annotated[
        str, typer.Option(help="bfloat16 is faster on processors with instructions for it.")
    ] = "float32",
) -> None:
    """Accuracy of annotated emotions, with and without calibration."""
    path = data / "valid.csv" if data.is_dir() else data
    found = [(text, emotion) for _, text, emotion in read_situations(path)][: limit or None]
    emotions = sorted({emotion for _, emotion in found})
    embedded = [each.text for each in situations(load_config("demo").situations, "search", 0)]
    scores = score([*(text for text, _ in found), *embedded], emotions, dtype)
    report(
        scores[: len(found)],
        [emotions.index(emotion) for _, emotion in found],
        emotions,
        scores[len(found) :],
    )


def score(texts: Sequence[str], emotions: Sequence[str], dtype: str) -> np.ndarray:
    """Log-probabilities (U, V) of the emotions."""
    from sage_core.engines.in_process import TransformersEngine  # imports torch
    from sage_core.steps.base_model import BaseModel
    from tasks.home import store
    from tasks.making import make

    config = load_config("demo", [f"model.dtype={dtype}", "annotation.context_turns=0"])
    base = make(BaseModel(model=config.model), "m0")
    engine = TransformersEngine(store().folder(base), None, config.model)
    dialogues = [
        Dialogue(str(number), "", "", (Message("user", text),)) for number, text in enumerate(texts)
    ]
    found = score_field(EMOTION, emotions, dialogues, engine, config.annotation, config.seed)
    return np.asarray([scores for (scores,) in found])


def report(
    scores: np.ndarray, labels: Sequence[int], emotions: Sequence[str], embedded: np.ndarray
) -> None:
    """Print and write the table of ``scores`` (U, V), whose right emotions are ``labels`` (U,);
    ``embedded`` (S, V) are the scores of the embedded situations. Exits."""
    label = np.asarray(labels)
    table = calibrated(scores.tolist())
    benchmark = Benchmark("annotation")

    def add(
        what: str, ours: Rate, other: Rate, target: str, met: bool, than: str = "uncalibrated"
    ) -> None:
        points = f"{100 * (_value(ours) - _value(other)):+.1f} points"
        benchmark.add(what, _share(ours), f"{_share(other)} ({than})", points, target, met)

    for most, target in ((1, TOP_1), (5, TOP_5)):
        ours, raw = (_among_best(each, label, most) for each in (table, scores))
        met = _value(ours) >= target
        add(f"top-{most} of {len(emotions)} emotions", ours, raw, f"≥ {target:.0%}", met)
    signs = np.asarray([sign_of_emotion(emotion) for emotion in emotions])
    ours, raw = (_same_sign(each, label, signs) for each in (table, scores))
    beyond_chance = ours.ci_low is not None and ours.ci_low > CHANCE_OF_SIGN
    add("polarity, of emotions with one", ours, raw, "interval > 50%", beyond_chance)
    pleasant, unpleasant = (signs[label] == sign for sign in (1, -1))
    compared = calibrated(scores.tolist(), embedded.tolist())
    ours, own = (
        _same_sign(each, label[pleasant], signs)
        for each in (compared[pleasant], calibrated(scores[pleasant].tolist()))
    )
    above = ours.ci_low is not None and own.ci_high is not None and ours.ci_low > own.ci_high
    add("polarity, pleasant situations alone, compared with the embedded situations",
        ours, own, "intervals apart", above, "with their own mean")  # fmt: skip
    by_margin = np.argsort(-margins(table), kind="stable")
    notes = []
    for share in SHARES:
        rows = by_margin[: round(share * len(label))]
        notes.append(
            f"the {share:.0%} that are at least {margins(table)[rows[-1]]:.2f} nats ahead: "
            f"{_share(_among_best(table[rows], label[rows], 1))}"
        )
    benchmark.note = (
        f"{len(label):,} situations; 95% Wilson intervals. Top-1 by the margin to the second "
        f"emotion: {'; '.join(notes)}. Chance is {1 / len(emotions):.0%}. Compared with the "
        f"{len(embedded)} embedded situations: top-1 {_share(_among_best(compared, label, 1))}; of "
        "the unpleasant situations "
        f"{_share(_same_sign(compared[unpleasant], label[unpleasant], signs))} get an unpleasant "
        "emotion, with the mean over all situations "
        f"{_share(_same_sign(table[unpleasant], label[unpleasant], signs))}."
    )
    benchmark.finish()


def _among_best(scores: np.ndarray, label: np.ndarray, most: int) -> Rate:
    best = np.argsort(-scores, axis=1, kind="stable")[:, :most]
    return Rate.of(int((best == label[:, None]).any(axis=1).sum()), len(label))


def _same_sign(scores: np.ndarray, label: np.ndarray, signs: np.ndarray) -> Rate:
    """Of the situations whose emotion has a sign, how many get an emotion of the same sign."""
    told, given = signs[label], signs[scores.argmax(axis=1)]
    return Rate.of(int(((told == given) & (told != 0)).sum()), int((told != 0).sum()))


def _value(rate: Rate) -> float:
    return math.nan if rate.value is None else rate.value


def _share(rate: Rate) -> str:
    if rate.value is None:
        return "none"
    return f"{rate.value:.1%} [{rate.ci_low:.1%}, {rate.ci_high:.1%}] of {rate.n:,}"


if __name__ == "__main__":
    typer.run(main)
