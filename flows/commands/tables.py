"""The tables of models, strategies and verdicts in the terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Column, Table

SIGNIFICANCE = 0.05

if TYPE_CHECKING:
    from sage_core.evaluation.calibration import Calibration
    from sage_core.evaluation.length_control import LengthControlled
    from sage_core.evaluation.ranking import Ranking
    from sage_core.search.comparison import StrategyRow


def with_interval(value: Mapping[str, Any], form: str) -> str:
    """``value`` and its 95% interval, each in ``form``; "-" where nothing was counted."""
    if value["value"] is None:
        return "-"
    text = form.format(value["value"])
    if value["ci_low"] is None:
        return text
    return f"{text} [{form.format(value['ci_low'])}, {form.format(value['ci_high'])}]"


def p_text(value: float | None) -> str:
    """A p-value with three decimals; none is shown as zero."""
    if value is None:
        return "-"
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def strategy_table(rows: Sequence["StrategyRow"]) -> Table:
    """Strategies at the same number of tokens, each judged against greedy."""
    table = Table(
        Column("strategy", overflow="fold"), "dialogues", "tokens", "words per reply",
        Column("asks", overflow="fold"), "greedy / tie / this", "this - greedy [95%]",
        title="Strategies at the same number of generated tokens", box=box.SIMPLE_HEAD,
    )  # fmt: skip
    for row in rows:
        verdicts, difference = "-", "-"
        if row.against_greedy is not None and row.against_greedy.n:
            pair = row.against_greedy
            verdicts = f"{pair.wins_a} / {pair.ties} / {pair.wins_b}"
            share = (pair.wins_b - pair.wins_a) / pair.n
            interval = {"value": share, "ci_low": pair.ci_low, "ci_high": pair.ci_high}
            difference = with_interval(interval, "{:+.2f}")
        table.add_row(
            row.strategy,
            str(row.dialogues),
            f"{row.generated_tokens:,}",
            with_interval(asdict(row.reply_words), "{:.1f}"),
            with_interval(asdict(row.questions), "{:.0%}"),
            verdicts,
            difference,
        )
    return table


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
            *(p_text(pair[key]) for key in ("p_value", "p_holm")),
        )
    return table


def missing_orders(pairs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The pairs with items that lack an order, and the first of these items, one line each."""
    return [
        f"{pair['judge']}, {pair['model_a']} - {pair['model_b']}: {pair['missing']:,} items lack "
        f"an order: {'; '.join(pair['lacking'])}"
        f"{'; ...' if pair['missing'] > len(pair['lacking']) else ''}"
        for pair in pairs
        if pair["missing"]
    ]


def ranking_table(rankings: Sequence["Ranking"], title: str) -> Table:
    """The scores of all models by judge, with what being shown first adds."""
    models = list(dict.fromkeys(model for each in rankings for model in each.order))
    table = Table(
        Column("judge", overflow="fold"), *models, "shown first", "verdicts",
        title=title, box=box.SIMPLE_HEAD,
    )  # fmt: skip
    for each in rankings:
        shown = [asdict(each.models[m]) if m in each.models else None for m in models]
        table.add_row(
            each.judge,
            *("-" if score is None else with_interval(score, "{:+.2f}") for score in shown),
            with_interval(asdict(each.first), "{:+.2f}"),
            f"{each.verdicts:,}",
        )
    return table


def length_table(lengths: Sequence["LengthControlled"]) -> Table:
    """The share of items that goes to the second model, as judged and at equal lengths."""
    table = Table(
        "judge", "A - B", "n", "B as judged", "B at equal length",
        title="Win rates at equal length", box=box.SIMPLE_HEAD,
    )  # fmt: skip
    for each in lengths:
        controlled = {"value": each.controlled, "ci_low": each.ci_low, "ci_high": each.ci_high}
        table.add_row(
            each.judge, f"{each.model_a} - {each.model_b}", str(each.n), f"{each.rate:.0%}",
            with_interval(controlled, "{:.0%}"),
        )  # fmt: skip
    return table


def calibration_table(calibrations: Sequence["Calibration"]) -> Table:
    """How far each judge agrees with people."""
    table = Table(
        Column("judge", overflow="fold"), "items", "unparsed", "same choice", "same of three",
        "kappa", *calibrations[0].by_length, "two people",
        title="Judges and people", box=box.SIMPLE_HEAD,
    )  # fmt: skip
    for each in calibrations:
        table.add_row(
            each.judge,
            f"{each.items:,}",
            f"{each.unparsed:,}",
            *(with_interval(asdict(rate), "{:.0%}") for rate in (each.accuracy, each.same)),
            with_interval(asdict(each.kappa), "{:.2f}"),
            *(with_interval(asdict(rate), "{:.0%}") for rate in each.by_length.values()),
            with_interval(asdict(each.people), "{:.0%}"),
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


def benchmark_table(found: Mapping[str, Any]) -> Table:
    """The benchmarks of all models: value and standard error, and a star where the change against
    the baseline is beyond chance (Holm's p below 0.05)."""
    shown = {each["task"]: each["shown"] for each in found["tasks"]}
    sure = {
        (each["task"], each["metric"], each["model"])
        for each in found["changes"]
        if each["p_holm"] is not None and each["p_holm"] < SIGNIFICANCE
    }
    few = f", about the first {found['limit']} documents of each" if found["limit"] else ""
    table = Table(
        "model", *(each["title"] for each in found["tasks"]),
        title=f"Benchmarks{few}; * = another value than {found['baseline']}'s, beyond chance",
        box=box.SIMPLE_HEAD,
    )  # fmt: skip
    values = {(each["task"], each["metric"], each["model"]): each for each in found["scores"]}
    for model in found["models"]:
        cells = []
        for task, metric in shown.items():
            score = values[task, metric, model]
            error = "" if score["stderr"] is None else f" ± {score['stderr']:.3f}"
            star = " *" if (task, metric, model) in sure else ""
            cells.append(f"{score['value']:.3f}{error}{star}")
        table.add_row(model, *cells)
    return table
