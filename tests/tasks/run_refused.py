"""A flow whose stages ask a server that refuses them: the addresses come as arguments."""

import sys
from pathlib import Path

from flows import environment

environment.prepare(quiet=False)  # Prefect keeps what it logs

from prefect import flow  # noqa: E402

from sage_core.config import EngineConfig, ModelConfig, SamplingConfig  # noqa: E402
from sage_core.engines.base import Request  # noqa: E402
from sage_core.errors import SageError  # noqa: E402
from sage_core.schema import Message  # noqa: E402
from tasks.caching import stage  # noqa: E402
from tasks.engines import engine_of  # noqa: E402


@stage("schema")
def ask(folder: Path, settings: EngineConfig, adapter: Path | None) -> None:
    engine = engine_of(settings, folder, ModelConfig(), adapter)
    sampling = SamplingConfig(top_k=0, repetition_penalty=1, max_new_tokens=5)
    engine.generate([Request("the-request", (Message("user", "hi"),), sampling)])


@flow
def refused(address: str, adapter: Path) -> None:
    engine = {"kind": "openai", "model": "some-model", "max_retries": 1}
    for answer in ("401", "404", "500", "200", "text"):
        settings = {**engine, "base_url": f"{address}/{answer}/v1", "api_key_env": "KEY_SENT"}
        attempt(answer, settings, None)
    attempt("adapter", settings, adapter)
    for variable in ("KEY_INNER", "KEY_FOREIGN"):
        attempt(
            variable, {**engine, "base_url": f"{address}/401/v1", "api_key_env": variable}, None
        )
        attempt(f"{variable} adapter", {**settings, "api_key_env": variable}, adapter)
    ask("last", settings=EngineConfig.model_validate(settings), adapter=None)


def attempt(label: str, settings: dict[str, object], adapter: Path | None) -> None:
    try:
        ask(label, settings=EngineConfig.model_validate(settings), adapter=adapter)
    except SageError as error:
        print(f"{label}: {type(error).__name__}: {error}")  # noqa: T201


refused(sys.argv[1], Path(sys.argv[2]))
