"""The judges of a run, and where the texts of their prompts are."""

from typing import TYPE_CHECKING

from sage_core.config.evaluation import JudgeConfig
from sage_core.config.pipeline import PipelineConfig
from sage_core.evaluation.judge import question
from sage_core.evaluation.prompts import PROMPTS
from sage_core.steps.judged import Judge

if TYPE_CHECKING:
    from mlflow.entities.model_registry import PromptVersion


def judges(config: PipelineConfig) -> list[Judge]:
    """All judges, with the texts of their prompts.

    Raises:
        ConfigError: a prompt is not where its setting says.
    """
    return [judge(config, each) for each in config.evaluation.judges]


def judge(config: PipelineConfig, settings: JudgeConfig) -> Judge:
    """One judge, with the text of its prompt.

    Raises:
        ConfigError: as :func:`judges`.
    """
    if PROMPTS.keeps(settings.prompt):
        from tasks.prompts import text  # imports MLflow, which single stages do not need

        return Judge(settings=settings, question=text(settings.prompt), model=config.model)
    return Judge(settings=settings, question=question(settings.prompt), model=config.model)


def pinned(config: PipelineConfig) -> PipelineConfig:
    """The configuration with the version of each judge's prompt that is in MLflow's registry, so
    that an alias that moves changes no run under way.

    Raises:
        ConfigError: a prompt is not there.
    """
    if not any(PROMPTS.keeps(each.prompt) for each in config.evaluation.judges):
        return config
    from tasks.prompts import address

    found = tuple(
        each.model_copy(update={"prompt": address(each.prompt)})
        if PROMPTS.keeps(each.prompt)
        else each
        for each in config.evaluation.judges
    )
    evaluation = config.evaluation.model_copy(update={"judges": found})
    return config.model_copy(update={"evaluation": evaluation})


def registered(config: PipelineConfig) -> dict[str, "PromptVersion"]:
    """Judge -> the version of its prompt in MLflow's registry, where it is put if it is not there;
    without those that the store did not take."""
    from tasks.prompts import registered as version_of

    found = {
        each.settings.name: version_of(each.settings.prompt, each.question)
        for each in judges(config)
    }
    return {name: version for name, version in found.items() if version is not None}
