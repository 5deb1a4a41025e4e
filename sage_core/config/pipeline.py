"""The whole run."""

from typing import Any, Self

from pydantic import Field, model_validator

from sage_core.config.annotation import AnnotationConfig
from sage_core.config.benchmarks import BenchmarksConfig
from sage_core.config.budget import BudgetConfig
from sage_core.config.conversation import ConversationConfig, SituationsConfig
from sage_core.config.corpus import CorpusConfig
from sage_core.config.empathy import EmpathyConfig
from sage_core.config.engine import EngineConfig
from sage_core.config.evaluation import EvaluationConfig
from sage_core.config.mixture import MixtureConfig
from sage_core.config.model import ModelConfig
from sage_core.config.plan import PlanConfig
from sage_core.config.refine import RefineConfig
from sage_core.config.retrain import RetrainConfig
from sage_core.config.search import SearchConfig
from sage_core.config.section import NonNegative, Runtime, Section
from sage_core.config.steering import SteeringReportConfig
from sage_core.config.training import (
    DPOConfig,
    LoraConfig,
    SFTConfig,
    TrainingConfig,
    uneven_batch,
)

# Options that need hardware which no test or run of ours has had, by key and value.
EXPERIMENTAL = {
    "model.attention": ("flash_attention_2", "flash_attention_3"),
    "model.quantization": ("4bit",),
    "training.launcher.strategy": ("fsdp", "zero2", "zero3"),
}


class PipelineConfig(Section):
    """The whole run."""

    name: str = Field("sage", description="Name of the MLflow experiment and registered model.")
    seed: NonNegative = 0
    model: ModelConfig = ModelConfig()
    corpus: CorpusConfig = CorpusConfig()
    mixture: MixtureConfig = MixtureConfig()
    annotation: AnnotationConfig = AnnotationConfig()
    lora: LoraConfig = LoraConfig()
    training: TrainingConfig = TrainingConfig()
    sft: SFTConfig = SFTConfig()
    situations: SituationsConfig = SituationsConfig()
    conversation: ConversationConfig = ConversationConfig()
    search: SearchConfig = SearchConfig()
    refine: RefineConfig = RefineConfig()
    dpo: DPOConfig = DPOConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    steering_report: SteeringReportConfig = SteeringReportConfig()
    benchmarks: BenchmarksConfig = BenchmarksConfig()
    empathy: EmpathyConfig = EmpathyConfig()
    retrain: Runtime[RetrainConfig] = RetrainConfig()
    plan: Runtime[PlanConfig] = PlanConfig()
    budget: Runtime[BudgetConfig] = BudgetConfig()
    ask_again: Runtime[bool] = Field(
        False,
        description="Ask again for the answers of judges, annotator and selector that could not be "
        "read before; finished answers are used.",
    )

    def engines(self) -> dict[str, EngineConfig]:
        """The engine of each role, by the role's name."""
        return {
            "annotator": self.annotation.engine,
            "search agent": self.search.selfplay.agent_engine,
            "search user": self.search.selfplay.user_engine,
            **(
                {"selector": self.search.selector.engine}
                if self.search.selector.asks_engine
                else {}
            ),
            "evaluation agent": self.evaluation.selfplay.agent_engine,
            "evaluation user": self.evaluation.selfplay.user_engine,
            **{f"judge {judge.name}": judge.engine for judge in self.evaluation.judges},
            **({"benchmarks": self.benchmarks.engine} if self.benchmarks.tasks else {}),
        }

    def experimental(self) -> list[str]:
        """The options of :data:`EXPERIMENTAL` that are chosen, as ``key=value``."""
        chosen = []
        for key, values in EXPERIMENTAL.items():
            value: Any = self
            for part in key.split("."):
                value = getattr(value, part, None)
            if value in values:
                chosen.append(f"{key}={value}")
        return chosen

    @model_validator(mode="after")
    def _merges_whole_weights(self) -> Self:
        if self.model.quantization != "none" and self.lora.chain == "merged":
            raise ValueError(
                "lora.chain = 'merged' needs the base's full weights, which model.quantization = "
                f"'{self.model.quantization}' does not keep; use 'stacked' or 'continue'"
            )
        return self

    @model_validator(mode="after")
    def _has_the_judge_that_counts(self) -> Self:
        names = [judge.name for judge in self.evaluation.judges]
        if self.retrain.judge and self.retrain.judge not in names:
            raise ValueError(
                f"retrain.judge = '{self.retrain.judge}' is not in evaluation.judges; choose one "
                f"of {', '.join(names)}"
            )
        return self

    @property
    def judge_that_counts(self) -> str:
        """The name of the judge that decides on a challenger."""
        return self.retrain.judge or self.evaluation.judges[0].name

    @model_validator(mode="after")
    def _servers_are_shared(self) -> Self:
        first: dict[str, EngineConfig] = {}
        for engine in self.engines().values():
            other = first.setdefault(engine.kind, engine)
            if any(getattr(engine, name) != getattr(other, name) for name in engine.shared):
                raise ValueError(
                    f"all roles of kind '{engine.kind}' share one server; give them the same "
                    f"{', '.join(engine.shared)}"
                )
        return self

    @model_validator(mode="after")
    def _steps_are_shared_out(self) -> Self:
        launcher = self.training.launcher
        if launcher is None or launcher.accelerate_config:  # the file has the number
            return self
        sizes: dict[str, SFTConfig | DPOConfig] = {
            "sft": self.sft,
            "refine.sft": self.refine.sft,
            "dpo": self.dpo,
        }
        found = [
            uneven_batch(f"{key}.batch_size", settings.batch_size, launcher.processes)
            for key, settings in sizes.items()
        ]
        if uneven := "; ".join(filter(None, found)):
            raise ValueError(uneven)
        return self
