"""How a role speaks to a model, and how tokens are drawn.

Each kind of engine has a section of its own. Other code asks for what a section declares
(:class:`Traits`) and never for its kind.
"""

import re
from argparse import ArgumentError, ArgumentParser
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    Tag,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError

from sage_core.config.section import UNSHOWN, NonNegative, Positive, Runtime, Section
from sage_core.errors import ConfigError
from sage_core.keys import holds_credentials
from sage_core.named import FORM, Named, load

DEFAULT_KIND = "transformers"


@dataclass(frozen=True)
class Traits:
    """What an engine can do and where it runs, as far as that is known from its settings.

    Attributes:
        loads_adapters: it serves checkpoints of this run, not only m0 or a model of its own.
        scores_replies: it gives the log-probability of any text as a reply.
        is_m0: without a checkpoint it is m0; else it is another model.
        runs_here: it takes this machine's memory and devices, so that stages go one at a time and
            a plan counts GPU-hours; else it is asked by many at once, and a plan counts its price.
        in_process: the weights are loaded into this process.
    """

    loads_adapters: bool = False
    scores_replies: bool = False
    is_m0: bool = False
    runs_here: bool = True
    in_process: bool = True


class EngineSection(Section):
    """What the settings of every kind of engine have.

    Attributes:
        opened_by: what opens the engine (:func:`sage_core.engines.opening.open_engine`), as
            ``package.module:name``; empty = what ``kind`` names.
        checked_by: the module with ``check`` and ``examine`` for these settings
            (:mod:`sage_core.engines.opening`); empty = they need no check.
        modules_elsewhere: modules that run outside this process for it; they are in the keys of
            the steps that ask it.
        shared: settings that all roles of this kind must have in common, since one server of this
            process serves them.
    """

    opened_by: ClassVar[str] = ""
    checked_by: ClassVar[str] = ""
    modules_elsewhere: ClassVar[tuple[str, ...]] = ()
    shared: ClassVar[tuple[str, ...]] = ()

    kind: str

    @property
    def named(self) -> Named:
        """What opens the engine; its code is in the keys of the steps that ask it."""
        return Named(self.kind, self.opened_by or self.kind)

    @property
    def traits(self) -> Traits:
        raise NotImplementedError

    @property
    def where(self) -> str:
        """Where the model runs, for people."""
        return "a model in this process"

    @property
    def gpus(self) -> int:
        """GPUs of this machine that the weights are split over."""
        return 1

    @property
    def requests_at_once(self) -> int | None:
        """Requests that are sent at once; None: all."""
        return None

    @property
    def prices(self) -> tuple[float, float] | None:
        """USD per million prompt and completion tokens; None: not known."""
        return None

    def shares_server(self, other: "EngineSection") -> bool:
        """Whether one server of this process serves both, which has one base model."""
        return bool(self.shared) and type(self) is type(other)


class TransformersConfig(EngineSection):
    """The base model in this process, with adapters over it."""

    opened_by = "sage_core.engines.in_process:open_engine"

    kind: Literal["transformers"] = "transformers"

    @property
    def traits(self) -> Traits:
        return Traits(loads_adapters=True, scores_replies=True, is_m0=True)


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
    server: Literal["openai", "vllm", "llama.cpp"] = Field(
        "openai",
        description="What answers: 'vllm' and 'llama.cpp' may be asked for top-k, penalties, "
        "grammars and a forced start as well, 'vllm' for options of several tokens.",
    )
    model: str = Field(min_length=1, description="Name of the model on the server.")
    base_url: str = Field(
        "",
        description="Address of the server, without a user name or password; empty = OpenAI's own.",
    )
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


class OwnEngineConfig(EngineSection):
    """An engine of your own, named ``package.module:name``: a class, or a function, that is called
    as :func:`sage_core.engines.opening.open_engine` is. It may declare its ``traits``."""

    checked_by = "sage_core.engines.own"

    kind: str = Field(
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", description="The engine, as package.module:name."
    )
    options: dict[str, Any] = Field({}, description="Its own settings, as it reads them.")

    @property
    def traits(self) -> Traits:
        traits: Traits = getattr(load(self.kind), "traits", Traits())
        return traits

    @property
    def where(self) -> str:
        return self.kind


def _tag(value: Any) -> Any:
    """The key of :data:`SECTIONS` that settings name."""
    kind = value.get("kind", DEFAULT_KIND) if isinstance(value, Mapping) else value.kind
    return FORM if ":" in kind else kind


def _names_a_kind(value: Any) -> Any:
    if isinstance(value, EngineSection):
        return value
    if not isinstance(value, Mapping):
        raise PydanticCustomError(UNSHOWN, "an engine is a section that names its 'kind'")
    kind = value.get("kind", DEFAULT_KIND)
    if not isinstance(kind, str) or _tag(value) not in SECTIONS:
        raise PydanticCustomError(
            UNSHOWN, "the kind {kind} does not exist; choose {choices}",
            {"kind": repr(kind), "choices": _CHOICES},
        )  # fmt: skip
    return value


class _Form:
    """The union's JSON schema: ``anyOf``, since Prefect's form shows no ``oneOf``."""

    def __get_pydantic_json_schema__(
        self, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        schema = handler(core)
        choices = schema.pop("oneOf")
        references = [choice["$ref"] for choice in choices]
        named = {kind: ref for kind, ref in zip(SECTIONS, references, strict=True) if kind != FORM}
        discriminator = {"propertyName": "kind", "mapping": named}
        return {**schema, "anyOf": choices, "discriminator": discriminator}


EngineConfig = Annotated[
    Annotated[TransformersConfig, Tag("transformers")]
    | Annotated[OpenAIConfig, Tag("openai")]
    | Annotated[VllmConfig, Tag("vllm")]
    | Annotated[OwnEngineConfig, Tag(FORM)],
    Discriminator(_tag),
    BeforeValidator(_names_a_kind),
    _Form(),
]
"""The settings of an engine of any kind; without ``kind`` it is of kind transformers. A new kind is
registered here, and has a module that opens it (:attr:`EngineSection.opened_by`)."""

SECTIONS: dict[str, type[EngineSection]] = {
    each.__metadata__[0].tag: each.__origin__ for each in get_args(get_args(EngineConfig)[0])
}
"""Kind -> its section."""

_CHOICES = f"{', '.join(kind for kind in SECTIONS if kind != FORM)}, or your own as {FORM}"


OFFERED: dict[str, EngineSection] = {
    "'transformers'": TransformersConfig(),
    "'vllm'": VllmConfig(),
    "'openai' with server = 'vllm'": OpenAIConfig(model="-", base_url="-", server="vllm"),
    "'openai' with server = 'llama.cpp'": OpenAIConfig(model="-", server="llama.cpp"),
    "'openai'": OpenAIConfig(model="-"),
}
"""The engines that messages offer, one for each kind and kind of server."""


def those_that(trait: str) -> str:
    """The engines that have a trait, for messages."""
    kinds = [kind for kind, engine in OFFERED.items() if getattr(engine.traits, trait)]
    return f"engines of kind {', '.join(kinds)}, or your own that declare {trait}"


def left_behind(before: Any, after: Any) -> set[str]:
    """The settings of an engine that go when its kind changes: those that the new kind has not."""
    former, new = (SECTIONS.get(_tag({"kind": str(kind)})) for kind in (before, after))
    return set(former.model_fields) - set(new.model_fields) if former and new else set()


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
