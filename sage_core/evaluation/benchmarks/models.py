"""An engine's model as lm-eval asks it: the weights in this process, or a server's completions."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sage_core.config.engine import EngineConfig, those_that
from sage_core.engines.base import Engine, HoldsWeights, IsServed
from sage_core.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from lm_eval.api.model import LM


def check_engine(settings: EngineConfig) -> None:
    """Check that an engine can be asked by lm-eval.

    Raises:
        ConfigError: it does not score texts, or cannot serve the run's models.
    """
    if not (settings.traits.scores_replies and settings.traits.loads_adapters):
        raise ConfigError(
            f"benchmarks.engine of kind '{settings.kind}' cannot score texts with the models of a "
            f"run; use one of the {those_that('scores_replies')}"
        )


@contextmanager
def language_model(engine: Engine, base: Path, batch_size: int, max_context: int) -> Iterator["LM"]:
    """The engine's model, for lm-eval.

    Args:
        base: the folder of the tokenizer.
        batch_size: texts read together, or requests under way at once on a server.
        max_context: tokens that a server takes; a model in this process states its own.

    Raises:
        EngineError: lm-eval has no way to ask this engine.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of how we call it
    if isinstance(engine, HoldsWeights):
        from lm_eval.models.huggingface import HFLM

        with engine.weights() as (model, tokenizer):
            yield HFLM(
                pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=batch_size
            )
    elif isinstance(engine, IsServed):
        from lm_eval.models.openai_completions import LocalCompletionsAPI

        served = engine.address()
        yield LocalCompletionsAPI(
            base_url=f"{served.base_url.rstrip('/')}/completions",
            model=served.model,
            tokenizer=str(base),
            tokenizer_backend="huggingface",
            header={"Authorization": f"Bearer {served.key}"},
            num_concurrent=batch_size,
            max_length=max_context,
        )
    else:
        raise EngineError(
            f"lm-eval cannot ask the engine '{engine.name}'; set benchmarks.engine.kind to "
            "transformers or vllm"
        )
