"""What a server is sent. Servers that call themselves OpenAI-compatible differ in it."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from sage_core.config.section import Section

_HAVE_A_SETTING = {
    "model": "model",
    "messages": "the role's prompt",
    "stream": "nothing: answers are read whole",
    "max_tokens": "the role's token limit and parameters.answer_budget",
    "max_completion_tokens": "the role's token limit and parameters.answer_budget",
    "temperature": "the role's temperature and parameters.temperature",
    "seed": "seed and parameters.seed",
    "n": "parameters.n",
    "logprobs": "parameters.top_logprobs",
    "top_logprobs": "parameters.top_logprobs",
    "response_format": "parameters.structured_output",
}


class ParametersConfig(Section):
    """What the server is sent. null: what is known of this kind of server, corrected by a small
    request before a stage. A value is used as it is."""

    answer_budget: Literal["max_completion_tokens", "max_tokens"] | None = Field(
        None, description="Name of the limit of an answer's tokens."
    )
    temperature: Literal["as_asked", "above_zero", "left_out"] | None = Field(
        None,
        description="'above_zero' sends 0.01 for 0; 'left_out' leaves it to the server, whose "
        "answers may then differ from time to time.",
    )
    seed: bool | None = Field(None, description="Whether seeds are sent.")
    n: bool | None = Field(
        None,
        description="Whether several replies are asked for at once; else one after the other.",
    )
    top_logprobs: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Most likely first tokens that are asked for to score options."
    )
    system_role: bool | None = Field(
        None,
        description="Whether there are system messages; else their text opens the next message of "
        "the user.",
    )
    structured_output: Literal["json_schema", "json_object", "prompt"] | None = Field(
        None,
        description="How JSON is asked for: by its schema, as any JSON with the schema in the "
        "prompt, or in the prompt alone.",
    )
    extra_body: dict[str, Any] = Field(
        {},
        description="Further parameters of each request, over SAGE's own; stored with each run, so "
        "no keys.",
    )

    @field_validator("extra_body")
    @classmethod
    def _has_no_setting(cls, value: dict[str, Any]) -> dict[str, Any]:
        if both := [name for name in value if name in _HAVE_A_SETTING]:
            raise ValueError(
                "; ".join(f"'{name}' is set by {_HAVE_A_SETTING[name]}" for name in both)
            )
        return value
