"""``make prove``: does the method move a model towards what its selector likes, and only there?

The selector is a plain function that likes one measurable property of a reply (``PROPERTY``);
everything else is the real pipeline on the embedded model. Three arms share all up to m1: *planted*
(two rounds and preference learning), *turned around* (one round with a selector that likes replies
without the property) and *at random* (one round with a selector that picks by lot). The share of
replies with the property is counted on held-out situations, and compared between models by a paired
bootstrap over situations.

Every step is a cached stage in SAGE_HOME: kill it and start it again, and it goes on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from scipy import stats

from benchmarks import properties
from benchmarks.harness import Benchmark
from flows import environment
from sage_core.config import PipelineConfig, load_config
from sage_core.evaluation.metrics import CONFIDENCE, Rate
from sage_core.sac import utterance_of
from sage_core.schema import Trajectory
from tasks import home

ROUNDS = 2
TURNS = 6  # three replies of the agent's to a situation
SHARD = 32  # situations: all 32 embedded ones of a half
# A model that learns from its own draws, whoever selects them, has to be the same model: else the
# property moves by training alone. So the draws are cut as training repeats them: the most likely
# tokens of a renormalised distribution are the same ones with the same shares, while a temperature
# below 1 sharpens each round anew, and a repetition penalty, under which "?" gains on the "." that
# has been said, moves the share of questions.
SAMPLING = "{temperature: 1.0, top_k: 10, repetition_penalty: 1.0, max_new_tokens: 120}"
SETTINGS = (
    # The demo's m1, of twenty dialogues, often goes on with more states where its reply should be.
    # What it then learns from its own draws, whoever selects them, is to end its replies.
    "corpus.max_dialogues=64",
    "sft={epochs: 3, learning_rate: 2.0e-3, batch_size: 2, micro_batch_size: 2, max_length: 768}",
    "search.situations=0",
    "search.candidates=6",
    f"search.selfplay.max_turns={TURNS}",
    f"search.selfplay.shard_size={SHARD}",
    f"search.selfplay.sampling={SAMPLING}",
    # What chance puts into a few dozen dialogues is learned as well as what the selector does, so
    # the latter has to be learned well: three epochs, not the demo's one. At twice the rate m3 was
    # worse than m2.
    "refine.sft={epochs: 3, learning_rate: 1.0e-3, batch_size: 2, micro_batch_size: 2, "
    "max_length: 768}",
    "dpo.max_pairs=32",
    "dpo.epochs=1",
    "evaluation.situations=0",
)
ARMS = {
    "planted": "search.selector.function=benchmarks.properties:{property}",
    "turned around": "search.selector.function=benchmarks.properties:no_{property}",
    "at random": "search.selector.random=true",
}
# A model is measured by a search of its own, of two of the agent's turns, each drawn twice; both
# replies count, and the dialogue goes on from one by lot.
MEASURED = (
    "search.selector.random=true",
    "search.candidates=2",
    "search.selfplay.max_turns=4",
)
RANDOM_SHARE = 1 / 3  # of the planted round's move, that chance may move at most
BOOTSTRAP_SAMPLES = 10_000


class Property(StrEnum):
    """What the selector likes: see :mod:`benchmarks.properties`."""

    question = "question"
    short = "short"


WORDS = {
    Property.question: "replies that end with a question",
    Property.short: f"replies of at most {properties.SHORT_WORDS} words",
}


@dataclass(frozen=True)
class Counts:
    """Replies with the property, and replies, of one model by situation; (S,) each, in the same
    order for every model."""

    hits: tuple[int, ...]
    replies: tuple[int, ...]

    @property
    def rate(self) -> Rate:
        """Over all replies; its Wilson interval takes them as independent."""
        return Rate.of(sum(self.hits), sum(self.replies))


@dataclass(frozen=True)
class Move:
    """The share of ``after`` less that of ``before``, with its paired 95% interval."""

    value: float
    ci_low: float
    ci_high: float

    def __str__(self) -> str:
        return f"{self.value:+.2f} [{self.ci_low:+.2f}, {self.ci_high:+.2f}]"


@dataclass(frozen=True)
class Claim:
    """Something that the proof says of two models, and whether it holds."""

    what: str
    after: Counts
    before: Counts
    before_name: str
    figure: str
    target: str
    met: bool


def main(
    planted: Annotated[
        Property, typer.Option("--property", help="What the selector likes.")
    ] = Property.question,
) -> None:
    """Plant a preference and see whether training follows it."""
    with home.held():
        environment.prepare(quiet=True)
        environment.stop_orphaned_servers()
        models, seconds = _run(planted)
    name = "prove" if planted is Property.question else f"prove-{planted}"
    benchmark = Benchmark(name)
    for claim in claims(models):
        benchmark.add(
            f"{WORDS[planted]}, {claim.what}",
            _share(claim.after),
            f"{_share(claim.before)} ({claim.before_name})",
            claim.figure,
            claim.target,
            claim.met,
        )
    benchmark.note = (
        f"Shares are of all replies drawn on {len(models['m1'].hits)} held-out situations, with "
        "Wilson intervals; differences have paired 95% intervals (bootstrap over situations). The "
        f"stages took {seconds / 60:.0f} min together, whenever they were made."
    )
    benchmark.finish()


def counts(
    trajectories: Sequence[Trajectory], has: Callable[[str], float], situations: Sequence[str]
) -> Counts:
    """Count the agent's replies, those not taken included, in the trajectories of ``situations``,
    in that order."""
    replies: dict[str, list[float]] = {situation: [] for situation in situations}
    for trajectory in trajectories:
        replies[trajectory.situation_id] += [
            has(utterance_of(candidate.text))
            for turn in trajectory.turns
            for candidate in turn.candidates
        ]
    return Counts(
        tuple(int(sum(each)) for each in replies.values()),
        tuple(len(each) for each in replies.values()),
    )


def move(before: Counts, after: Counts, seed: int = 0) -> Move:
    """How far the share moved. Situations are drawn with replacement, the same ones for both
    models; one without a reply counts with the replies that there are."""
    columns = (after.hits, after.replies, before.hits, before.replies)

    def difference(
        hits: np.ndarray, replies: np.ndarray, hits_0: np.ndarray, replies_0: np.ndarray, axis: int
    ) -> np.ndarray:
        share = hits.sum(axis) / replies.sum(axis)
        return np.asarray(share - hits_0.sum(axis) / replies_0.sum(axis))

    interval = stats.bootstrap(
        [np.asarray(column, dtype=float) for column in columns],
        difference,
        paired=True,
        vectorized=True,
        n_resamples=BOOTSTRAP_SAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=seed,
    ).confidence_interval
    value = sum(after.hits) / sum(after.replies) - sum(before.hits) / sum(before.replies)
    return Move(value, float(interval.low), float(interval.high))


def claims(models: dict[str, Counts]) -> list[Claim]:
    """What is to be shown of ``models``: m1, m2, m3 and dpo of the planted arm, and m2 of the two
    others, named "m2 ARM"."""
    m1, m2, m3, dpo = (models[name] for name in ("m1", "m2", "m3", "dpo"))
    turned, lot = (models[f"m2 {arm}"] for arm in ("turned around", "at random"))
    whole, preferred, back, chance = (move(m1, each) for each in (m3, dpo, turned, lot))
    found = [
        Claim(f"{name}: more than {parent}", models[name], models[parent], parent, str(step),
              "> 0", step.value > 0)
        for parent, name in (("m1", "m2"), ("m2", "m3"))
        for step in [move(models[parent], models[name])]
    ]  # fmt: skip
    found.append(Claim("m3: more than m1, beyond chance", m3, m1, "m1", str(whole),
                       "interval > 0", whole.ci_low > 0))  # fmt: skip
    found.append(Claim("dpo: more than m1, beyond chance", dpo, m1, "m1", str(preferred),
                       "interval > 0", preferred.ci_low > 0))  # fmt: skip
    found.append(Claim("m2 turned around: less than m1, beyond chance", turned, m1, "m1",
                       str(back), "interval < 0", back.ci_high < 0))  # fmt: skip
    planted = move(m1, m2)
    far = abs(chance.value) < RANDOM_SHARE * abs(planted.value)
    found.append(Claim(f"m2 at random: moves less than a third of {planted.value:+.2f}", lot, m1,
                       "m1", str(chance), f"< {RANDOM_SHARE * abs(planted.value):.2f} either way",
                       far))  # fmt: skip
    return found


def configs(planted: Property) -> dict[str, PipelineConfig]:
    """The configuration of each arm; they differ in the selector only."""
    return {
        arm: load_config("demo", (*SETTINGS, selector.format(property=planted)))
        for arm, selector in ARMS.items()
    }


def measured() -> PipelineConfig:
    """The configuration of the searches in which the models are measured."""
    return load_config("demo", (*SETTINGS, *MEASURED))


def _run(planted: Property) -> tuple[dict[str, Counts], float]:
    """The models of all arms, counted, and the seconds of all that they were made from."""
    from prefect import flow

    from flows.pipeline import (
        annotate,
        fine_tune,
        human_dialogues,
        prefer,
        refine,
        search,
        situations,
        training_text,
    )
    from flows.run import name_stages
    from sage_core.schema import Situation
    from sage_core.storage import ArtifactRef, read_rows
    from tasks import stages
    from tasks.caching import forget_remade
    from tasks.home import store
    from tasks.lineage import ancestry
    from tasks.stages import SITUATIONS, TRAJECTORIES

    has = getattr(properties, planted)
    seconds: dict[Path, float] = {}

    @flow(name="sage-prove")
    def prove() -> dict[str, Counts]:
        forget_remade()
        arms = configs(planted)
        config = arms["planted"]
        base = stages.base_model("m0", model=config.model)
        _, dialogues = human_dialogues(config)
        text = training_text(config, "m1", annotate(config, dialogues, base), states=True)
        m1 = fine_tune(config, "m1", text, base)
        openings = situations(config, "search", config.search.situations)
        held_out = situations(config, "evaluation", config.evaluation.situations)
        ids = [
            row.situation_id for row in read_rows(store().folder(held_out) / SITUATIONS, Situation)
        ]

        def counted(name: str, checkpoint: ArtifactRef) -> Counts:
            drawn = search(measured(), name, checkpoint, m1, base, held_out)
            folder = store().folder(drawn)
            seconds.update({of: record["cost"]["seconds"] for of, record in ancestry(folder)})
            return counts(read_rows(folder / TRAJECTORIES, Trajectory), has, ids)

        models = {"m1": counted("m1", m1)}
        searched, last, checkpoint = {}, "m1", m1
        for number in range(2, ROUNDS + 2):
            name = f"m{number}"
            searched[last], _, checkpoint = refine(
                config, last, name, checkpoint, m1, base, openings
            )
            models[name] = counted(name, checkpoint)
            last = name
        _, preferred = prefer(config, list(searched.values()), checkpoint, base)
        models["dpo"] = counted("dpo", preferred)
        for arm in ("turned around", "at random"):
            _, _, checkpoint = refine(arms[arm], "m1", "m2", m1, m1, base, openings)
            models[f"m2 {arm}"] = counted("m2", checkpoint)
        return models

    name_stages()
    return prove(), sum(seconds.values())


def _share(counts: Counts) -> str:
    rate = counts.rate
    return f"{rate.value:.0%} [{rate.ci_low:.0%}, {rate.ci_high:.0%}] of {rate.n}"


if __name__ == "__main__":
    typer.run(main)
