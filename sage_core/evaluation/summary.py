"""What the report says of a run, put together from the artefacts of its stages."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from pydantic import TypeAdapter

from sage_core.answers.tally import joined
from sage_core.config.model import EMBEDDED_MODEL
from sage_core.config.pipeline import PipelineConfig
from sage_core.corpus.records import FunnelStep
from sage_core.evaluation.annotations import AnnotationFigures
from sage_core.evaluation.classifiers import ClassifierFigures
from sage_core.evaluation.judge_evidence import JudgeEvidence
from sage_core.evaluation.metrics import ModelMetrics, Rate
from sage_core.evaluation.quality import Quality
from sage_core.evaluation.report import CollapseReport, ReportData
from sage_core.evaluation.steering import SteeringEvidence
from sage_core.evaluation.tournament import Design
from sage_core.evaluation.winrate import PairSummary
from sage_core.schema import SearchNode, Trajectory
from sage_core.search.figures import SearchFigures

_SHOWN_SITUATIONS = 4
_EMBEDDED = (
    "The embedded base model has 135 million parameters. It shows that every stage works and what "
    "its output looks like; its annotations, selections and conversations are weak, and bigger "
    "models are needed to see the paper's effects."
)


def report_data(
    config: PipelineConfig,
    *,
    funnel: Sequence[FunnelStep],
    dialogues: int,
    annotation: Any,
    probe: Mapping[str, Any],
    searches: Sequence[SearchFigures],
    search_tree: Sequence[SearchNode],
    parents: Mapping[str, str],
    collapse: Mapping[str, Any],
    losses: dict[str, list[tuple[int, float]]],
    rollouts: Mapping[str, Sequence[Trajectory]],
    win_rates: Mapping[str, Any],
    judges: JudgeEvidence,
    answers: Sequence[dict[str, Any]],
    metrics: Sequence[Any],
    quality: Quality | None,
    steering: Any,
    benchmarks: Any = None,
    empathy: Sequence[Any] = (),
    classified: Sequence[ClassifierFigures] = (),
) -> ReportData:
    """Read the stages' JSON back into records and choose what is shown of the conversations."""
    rates = TypeAdapter(dict[str, Rate])
    return ReportData(
        title=f"{config.name}: {' → '.join(rollouts)}",
        facts=_facts(config, dialogues, rollouts),
        notes=_notes(config),
        funnel=funnel,
        annotation=TypeAdapter(AnnotationFigures).validate_python(annotation),
        models=tuple(TypeAdapter(list[ModelMetrics]).validate_python(metrics)),
        lineage={name: lineage(name, parents.get(name, "")) for name in rollouts},
        losses=losses,
        summaries=tuple(TypeAdapter(list[PairSummary]).validate_python(win_rates["pairs"])),
        position_bias=rates.validate_python(win_rates["position_bias"]),
        design=TypeAdapter(Design).validate_python(win_rates["design"]),
        judges=judges,
        answers=joined(answers),
        grammar_probe=rates.validate_python(probe),
        dialogues=_side_by_side(rollouts),
        searches=tuple(searches),
        search_tree=tuple(search_tree),
        quality=quality,
        collapse=TypeAdapter(dict[str, CollapseReport]).validate_python(collapse),
        steering=read_steering(steering) if steering else None,
        benchmarks=benchmarks,
        empathy=tuple(empathy),
        classified=tuple(classified),
        config_yaml=yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False),
    )


def read_steering(evidence: Any) -> SteeringEvidence:
    """Read the evidence on steering back from JSON."""
    return TypeAdapter(SteeringEvidence).validate_python(evidence)


def steering_data(config: PipelineConfig, evidence: SteeringEvidence) -> ReportData:
    """What the page of ``sage steer report`` shows."""
    return ReportData(
        title=f"Steering {evidence.model}",
        facts={
            "Model": evidence.model,
            "Held-out situations": str(evidence.situations),
            "Draws per situation and boost": str(evidence.draws),
            "Seed": str(evidence.seed),
        },
        notes=(_EMBEDDED,) if config.model.base == EMBEDDED_MODEL else (),
        steering=evidence,
        config_yaml=yaml.safe_dump(
            {
                "steering_report": config.steering_report.model_dump(mode="json"),
                "evaluation": {"selfplay": config.evaluation.selfplay.model_dump(mode="json")},
            },
            sort_keys=False,
        ),
    )


def lineage(model: str, parent: str) -> str:
    """How a model was made from ``parent``, in one line."""
    if model == "m0":
        return "the base model, as it came"
    if model == "raw":
        return "m0 + LoRA on the dialogues without states"
    if model == "m1":
        return "m0 + LoRA on the dialogues with State-Action Chains"
    if model == "challenger":
        return f"{parent} + LoRA on new and old dialogues, one round of search, and DPO"
    if model == "dpo":
        return f"{parent} + DPO on chosen against rejected candidates"
    return f"{parent} + LoRA on the trajectories that search selected with {parent}"


def _facts(
    config: PipelineConfig, dialogues: int, rollouts: Mapping[str, Sequence[Trajectory]]
) -> dict[str, str]:
    held_out = len(next(iter(rollouts.values())))
    return {
        "Base model": config.model.base,
        "Training dialogues": f"{dialogues}, from {config.corpus.reader}",
        "Refinement rounds": str(sum(name.startswith("m") for name in rollouts) - 2),
        "Search": f"{config.search.strategy}, {config.search.candidates} candidates",
        "Held-out situations": str(held_out),
        "Turns per judged conversation": f"up to {config.evaluation.selfplay.max_turns}",
        "Judges": ", ".join(judge.name for judge in config.evaluation.judges),
        "Seed": str(config.seed),
    }


def _notes(config: PipelineConfig) -> tuple[str, ...]:
    notes = []
    of_base = [j.name for j in config.evaluation.judges if j.engine.traits.is_m0]
    if config.model.base == EMBEDDED_MODEL:
        notes.append(_EMBEDDED)
        if of_base:
            notes.append(
                f"The judge ({', '.join(of_base)}) is this same small model. Its verdicts are "
                "hardly better than chance and depend mostly on which conversation is shown "
                "first, so read the table for its form, its n and its intervals, not as evidence "
                "that one model is better."
            )
    elif of_base:
        notes.append(
            f"The judge ({', '.join(of_base)}) is the base model itself; compare with a judge "
            "of another family."
        )
    return tuple(notes)


def _side_by_side(
    rollouts: Mapping[str, Sequence[Trajectory]],
) -> tuple[dict[str, Trajectory], ...]:
    by_situation: dict[str, dict[str, Trajectory]] = {}
    for model, trajectories in rollouts.items():
        for trajectory in trajectories:
            by_situation.setdefault(trajectory.situation_id, {})[model] = trajectory
    return tuple(list(by_situation.values())[:_SHOWN_SITUATIONS])
