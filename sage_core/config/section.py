"""What the sections of the configuration have in common."""

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Value = TypeVar("Value")
RUNTIME = "runtime"
Runtime = Annotated[Value, RUNTIME]
"""A setting that says how a step runs and cannot change what it makes: it is in no key."""
UNSHOWN = "unshown"  # the type of errors whose value no message may repeat


class Section(BaseModel):
    """A frozen part of the configuration; an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True
    )


NEVER_RUN = "experimental: no test and no run of ours has used it"
