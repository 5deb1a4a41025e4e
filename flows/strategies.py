"""The table of `sage search --compare-strategies`."""

from collections.abc import Sequence
from dataclasses import asdict

from rich import box
from rich.table import Column, Table

from flows.intervals import with_interval
from sage_core.search.comparison import StrategyRow


def strategy_table(rows: Sequence[StrategyRow]) -> Table:
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
