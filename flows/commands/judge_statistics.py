"""What ``sage judge stats`` prints below its win-rate table."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from flows.commands.output import out
from flows.commands.tables import (
    length_table,
    missing_orders,
    ranking_table,
    win_rate_table,
    with_interval,
)
from sage_core.errors import DataError
from sage_core.evaluation.judge_evidence import JudgeEvidence, judge_evidence
from sage_core.evaluation.styles import Styles, styles_of
from sage_core.evaluation.winrate import PairSummary
from sage_core.schema import Judgement, Trajectory
from sage_core.storage import read_rows


def print_statistics(
    rows: Sequence[Judgement], summaries: Sequence[PairSummary], rollouts: Sequence[str]
) -> None:
    """The tables of judgements; ``rollouts`` are ``MODEL=FILE``.

    Raises:
        DataError: one of the rollouts is not of that form or cannot be read.
    """
    evidence = judge_evidence(rows, summaries, _styles(rollouts))
    pairs = [asdict(row) for row in summaries]
    out.print(win_rate_table(pairs))
    for line in (*missing_orders(pairs), *_about_judges(evidence)):
        out.print(line, highlight=False)
    if evidence.rankings:
        out.print(ranking_table(evidence.rankings, "Bradley-Terry scores, in nats"))
    if evidence.styled:
        out.print(ranking_table(evidence.styled, "Bradley-Terry scores at equal style, in nats"))
    if evidence.lengths:
        out.print(length_table(evidence.lengths))


def _styles(rollouts: Sequence[str]) -> dict[str, Styles]:
    found = {}
    for each in rollouts:
        model, _, path = each.partition("=")
        if not model or not path:
            raise DataError(f"--rollouts {each}: give MODEL=FILE, such as m1=trajectories.parquet")
        found[model] = styles_of(read_rows(Path(path), Trajectory))
    return found


def _about_judges(evidence: JudgeEvidence) -> list[str]:
    """One line for each thing that is known of the judges."""
    lines = [
        f"{judge}: the same verdict in both orders {with_interval(asdict(rate), '{:.0%}')} of "
        f"{rate.n:,} items; situations to tell 5% of the items from none: "
        f"{evidence.needed.get(judge) or '-'}"
        for judge, rate in evidence.consistency.items()
    ]
    lines += [
        f"{each.judge_a} and {each.judge_b}: the same outcome "
        f"{with_interval(asdict(each.same), '{:.0%}')} of {each.same.n:,} items, Cohen's kappa "
        f"{with_interval(asdict(each.kappa), '{:.2f}')}"
        for each in evidence.agreement
    ]
    if evidence.alpha is not None:
        lines.append(f"Krippendorff's alpha {with_interval(asdict(evidence.alpha), '{:.2f}')}")
    lines += [
        f"{each.judge}, {each.model_a} - {each.model_b}: soft verdict "
        f"{with_interval(asdict(each.log_odds), '{:+.2f}')} nats of {each.n:,} items"
        for each in evidence.soft
    ]
    lines += [
        f"{judge} judged models without --rollouts: {', '.join(models)}"
        for judge, models in evidence.unknown.items()
    ]
    return lines
