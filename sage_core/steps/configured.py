"""From the configuration of a run to its steps: which section and which seed each is given.

The pipeline makes these steps, single stages make them of files, a plan runs them on placeholders.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from sage_core.config.evaluation import ClassifierConfig
from sage_core.config.pipeline import PipelineConfig
from sage_core.evaluation.families import judge_families, selector_family
from sage_core.schema import Split
from sage_core.steps.annotation import AnnotateShard, SituationScores
from sage_core.steps.base import Model
from sage_core.steps.benchmark import Benchmark
from sage_core.steps.benchmarks import Benchmarks
from sage_core.steps.calibration import CalibrateJudge
from sage_core.steps.chain_text import ChainText
from sage_core.steps.classifying import Classify
from sage_core.steps.collapse import CollapseMetrics
from sage_core.steps.dpo import Dpo
from sage_core.steps.empathy import Empathy
from sage_core.steps.figures import Figures
from sage_core.steps.judged import Judge
from sage_core.steps.judging import JudgePair
from sage_core.steps.measurements import Measurements, Quality
from sage_core.steps.model_trial import ModelTrial
from sage_core.steps.probe import GrammarProbe
from sage_core.steps.rollout import RolloutShard
from sage_core.steps.search import SearchShard
from sage_core.steps.selected import Preferences, SelectedDialogues
from sage_core.steps.sft import Sft
from sage_core.steps.situations import Situations
from sage_core.steps.speaking import Speaking
from sage_core.steps.steering import SteeringEvidence
from sage_core.storage import ArtifactRef
from sage_core.trial import libraries


def model_trial(config: PipelineConfig, m0: Model) -> ModelTrial:
    """m0 in use, under the libraries that are installed."""
    return ModelTrial(
        base=m0.base,
        model=config.model,
        lora=config.lora,
        training=config.training,
        libraries=libraries(),
    )


def annotate_shard(
    config: PipelineConfig, dialogues: ArtifactRef, m0: Model, shard: int
) -> AnnotateShard:
    return AnnotateShard(
        dialogues=dialogues,
        annotator=m0,
        settings=config.annotation,
        model=config.model,
        shard=shard,
        seed=config.seed,
    )


def situation_scores(config: PipelineConfig, situations: ArtifactRef, m0: Model) -> SituationScores:
    return SituationScores(
        situations=situations,
        annotator=m0,
        settings=config.annotation,
        model=config.model,
        seed=config.seed,
    )


def chain_text(
    config: PipelineConfig, annotated: ArtifactRef, source: str, *, states: bool
) -> ChainText:
    return ChainText(
        annotated=annotated,
        states=states,
        settings=config.mixture,
        conversation=config.conversation,
        source=source,
        seed=config.seed,
    )


def sft(config: PipelineConfig, checkpoint: str, text: ArtifactRef, parent: Model) -> Sft:
    """A first training of m0, or a refinement of another model."""
    return Sft(
        checkpoint=checkpoint,
        dialogues=text,
        parent=parent,
        settings=config.refine.sft if parent.adapter else config.sft,
        lora=config.lora,
        training=config.training,
        model=config.model,
        seed=config.seed,
    )


def selected_dialogues(config: PipelineConfig, searched: ArtifactRef) -> SelectedDialogues:
    return SelectedDialogues(trajectories=searched, profile=config.conversation.agent)


def preferences(config: PipelineConfig, searched: Sequence[ArtifactRef]) -> Preferences:
    return Preferences(
        trajectories=tuple(searched),
        profile=config.conversation.agent,
        rejected=config.dpo.rejected,
        max_pairs=config.dpo.max_pairs,
        seed=config.seed,
    )


def dpo(config: PipelineConfig, pairs: ArtifactRef, parent: Model) -> Dpo:
    return Dpo(
        pairs=pairs,
        parent=parent,
        settings=config.dpo,
        lora=config.lora,
        training=config.training,
        model=config.model,
        seed=config.seed,
    )


def situations(config: PipelineConfig, split: Split, limit: int, source: str) -> Situations:
    return Situations(settings=config.situations, split=split, limit=limit, source=source)


def search_shard(
    config: PipelineConfig,
    agent: Model,
    user: Model,
    openings: ArtifactRef,
    shard: int,
    source: str,
) -> SearchShard:
    return SearchShard(
        agent=agent,
        user=user,
        situations=openings,
        settings=config.search,
        conversation=config.conversation,
        model=config.model,
        shard=shard,
        seed=config.seed,
        source=source,
    )


def rollout_shard(
    config: PipelineConfig, agent: Model, user: Model, held_out: ArtifactRef, shard: int
) -> RolloutShard:
    return RolloutShard(
        agent=agent,
        user=user,
        situations=held_out,
        settings=config.evaluation.selfplay,
        conversation=config.conversation,
        model=config.model,
        shard=shard,
        seed=config.seed,
    )


def grammar_probe(config: PipelineConfig, agent: Model, openings: ArtifactRef) -> GrammarProbe:
    return GrammarProbe(
        agent=agent,
        situations=openings,
        settings=config.search,
        profile=config.conversation.agent,
        model=config.model,
        seed=config.seed,
    )


def measurements(
    config: PipelineConfig, agent: Model, rollouts: ArtifactRef, scorer: str
) -> Measurements:
    return Measurements(
        of=agent.name,
        m0=agent.m0,
        rollouts=rollouts,
        settings=config.evaluation.quality,
        engine=config.evaluation.selfplay.agent_engine,
        model=config.model,
        scorer=scorer,
        seed=config.seed,
    )


def quality(config: PipelineConfig, measured: Sequence[ArtifactRef]) -> Quality:
    return Quality(
        measured=tuple(measured),
        bootstrap_samples=config.evaluation.bootstrap_samples,
        seed=config.seed,
    )


def classify(
    config: PipelineConfig,
    settings: ClassifierConfig,
    source: str,
    rollouts: dict[str, ArtifactRef],
) -> Classify:
    return Classify(
        settings=settings,
        source=source,
        device=config.model.device,
        rollouts=rollouts,
        bootstrap_samples=config.evaluation.bootstrap_samples,
        seed=config.seed,
    )


def collapse_metrics(
    config: PipelineConfig, agent: Model, rollouts: ArtifactRef, measured: ArtifactRef
) -> CollapseMetrics:
    return CollapseMetrics(
        agent=agent,
        rollouts=rollouts,
        measured=measured,
        settings=config.refine.gates,
        speaking=_speaking(config),
        seed=config.seed,
    )


def judge_pair(
    config: PipelineConfig,
    judge: Judge,
    pair: tuple[str, str],
    rollouts: Mapping[str, ArtifactRef],
    m0: Model,
    situations: int = 0,
) -> JudgePair:
    a, b = pair
    return JudgePair(
        model_a=a,
        model_b=b,
        rollouts_a=rollouts[a],
        rollouts_b=rollouts[b],
        m0=m0,
        judge=judge,
        situations=situations,
        seed=config.seed,
    )


def calibrate_judge(
    config: PipelineConfig, judge: Judge, human: Path, source: str, m0: Model
) -> CalibrateJudge:
    return CalibrateJudge(
        path=human,
        source=source,
        items=config.evaluation.human_items,
        m0=m0,
        judge=judge,
        seed=config.seed,
    )


def figures(
    config: PipelineConfig,
    judgements: ArtifactRef,
    rollouts: dict[str, ArtifactRef],
    calibrations: Sequence[ArtifactRef] = (),
) -> Figures:
    return Figures(
        judgements=judgements,
        rollouts=rollouts,
        calibrations=tuple(calibrations),
        families=judge_families(config),
        selector=selector_family(config),
        pairs=config.evaluation.pairs,
        interval_width=config.evaluation.interval_width,
        seed=config.seed,
    )


def benchmark(
    config: PipelineConfig, agent: Model, task: str, source: str, harness: str
) -> Benchmark:
    return Benchmark(
        agent=agent,
        task=task,
        settings=config.benchmarks,
        model=config.model,
        source=source,
        harness=harness,
    )


def benchmarks(
    config: PipelineConfig, parts: Sequence[ArtifactRef], baseline: str, left_out: dict[str, str]
) -> Benchmarks:
    return Benchmarks(
        parts=tuple(parts), baseline=baseline, limit=config.benchmarks.limit, left_out=left_out
    )


def empathy(config: PipelineConfig, agent: Model, situations: ArtifactRef) -> Empathy:
    return Empathy(
        agent=agent,
        situations=situations,
        settings=config.empathy,
        speaking=_speaking(config),
        seed=config.seed,
    )


def labelled_situations(config: PipelineConfig, source: str) -> Situations:
    """The situations whose emotions are to be found."""
    settings = config.situations
    if config.empathy.path is not None:
        settings = settings.model_copy(update={"path": config.empathy.path})
    limit = config.empathy.situations
    return Situations(settings=settings, split="evaluation", limit=limit, source=source)


def steering_evidence(
    config: PipelineConfig, agent: Model, situations: ArtifactRef
) -> SteeringEvidence:
    return SteeringEvidence(
        agent=agent,
        situations=situations,
        settings=config.steering_report,
        speaking=_speaking(config),
        seed=config.seed,
    )


def _speaking(config: PipelineConfig) -> Speaking:
    return Speaking(
        selfplay=config.evaluation.selfplay, profile=config.conversation.agent, model=config.model
    )
