"""Checks before a run starts: missing files, wrong names, missing keys."""

from collections.abc import Callable, Iterable
from functools import partial

from sage_core import labels
from sage_core.config.empathy import EmpathyConfig
from sage_core.config.pipeline import PipelineConfig
from sage_core.corpus.filters import filters
from sage_core.corpus.sources import sources
from sage_core.engines import opening
from sage_core.engines.loading import (
    check_attention,
    check_quantization,
    check_template,
    check_weights,
)
from sage_core.errors import ConfigError, SageError
from sage_core.evaluation import classifiers, judge, steering
from sage_core.evaluation.benchmarks import ready
from sage_core.evaluation.human import read_human
from sage_core.evaluation.prompts import PROMPTS
from sage_core.mixture import check_instructions, instruction_corpus
from sage_core.planning.budget import check_budget
from sage_core.search.checks import check_search
from sage_core.search.situations import situations
from sage_core.training.launch import check_launcher
from sage_core.training.lora_targets import planned_reach

Check = Callable[[], object]


def _check_empathy(settings: EmpathyConfig) -> None:
    if settings.enabled and settings.path and not settings.path.exists():
        raise ConfigError(
            f"empathy.path = '{settings.path}' does not exist; give a file of EmpatheticDialogues "
            "or its folder, or leave it out for the held-out situations of the run"
        )


def check(config: PipelineConfig) -> None:
    """Check a configuration against this machine.

    Raises:
        ConfigError: all problems, in one message.
    """
    _report([*_of_evaluation(config), *_of_training(config), partial(check_budget, config)])


def check_evaluation(config: PipelineConfig) -> None:
    """Check only what is needed to evaluate models that are there: no corpus, no trainer.

    Raises:
        ConfigError: all problems, in one message.
    """
    _report(_of_evaluation(config))


def _of_training(config: PipelineConfig) -> list[Check]:
    """What makes the models, from the corpus on."""
    corpora = [config.corpus, *config.mixture.corpora]
    checks: list[Check] = []
    if instructions := config.mixture.instructions:
        corpora.append(instruction_corpus(instructions))
        checks.append(partial(check_instructions, instructions))
    roles = config.engines().items()
    return [
        *checks,
        partial(check_weights, config.model.base),
        partial(planned_reach, config.model, config.lora),
        partial(check_launcher, config.training.launcher),
        *(partial(sources, corpus) for corpus in corpora),
        *(partial(filters, corpus) for corpus in corpora),
        partial(labels.check, config.annotation),
        lambda: situations(config.situations, "search", config.search.situations),
        lambda: steering.check(config.steering_report),
        lambda: check_search(config.search),
        partial(_check_empathy, config.empathy),
        *([partial(read_human, human)] if (human := config.evaluation.human) else []),
        *(partial(opening.check, engine) for role, engine in roles if not _evaluates(role)),
    ]


def _of_evaluation(config: PipelineConfig) -> list[Check]:
    """What runs and compares them."""
    return [
        partial(check_template, config.model),
        partial(check_attention, config.model),
        partial(check_quantization, config.model),
        lambda: situations(config.situations, "evaluation", config.evaluation.situations),
        partial(ready.check, config.benchmarks),
        *(
            partial(judge.question, judging.prompt)
            for judging in config.evaluation.judges
            if not PROMPTS.keeps(judging.prompt)  # a flow looks in MLflow, with the home held
        ),
        *(partial(classifiers.check, each) for each in config.evaluation.classifiers),
        *(
            partial(opening.check, engine)
            for role, engine in config.engines().items()
            if _evaluates(role)
        ),
    ]


def _evaluates(role: str) -> bool:
    return role.startswith(("evaluation ", "judge ", "benchmarks"))


def _report(checks: Iterable[Check]) -> None:
    problems: list[str] = []
    for probe in checks:
        try:
            probe()
        except SageError as error:
            if str(error) not in problems:
                problems.append(str(error))
    if problems:
        raise ConfigError("; ".join(problems))
