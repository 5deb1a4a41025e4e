"""Run the pipeline from the command line and show what it made."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from flows.intervals import with_interval
from flows.pipeline import pipeline
from flows.runners import Runner, shared_server, task_runner
from sage_core.config.pipeline import PipelineConfig
from sage_core.steps.names import REPORT
from sage_core.steps.reading import read_figures, read_quality
from sage_core.storage import ArtifactRef
from tasks.caching import Cached, listen
from tasks.home import store
from tasks.progress import console


@dataclass(frozen=True)
class RunResult:
    """The artefacts of a run, its win rates and figures, what it measures without a judge, and the
    names of the stages that were made and of those that the cache had."""

    artifacts: dict[str, Any]
    win_rates: dict[str, Any]
    models: list[dict[str, Any]]
    quality: dict[str, Any]
    made: list[str]
    cached: list[str]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "artifacts": _plain(self.artifacts),
            "win_rates": self.win_rates,
            "models": self.models,
            "quality": self.quality,
            "made": self.made,
            "cached": self.cached,
            "seconds": round(self.seconds, 1),
        }

    def show(self, out: Console) -> None:
        """Print the tables and where the report is."""
        out.print(model_table(self.models))
        out.print(quality_table(self.quality))
        out.print(win_rate_table(self.win_rates["pairs"]))
        for judge, rate in self.win_rates["position_bias"].items():
            if rate["n"]:
                out.print(
                    f"judge {judge} named the conversation shown first in {rate['value']:.0%} of "
                    f"{rate['n']} verdicts [{rate['ci_low']:.0%}, {rate['ci_high']:.0%}]; "
                    "an unbiased judge: 50%"
                )
        report = store().folder(self.artifacts["report"]) / REPORT
        counts = f"{len(self.made)} stages made, {len(self.cached)} from the cache"
        out.print(f"{counts}, {self.seconds:.0f} s")
        out.print(f"report: {report}", soft_wrap=True, highlight=False)
        out.print("the run in Prefect and MLflow: sage ui")


def run_pipeline(config: PipelineConfig, runner: Runner = Runner.threads) -> RunResult:
    """Run the flow in this process, naming each stage as it ends."""
    start = time.monotonic()
    names = name_stages()
    with shared_server(runner):
        artifacts = pipeline.with_options(task_runner=task_runner(runner))(config)
    win_rates, models = read_figures(store().folder(artifacts["figures"]))
    quality = asdict(read_quality(store().folder(artifacts["quality"])))
    return RunResult(
        artifacts, win_rates, models, quality, names[False], names[True], time.monotonic() - start
    )


def name_stages() -> dict[bool, list[str]]:
    """Name each stage as it ends; returns the lists of those made (False) and of those that the
    cache had (True), which fill as they end."""
    names: dict[bool, list[str]] = {True: [], False: []}
    start = time.monotonic()

    def report_stage(name: str, cached: Cached) -> None:
        names[cached.hit].append(name)
        mark = "[dim]cached[/]" if cached.hit else "[green]made[/]  "
        cost = "" if cached.hit else f"[dim]{_cost(cached.ref)}[/]"
        console.print(f"{time.monotonic() - start:6.0f} s  {mark}  {name}{cost}", highlight=False)

    listen(report_stage)
    return names


def _cost(ref: ArtifactRef) -> str:
    """What the models of a stage read and wrote."""
    usages = store().manifest(ref)["cost"]["engines"].values()
    if not usages:
        return ""
    read, written = (
        sum(usage[f"{kind}_tokens"] for usage in usages) for kind in ("prompt", "completion")
    )
    return f"  {read:,} tokens read, {written:,} written"


def win_rate_table(pairs: Sequence[Mapping[str, Any]]) -> Table:
    """The win-rate table: each pair's wins with n, the difference with its interval, and p."""
    table = Table(
        title="Pairwise judging: items won in both orders",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    for heading in (
        "judge", "A - B", "n", "A", "tie", "B", "unparsed", "B - A [95%]", "p", "p (Holm)"
    ):  # fmt: skip
        table.add_column(heading, no_wrap=True)
    for pair in pairs:
        n = pair["n"]
        difference = "-"
        if n:
            value = (pair["wins_b"] - pair["wins_a"]) / n
            difference = f"{value:+.2f} [{pair['ci_low']:+.2f}, {pair['ci_high']:+.2f}]"
        table.add_row(
            pair["judge"],
            f"{pair['model_a']} - {pair['model_b']}",
            *(str(pair[key]) for key in ("n", "wins_a", "ties", "wins_b", "unparsed")),
            difference,
            *("-" if pair[key] is None else f"{pair[key]:.2f}" for key in ("p_value", "p_holm")),
        )
    return table


def model_table(models: Sequence[Mapping[str, Any]]) -> Table:
    """What the rollouts say of each model, with n and 95% intervals."""
    table = Table(
        "model", "replies", "words per reply", "questions", "emotion accuracy",
        title="Rollouts on held-out situations", box=box.SIMPLE_HEAD,
    )  # fmt: skip
    for model in models:
        table.add_row(
            model["model"],
            str(model["reply_words"]["n"]),
            with_interval(model["reply_words"], "{:.1f}"),
            with_interval(model["questions"], "{:.0%}"),
            with_interval(model["emotion_accuracy"], "{:.0%}"),
        )
    return table


_SHOWN = {
    "situation_recovery": ("found by m0", "{:.0%}"),
    "situation_recovery_embedding": ("by embeddings", "{:.0%}"),
    "loglik_m0": ("nats per token", "{:.2f}"),
    "cut_share": ("cut off", "{:.0%}"),
    "stray_braces": ("stray braces", "{:.0%}"),
}


def quality_table(quality: Mapping[str, Any]) -> Table:
    """What the rollouts say of each model without a judge, with 95% intervals."""
    compared = quality["compared"]
    chance = f" (by chance {1 / compared:.0%})" if compared else ""
    table = Table(
        "model", *(title for title, _ in _SHOWN.values()),
        title=f"Which of {compared} situations a first reply answers{chance}, and its text",
        box=box.SIMPLE_HEAD,
    )  # fmt: skip
    for model in quality["models"]:
        figures = model["figures"]
        table.add_row(
            model["model"],
            *(
                with_interval(figures[name], form) if name in figures else "-"
                for name, (_, form) in _SHOWN.items()
            ),
        )
    return table


def _plain(value: Any) -> Any:
    if isinstance(value, ArtifactRef):
        return asdict(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
