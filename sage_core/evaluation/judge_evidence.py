"""All that tells how far the verdicts of a run can be believed, and what they say together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from sage_core.evaluation.agreement import (
    Agreement,
    FamilyGap,
    JudgeAgreement,
    between_judges,
    family_gaps,
    krippendorff,
    position_consistency,
)
from sage_core.evaluation.calibration import Calibration
from sage_core.evaluation.length_control import LengthControlled, length_control
from sage_core.evaluation.metrics import Rate
from sage_core.evaluation.outcomes import by_pair
from sage_core.evaluation.ranking import Ranking, rank, unknown_models, verdict_table
from sage_core.evaluation.soft import SoftSummary, soft_summaries
from sage_core.evaluation.styles import Styles
from sage_core.evaluation.winrate import PairSummary, situations_needed
from sage_core.schema import Judgement


@dataclass(frozen=True)
class JudgeEvidence:
    """What the report says of the judges of a run.

    Attributes:
        rankings: Bradley and Terry's scores of each judge; ``styled``: at equal styles.
        lengths: length-controlled win rates.
        soft: soft verdicts, where judges were asked for them.
        consistency: judge -> items whose two orders have the same verdict.
        needed: judge -> situations to tell 5% of the items from none; None where none was decided.
        agreement: of every two judges; ``alpha``: of all.
        families: judge -> family of its model; ``selector``: that of the selector, '' = no model.
        gaps: of the pairs, between judges of the selector's family and the others.
        unknown: judge -> models that it judged and that have no conversations.
        calibrations: of each judge, against people.
    """

    rankings: tuple[Ranking, ...] = ()
    styled: tuple[Ranking, ...] = ()
    lengths: tuple[LengthControlled, ...] = ()
    soft: tuple[SoftSummary, ...] = ()
    consistency: dict[str, Rate] = field(default_factory=dict)
    needed: dict[str, int | None] = field(default_factory=dict)
    agreement: tuple[JudgeAgreement, ...] = ()
    alpha: Agreement | None = None
    families: dict[str, str] = field(default_factory=dict)
    selector: str = ""
    gaps: tuple[FamilyGap, ...] = ()
    unknown: dict[str, list[str]] = field(default_factory=dict)
    calibrations: tuple[Calibration, ...] = ()

    @property
    def judges(self) -> list[str]:
        """All judges, in order of appearance."""
        ranked = [each.judge for each in self.rankings]
        calibrated = [each.judge for each in self.calibrations]
        told = (ranked, calibrated, self.consistency, self.families)
        return list(dict.fromkeys(name for names in told for name in names))

    def own_family(self, judge: str) -> bool:
        """Whether a judge is of the selector's family."""
        return bool(self.selector) and self.families.get(judge) == self.selector

    def calibrated(self, judge: str) -> Calibration | None:
        """The judge against people."""
        return next((each for each in self.calibrations if each.judge == judge), None)


def judge_evidence(
    judgements: Sequence[Judgement],
    summaries: Sequence[PairSummary],
    styles: Mapping[str, Styles],
    *,
    families: Mapping[str, str] | None = None,
    selector: str = "",
    calibrations: Sequence[Calibration] = (),
    seed: int = 0,
) -> JudgeEvidence:
    """Put together what the judgements of a run say of its judges.

    Args:
        styles: model -> the styles of its conversations, in the order of the models; without any,
            lengths and styles are not controlled for.
    """
    pairs = by_pair(judgements)
    verdicts = verdict_table(pairs)
    several = len({judge for judge, _, _ in pairs}) > 1
    return JudgeEvidence(
        rankings=tuple(rank(verdicts, list(styles))),
        styled=tuple(rank(verdicts, list(styles), styles=styles)) if styles else (),
        lengths=tuple(length_control(pairs, styles)),
        soft=tuple(soft_summaries(pairs)),
        consistency=position_consistency(pairs),
        needed=situations_needed(summaries),
        agreement=tuple(between_judges(pairs)),
        alpha=krippendorff(pairs, seed) if several else None,
        families=dict(families or {}),
        selector=selector,
        gaps=tuple(family_gaps(pairs, families or {}, selector)),
        unknown=unknown_models(pairs, styles) if styles else {},
        calibrations=tuple(calibrations),
    )


def judged_figures(evidence: JudgeEvidence) -> dict[str, dict[str, float]]:
    """Model -> its figures, by the names that MLflow shows them under."""
    found: dict[str, dict[str, float]] = {}
    for each in evidence.rankings:
        for model, score in each.models.items():
            found.setdefault(model, {})[f"bradley_terry.{each.judge}"] = score.value
    for pair in evidence.lengths:
        if pair.controlled is not None:
            name = f"length_controlled.{pair.judge}.vs_{pair.model_a}"
            found.setdefault(pair.model_b, {})[name] = pair.controlled
    return found


def read_evidence(record: Any) -> JudgeEvidence:
    """Read it back from JSON."""
    return TypeAdapter(JudgeEvidence).validate_python(record)
