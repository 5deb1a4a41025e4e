"""A flow whose stages ask a server that refuses them: the addresses come as arguments."""

import sys
from dataclasses import dataclass
from pathlib import Path

from flows import environment

environment.prepare(quiet=False)  # Prefect keeps what it logs

from prefect import flow  # noqa: E402

from sage_core.config.engine import EngineConfig, OpenAIConfig, SamplingConfig  # noqa: E402
from sage_core.config.model import ModelConfig  # noqa: E402
from sage_core.engines.base import Request  # noqa: E402
from sage_core.errors import SageError  # noqa: E402
from sage_core.schema import Message  # noqa: E402
from sage_core.steps.base import Context, Model, Step  # noqa: E402
from sage_core.storage import ArtifactRef  # noqa: E402
from tasks.caching import make  # noqa: E402


@dataclass(frozen=True, kw_only=True)
class Ask(Step):
    name = "ask"
    settings: EngineConfig
    asked: Model

    @property
    def engines(self) -> tuple[EngineConfig, ...]:
        return (self.settings,)

    def run(self, folder: Path, context: Context) -> None:
        engine = context.engine(self.settings, self.asked, ModelConfig())
        sampling = SamplingConfig(top_k=0, repetition_penalty=1, max_new_tokens=5)
        ((reply,),) = engine.generate([Request("the-request", (Message("user", "hi"),), sampling)])
        (folder / "reply.txt").write_text(reply.text)


def ask(label: str, settings: EngineConfig, adapter: Path | None) -> None:
    base = ArtifactRef("nowhere", "", 0)
    checkpoint = ArtifactRef(str(adapter), "", 0) if adapter else None
    make(Ask(settings=settings, asked=Model("m1", base, checkpoint)), label)


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
    for answer in ("said", "seed"):
        answered = {**engine, "base_url": f"{address}/{answer}/v1", "api_key_env": "KEY_SENT"}
        ask(answer, settings=OpenAIConfig.model_validate(answered), adapter=None)
    ask("last", settings=OpenAIConfig.model_validate(settings), adapter=None)


def attempt(label: str, settings: dict[str, object], adapter: Path | None) -> None:
    try:
        ask(label, settings=OpenAIConfig.model_validate(settings), adapter=adapter)
    except SageError as error:
        print(f"{label}: {type(error).__name__}: {error}")  # noqa: T201


refused(sys.argv[1], Path(sys.argv[2]))
