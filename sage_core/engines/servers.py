"""Engines on servers that somebody else runs."""

from collections.abc import Sequence
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from sage_core.checks import Check
from sage_core.config.engine import OpenAIConfig
from sage_core.config.model import ModelConfig
from sage_core.engines.answers import AnswerStore, answers_of
from sage_core.engines.llama_cpp_http import LlamaCppEngine
from sage_core.engines.openai_http import OpenAIEngine
from sage_core.engines.vllm_http import VllmHttpEngine
from sage_core.errors import ConfigError
from sage_core.keys import read_key

_ENGINES = {"openai": OpenAIEngine, "vllm": VllmHttpEngine, "llama.cpp": LlamaCppEngine}
_PROBE_S = 5.0


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
    return _ENGINES[settings.server](settings, answers)


def check(settings: OpenAIConfig) -> None:
    """Check that the server can be asked.

    Raises:
        EngineError, ConfigError: as :meth:`OpenAIEngine.check`.
    """
    engine_of(settings).check()


def examine(settings: OpenAIConfig, roles: Sequence[str]) -> Check:
    """Whether there is a key, and the server answers."""
    what = f"{', '.join(roles)}: {settings.model}"
    try:
        key = bool(read_key(settings.api_key_env))
    except ConfigError as error:
        return Check(what, False, "the key cannot be sent", str(error))
    if not settings.base_url:
        fix = "" if key else f"set the environment variable {settings.api_key_env}"
        return Check(what, key, "OpenAI, key set" if key else "OpenAI, no key", fix)
    try:
        with urlopen(f"{settings.base_url.rstrip('/')}/models", timeout=_PROBE_S):  # noqa: S310
            return Check(what, True, f"{settings.base_url} answers")
    except HTTPError as error:
        return Check(what, True, f"{settings.base_url} answers with status {error.code}")
    except (URLError, OSError, ValueError) as error:
        fix = "start the server, or set base_url to where it runs"
        return Check(what, False, f"{settings.base_url}: {error}", fix)
