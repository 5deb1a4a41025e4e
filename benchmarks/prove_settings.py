"""What `make prove` runs: how it differs from the demo, and how held-out situations are halved."""

from collections.abc import Sequence
from enum import StrEnum
from hashlib import sha256

from sage_core.config import PipelineConfig, load_config
from sage_core.schema import Situation

SEEDS = 4
# What differs from the demo. The values are a first choice: none was tuned on this measure yet.
SETTINGS = (
    "search.situations=0",  # all of the search half
    "search.candidates=6",
    "search.selfplay.max_turns=2",  # one reply: as many dialogues as there are, each at its start
    "search.selfplay.shard_size=32",
    "evaluation.situations=0",  # all, before they are halved
    # A model that learns from its own draws, whoever selects them, has to stay the same model. A
    # temperature below 1 sharpens it in each round, and under a repetition penalty "?" gains on the
    # "." that has been said.
    "search.selfplay.sampling.temperature=1.0",
    "search.selfplay.sampling.repetition_penalty=1.0",
    "search.selfplay.sampling.top_k=10",
    # Few dialogues: chance in what was drawn is learned as well as what the selector likes, so the
    # latter has to be learned well.
    "refine.sft.epochs=3",
    "dpo.max_pairs=32",
    # At random, as in the paper, two of five rejected replies would have the property as well.
    "dpo.rejected=lowest",
)
ARMS = {
    "planted": "search.selector={function: 'benchmarks.properties:question'}",
    "turned around": "search.selector={function: 'benchmarks.properties:no_question'}",
    "at random": "search.selector={random: true}",
}
# The sets are a search of m1's with many candidates.
SETS = ("search.selector={random: true}", "search.candidates=16")


class Half(StrEnum):
    """Of the held-out situations: those that settings are chosen on, and those of the claims."""

    tune = "tune"
    test = "test"


def seeds_of(half: Half) -> list[int]:
    """The seeds of a half: settings that suit the seeds which they were chosen on are not shown by
    the same ones again. m1 has seed 0."""
    first = 1 if half is Half.test else 1 + SEEDS
    return list(range(first, first + SEEDS))


def configs(overrides: Sequence[str] = ()) -> dict[str, PipelineConfig]:
    """The configuration of each arm; they differ in the selector only."""
    return {
        arm: load_config("demo", (*SETTINGS, *overrides, selector))
        for arm, selector in ARMS.items()
    }


def sets_config(overrides: Sequence[str] = ()) -> PipelineConfig:
    """The configuration of the search that draws the candidate sets."""
    return load_config("demo", (*SETTINGS, *SETS, *overrides))


def halved(rows: Sequence[Situation]) -> dict[Half, list[Situation]]:
    """Two halves of equal size by a hash of the situation's id, each in the order of ``rows``."""
    ordered = sorted(rows, key=lambda row: sha256(row.situation_id.encode()).hexdigest())
    first = {row.situation_id for row in ordered[: len(rows) // 2]}
    return {
        Half.tune: [row for row in rows if row.situation_id in first],
        Half.test: [row for row in rows if row.situation_id not in first],
    }
