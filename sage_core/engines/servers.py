"""Engines on servers that somebody else runs."""

from collections.abc import Sequence
from pathlib import Path

from sage_core.checks import Check
from sage_core.config.engine import OpenAIConfig
from sage_core.config.model import ModelConfig
from sage_core.engines.answers import AnswerStore, answers_of
from sage_core.engines.llama_cpp_http import LlamaCppEngine
from sage_core.engines.openai_http import OpenAIEngine
from sage_core.engines.spoken import sample
from sage_core.engines.vllm_http import VllmHttpEngine
from sage_core.errors import ConfigError, EngineError
from sage_core.keys import read_key

_ENGINES: dict[str, type[OpenAIEngine]] = {"vllm": VllmHttpEngine, "llama.cpp": LlamaCppEngine}
_PROBE_S = 30.0  # seconds; a server may load the model first


def open_engine(
    settings: OpenAIConfig, base: Path, model: ModelConfig, adapter: Path | None, home: Path
) -> OpenAIEngine:
    """See :mod:`sage_core.engines.opening`. Without ``adapter`` it is the model that the settings
    name."""
    if adapter:
        from sage_core.engines.loading import load_tokenizer
        from sage_core.engines.vllm_server import load_adapter

        key = read_key(settings.api_key_env)
        name = load_adapter(settings.base_url, key, adapter, settings.timeout_s)
        settings = settings.model_copy(update={"model": name})
        return VllmHttpEngine(settings, answers_of(home), load_tokenizer(base).eos_token_id)
    return engine_of(settings, answers_of(home))


def engine_of(settings: OpenAIConfig, answers: AnswerStore | None = None) -> OpenAIEngine:
    """The engine for the kind of server that the settings name."""
    return _ENGINES.get(settings.server, OpenAIEngine)(settings, answers)


def check(settings: OpenAIConfig) -> None:
    """Check that the server can be asked.

    Raises:
        EngineError, ConfigError: as :meth:`OpenAIEngine.check`.
    """
    engine_of(settings).check()


def check_scoring(settings: OpenAIConfig) -> None:
    """See :mod:`sage_core.engines.opening`. vLLM scores whole prompts, in another request.

    Raises:
        EngineError, ConfigError: as :meth:`OpenAIEngine.settle`.
    """
    if settings.server != "vllm":
        _impatient(settings).settle(sample(scored=True, schema=False), scored=True)


def examine(settings: OpenAIConfig, roles: Sequence[str]) -> Check:
    """Whether there is a key, and how the server takes what the roles send, by small requests."""
    what = f"{', '.join(roles)}: {settings.model}"
    scored = "selector" in roles
    try:
        engine = _impatient(settings)
        asked = sample(scored=scored, schema="annotator" in roles)
        changes = engine.settle(asked, scored=scored)
    except EngineError as error:
        return Check(what, False, str(error), "change what it names, or start the server")
    except ConfigError as error:
        return Check(what, False, "the key cannot be sent", str(error))
    if silence := engine.silence:
        fix = "start the server, or set base_url to where it runs"
        return Check(what, False, silence, fix)
    found = "; ".join(f"{name}: {how}" for name, how in sorted(changes.items()))
    return Check(what, True, f"{settings.where} answers" + (f"; {found}" if found else ""))


def _impatient(settings: OpenAIConfig) -> OpenAIEngine:
    limits = {"timeout_s": min(settings.timeout_s, _PROBE_S), "max_retries": 0}
    return engine_of(settings.model_copy(update=limits))
