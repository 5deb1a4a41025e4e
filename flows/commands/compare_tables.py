"""What ``sage compare`` prints."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Column, Table

from flows.commands.tables import with_interval
from sage_core.config.differences import run_name
from sage_core.storage import MANIFEST

if TYPE_CHECKING:
    from sage_core.evaluation.comparison import Comparison
    from sage_core.evaluation.winrate import PairSummary
    from tasks.runs import RecordedRun

_MEASURES = {
    "reply_words": ("words", "{:.1f}"),
    "question_rate": ("questions", "{:.0%}"),
    "situation_recovery": ("found by m0", "{:.0%}"),
    "situation_recovery_embedding": ("by embeddings", "{:.0%}"),
    "loglik_m0": ("nats per token", "{:.2f}"),
}


def listed(run: "RecordedRun") -> dict[str, Any]:
    """A run of the home in a few words."""
    made = (run.folder / MANIFEST).stat().st_mtime
    return {
        "run": run.folder.name,
        "made": time.strftime("%Y-%m-%d %H:%M", time.localtime(made)),
        "settings": run_name(run.config),
        "models": run.models,
    }


def run_table(runs: Sequence["RecordedRun"]) -> Table:
    """The finished runs of the home."""
    table = Table("run", "made", Column("settings", overflow="fold"), "models", box=box.SIMPLE_HEAD)
    for run in runs:
        found = listed(run)
        table.add_row(
            found["run"][:8], found["made"], found["settings"], ", ".join(found["models"])
        )
    return table


def as_dict(result: "Comparison") -> dict[str, Any]:
    """The comparison as JSON values."""
    return {
        "runs": [
            {
                "name": run.name,
                "settings": run.title,
                "report": run.place,
                "win_rates": [asdict(each) for each in run.summaries],
                "quality": asdict(run.quality),
                "costs": {stage: asdict(cost) for stage, cost in run.costs.items()},
                "total": asdict(run.total),
            }
            for run in result.runs
        ],
        "settings": [asdict(each) for each in result.settings],
        "changes": {
            run: {
                model: {measure: asdict(change) for measure, change in changes.items()}
                for model, changes in models.items()
            }
            for run, models in result.changes.items()
        },
        "across": [asdict(each) for each in result.across],
        "findings": [each.text for each in result.findings],
    }


def all_tables(result: "Comparison") -> list[Table | str]:
    """The comparison in tables, what was judged across runs first."""
    parts: list[Table | str] = [f"{run.name}: {run.title}" for run in result.runs]
    if result.across:
        parts += [each.text for each in result.findings]
    return [*parts, _settings(result), _models(result), _pairs(result), _costs(result)]


def _settings(result: "Comparison") -> Table:
    table = Table(
        Column("setting", overflow="fold"),
        *(Column(run.name, overflow="fold") for run in result.runs),
        title="Settings that differ", box=box.SIMPLE_HEAD,
    )  # fmt: skip
    for each in result.settings:
        table.add_row(f"{each.key}{' (no effect)' if each.runtime else ''}", *each.values)
    if not result.settings:
        table.add_row("none", *("" for _ in result.runs))
    return table


def _models(result: "Comparison") -> Table:
    table = Table(
        "model", "run", *(title for title, _ in _MEASURES.values()),
        title="Models, without a judge", box=box.SIMPLE_HEAD,
        caption=f"The same in all runs: {', '.join(result.same)}" if result.same else None,
    )  # fmt: skip
    for model in result.shown:
        for run in result.runs:
            figures = {name: run.figure(model, name) for name in _MEASURES}
            if any(figures.values()):
                table.add_row(
                    model,
                    run.name,
                    *(
                        with_interval(asdict(figure), form) if figure else "-"
                        for figure, (_, form) in zip(
                            figures.values(), _MEASURES.values(), strict=True
                        )
                    ),
                )
    return table


def _pairs(result: "Comparison") -> Table:
    table = Table(
        "judge", "A - B", "run", "n", "A / tie / B", "B - A [95%]", "p (Holm)",
        title="Pairwise judging", box=box.SIMPLE_HEAD,
    )  # fmt: skip
    for pair in result.across:
        table.add_row(*_pair(pair, "across"))
    for judge in result.judges:
        for models in result.pairs:
            for run in result.runs:
                if found := result.summary(run, judge, models):
                    table.add_row(*_pair(found, run.name))
    return table


def _pair(pair: "PairSummary", run: str) -> list[str]:
    value = (pair.wins_b - pair.wins_a) / pair.n if pair.n else None
    difference = {"value": value, "ci_low": pair.ci_low, "ci_high": pair.ci_high}
    return [
        pair.judge,
        f"{pair.model_a} - {pair.model_b}",
        run,
        str(pair.n),
        f"{pair.wins_a} / {pair.ties} / {pair.wins_b}",
        with_interval(difference, "{:+.2f}"),
        "-" if pair.p_holm is None else f"{pair.p_holm:.3f}",
    ]


def _costs(result: "Comparison") -> Table:
    table = Table(
        "run", *(Column(name, justify="right") for name in ("seconds", "tokens read", "written")),
        title="Costs of all stages", box=box.SIMPLE_HEAD,
    )  # fmt: skip
    for run in result.runs:
        total = run.total
        table.add_row(run.name, f"{total.seconds:,.0f}", f"{total.read:,}", f"{total.written:,}")
    return table
