"""Which family of models an engine is of: a judge of the selector's own family is marked."""

import re

from sage_core.config.engine import EngineSection, OpenAIConfig
from sage_core.config.pipeline import PipelineConfig

_LETTERS = re.compile(r"[A-Za-z]+")


def family_of_name(model: str) -> str:
    """The first word of a model's own name in lower case: ``gpt`` of ``gpt-4o-mini``, ``mixtral``
    of ``mistralai/Mixtral-8x7B``; the whole name where it has no letters."""
    name = model.rstrip("/").rpartition("/")[2]
    found = _LETTERS.search(name)
    return found[0].lower() if found else name


def judge_families(config: PipelineConfig) -> dict[str, str]:
    """Judge -> its family: the one that the configuration gives, else by its model's name."""
    return {
        judge.name: judge.family or _family(judge.engine, config.model.base)
        for judge in config.evaluation.judges
    }


def selector_family(config: PipelineConfig) -> str:
    """The family of the model that the selector asks; '' where it asks none."""
    selector = config.search.selector
    return _family(selector.engine, config.model.base) if selector.asks_engine else ""


def _family(engine: EngineSection, base: str) -> str:
    if engine.traits.is_m0:
        return family_of_name(base)
    return family_of_name(engine.model if isinstance(engine, OpenAIConfig) else engine.kind)
