"""``make bench-orchestration``: what Prefect, MLflow and the cache cost a run; after `make demo`.

1. A run shaped like the demo: its preset on the embedded model in a fresh home, with as many stages
   and shards as the demo has and as little work in each as there can be. All its seconds that are
   not spent within a step of ``sage_core`` are overhead: starting Python and Prefect's server,
   making both databases, keys, hashes, task runs, tracking. The share is that of a demo with the
   steps of the last `make demo` in SAGE_HOME, as its artefacts recorded them on this machine. Steps
   that ran beside other work took longer, which makes the share smaller than it is.
2. 1,000 finished shards passed over by a later run, one at a time, as shards of a model in this
   process are, and side by side, as those that speak to a server are. The baseline looks each up
   in the store and hashes its files, without Prefect.

The server, the databases and MLflow are those of `sage run`.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import Benchmark, alone, timed
from sage_core.config.differences import from_preset
from sage_core.errors import ConfigError
from sage_core.steps.base import Context, Step
from sage_core.storage import read_json
from tasks import runs, usage
from tasks.home import store

ROOT = Path(__file__).parents[1]
MOST_SHARE = 0.05
LITTLE_WORK = [
    "corpus.max_dialogues=6",
    "annotation.shard_size=1",
    "search.situations=2",
    "search.candidates=2",
    "search.grammar_probe=2",
    "search.selfplay.shard_size=2",
    "search.selfplay.max_turns=2",
    "search.selfplay.sampling.max_new_tokens=32",
    "refine.gates.kl_replies=1",
    "dpo.max_pairs=2",
    "evaluation.situations=2",
    "evaluation.selfplay.shard_size=2",
    "evaluation.selfplay.max_turns=2",
    "evaluation.selfplay.sampling.max_new_tokens=32",
    "steering_report.situations=1",
    "steering_report.draws=1",
    "steering_report.max_new_tokens=8",
    "benchmarks.tasks=[]",
]
SHARDS = 1000
SHARD_BYTES = 64 * 1024
MOST_S = 60


@dataclass(frozen=True, kw_only=True)
class Shard(Step):
    """A shard that writes its bytes and does nothing else."""

    name = "shard"
    number: int

    def run(self, folder: Path, context: Context) -> None:
        (folder / "shard").write_bytes(self.number.to_bytes(4, "big") * (SHARD_BYTES // 4))


def main() -> None:
    benchmark = Benchmark("orchestration")
    recorded_s = steps_of_the_last_demo()
    with tempfile.TemporaryDirectory() as name:
        demo(benchmark, Path(name) / "demo", recorded_s)
        cached_shards(benchmark, Path(name) / "shards")
    benchmark.finish()


def steps_of_the_last_demo() -> float:
    """Seconds that its steps took together.

    Raises:
        ConfigError: the home has no finished run of the demo's preset.
    """
    for run in runs.finished():
        if from_preset(run.config) == ("demo", []):
            return sum(each.seconds for each in usage.of_run(run.folder).values())
    raise ConfigError(f"'{store().root.parent}' has no finished demo; run `make demo` first")


def demo(benchmark: Benchmark, home: Path, recorded_s: float) -> None:
    """How much of the demo's time is spent outside its steps."""
    seconds, made = timed(run_demo, home)
    manifests = [read_json(path) for path in (home / "artifacts").glob("*/*/manifest.json")]
    outside = seconds - sum(manifest["cost"]["seconds"] for manifest in manifests)
    share = outside / (outside + recorded_s)
    benchmark.add(
        f"a run shaped like the demo, {made} stages and shards: s outside the steps; their share, "
        "with the demo's steps",
        f"{outside:.0f} s",
        f"{recorded_s:.0f} s (the demo's steps alone)",
        f"{share:.1%}",
        f"at most {MOST_SHARE:.0%}",
        share <= MOST_SHARE,
    )


def run_demo(home: Path) -> int:
    """`sage run --preset demo` with little work, in a fresh home; how many stages it made."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "flows.cli", "run", "--preset", "demo", "--json"),
            *(part for each in LITTLE_WORK for part in ("--set", each)),
        ],
        cwd=ROOT,
        env={**os.environ, "SAGE_HOME": str(home)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return len(json.loads(done.stdout)["made"])


def cached_shards(benchmark: Benchmark, home: Path) -> None:
    """How long a run takes to pass over shards that are finished."""
    alone(pass_over, home, make_side_by_side)
    baseline = alone(look_up, home)
    for how, make in (
        ("one at a time", make_one_at_a_time),
        ("side by side", make_side_by_side),
    ):
        seconds = alone(pass_over, home, make)
        benchmark.add(
            f"{SHARDS:,} cached shards passed over, {how}: s",
            f"{seconds:.1f} s",
            f"{baseline:.1f} s (the store alone)",
            f"{seconds / SHARDS * 1000:.0f} ms a shard",
            f"under {MOST_S} s",
            seconds < MOST_S,
        )


def shards() -> list[Shard]:
    return [Shard(number=number) for number in range(SHARDS)]


def make_one_at_a_time() -> None:
    from tasks.caching import make

    for number, shard in enumerate(shards()):
        make(shard, str(number))


def make_side_by_side() -> None:
    from tasks.caching import make_all

    make_all(shards())


def pass_over(home: Path, make: Callable[[], None]) -> float:
    """Seconds that a flow takes for all shards, in a process of its own."""
    os.environ["SAGE_HOME"] = str(home)
    from flows import environment

    environment.prepare(quiet=True)
    from prefect import flow

    from flows.runners import Runner, task_runner

    @flow(name="cached-shards", task_runner=task_runner(Runner.threads))
    def cached_shards() -> float:
        seconds, _ = timed(make)
        return seconds

    return cached_shards()


def look_up(home: Path) -> float:
    """Seconds to find all shards in the store, whole."""
    os.environ["SAGE_HOME"] = str(home)
    from tasks.making import make

    seconds, _ = timed(lambda: [make(shard) for shard in shards()])
    return seconds


if __name__ == "__main__":
    main()
