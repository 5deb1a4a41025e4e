"""The judges of a run, and where the texts of their prompts are."""

from sage_core.config.evaluation import JudgeConfig
from sage_core.config.pipeline import PipelineConfig
from sage_core.evaluation.judge import question
from sage_core.evaluation.prompts import PROMPTS
from sage_core.steps.judged import Judge


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
