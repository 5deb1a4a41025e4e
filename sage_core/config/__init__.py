"""One frozen model per stage, and :class:`PipelineConfig`, which holds them all.

This is the one source of the command line's, the YAML presets' and the Prefect form's parameters.
Defaults are the paper's numbers where the paper gives them; presets override them. In a field
documented with "0 = ...", zero switches the limit off.

Each name is loaded when it is first used. Code of this project imports from the module of a stage
instead, so that a change in the settings of one stage changes the keys of that stage only.
"""

from importlib import import_module
from typing import Any

_MODULES = {
    "annotation": ("AnnotationConfig",),
    "conversation": ("ConversationConfig", "ProfileConfig", "SelfPlayConfig", "SituationsConfig"),
    "corpus": ("CorpusConfig", "ThreadsConfig"),
    "engine": (
        "EngineConfig",
        "OpenAIConfig",
        "OwnEngineConfig",
        "SamplingConfig",
        "Traits",
        "TransformersConfig",
        "VllmConfig",
    ),
    "evaluation": ("EvaluationConfig", "JudgeConfig", "QualityConfig"),
    "loading": ("PRESETS", "apply_override", "load_config", "validate_config"),
    "mixture": ("InstructionsConfig", "MixtureConfig"),
    "model": ("EMBEDDED_MODEL", "ModelConfig"),
    "pipeline": ("EXPERIMENTAL", "PipelineConfig"),
    "plan": ("GPUS", "GpuConfig", "ModelSizeConfig", "PlanConfig"),
    "refine": ("GatesConfig", "RefineConfig"),
    "search": ("SearchConfig", "SelectorConfig", "TreeConfig"),
    "section": ("NEVER_RUN", "RUNTIME", "Runtime", "Section"),
    "steering": ("SteeringReportConfig",),
    "training": (
        "DPOConfig",
        "LauncherConfig",
        "LoraConfig",
        "SFTConfig",
        "SegmentWeights",
        "TrainingConfig",
    ),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"sage_core.config has no {name}")
    return getattr(import_module(f"sage_core.config.{_MODULE_OF[name]}"), name)
