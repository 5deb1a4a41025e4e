"""The table of `sage search --compare-strategies`."""

from collections.abc import Sequence
from dataclasses import asdict

from rich import box
from rich.table import Table

from flows.intervals import with_interval
from sage_core.search.comparison import StrategyRow


def strategy_table(rows: Sequence[StrategyRow]) -> Table:
    """Strategies at the same number of tokens, each judged against greedy."""
    table = Table(
        "strategy", "dialogues", "tokens", "turns", "words per reply", "distinct pairs",
        "greedy", "tie", "this", "this - greedy [95%]",
        title="Strategies at the same number of generated tokens", box=box.SIMPLE_HEAD,
    )  # fmt: skip
    for row in rows:
        judged = ["-"] * 4
        if row.against_greedy is not None and row.against_greedy.n:
            pair = row.against_greedy
            difference = {
                "value": (pair.wins_b - pair.wins_a) / pair.n,
                "ci_low": pair.ci_low,
                "ci_high": pair.ci_high,
            }
            judged = [
                *(str(count) for count in (pair.wins_a, pair.ties, pair.wins_b)),
                with_interval(difference, "{:+.2f}"),
            ]
        table.add_row(
            row.strategy,
            str(row.dialogues),
            f"{row.generated_tokens:,}",
            with_interval(asdict(row.turns), "{:.1f}"),
            with_interval(asdict(row.reply_words), "{:.1f}"),
            "-" if row.distinct_2 is None else f"{row.distinct_2:.2f}",
            *judged,
        )
    return table
