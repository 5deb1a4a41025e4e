"""How a role speaks to a model, and how tokens are drawn.

Each kind of engine has a section of its own; here is their union. Other code asks for what a
section declares (:class:`Traits`) and never for its kind.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Discriminator, Field, GetJsonSchemaHandler, Tag
from pydantic_core import CoreSchema, PydanticCustomError

from sage_core.config.engine_section import EngineSection as EngineSection
from sage_core.config.engine_section import Traits as Traits
from sage_core.config.section import UNSHOWN, NonNegative, Positive, Section
from sage_core.config.servers import OpenAIConfig as OpenAIConfig
from sage_core.config.servers import VllmConfig as VllmConfig
from sage_core.named import FORM, load

DEFAULT_KIND = "transformers"


class TransformersConfig(EngineSection):
    """The base model in this process, with adapters over it."""

    opened_by = "sage_core.engines.in_process:open_engine"

    kind: Literal["transformers"] = "transformers"

    @property
    def traits(self) -> Traits:
        return Traits(loads_adapters=True, scores_replies=True, is_m0=True)


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
    "'openai' with server = 'vllm'": OpenAIConfig(
        model="-", base_url="http://server", server="vllm"
    ),
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
