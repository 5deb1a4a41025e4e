"""Every setting of the configuration as an optional field of a form.

Prefect's server checks what is filled in against the form's JSON schema before it makes a run, so
types, choices, bounds and names of settings are checked there. What depends on more than one
setting is checked when the run starts, before any work.
"""

import json
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, create_model, model_serializer

from sage_core.config.pipeline import PipelineConfig
from sage_core.config.section import Section


class Optional(BaseModel):
    """A section of the form; as JSON it is what is filled in."""

    model_config = ConfigDict(extra="forbid")

    @model_serializer
    def _filled_in(self) -> dict[str, Any]:
        names = type(self).model_fields
        return {name: getattr(self, name) for name in names if name in self.model_fields_set}


@cache
def optional(section: type[Section], without: tuple[str, ...] = ()) -> type[Optional]:
    """A section in which every setting may be left out, at any depth; lists, and sections of which
    there are several kinds, such as engines, are given whole."""
    fields: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        kind = field.annotation
        if name in without:
            continue
        if isinstance(kind, type) and issubclass(kind, Section):
            inner = optional(kind)
            title = name.replace("_", " ")
            fields[name] = (
                inner,
                Field(default_factory=inner, title=title, description=field.description),
            )
        else:
            # Not nullable, so that the form shows one plain field and no choice of types.
            bounded = Annotated[(kind, *field.metadata)] if field.metadata else kind
            fields[name] = (
                bounded,
                Field(
                    None,
                    description=field.description,
                    examples=field.examples,
                    json_schema_extra=_without_default,
                ),
            )
    return create_model(section.__name__, __base__=Optional, __doc__=section.__doc__, **fields)


def overrides(filled_in: Optional, key: str = "") -> Iterator[str]:
    """What is filled in, each as ``a.b=value``."""
    for name, value in filled_in.model_dump(mode="json").items():
        section = getattr(filled_in, name)
        if isinstance(section, Optional):
            yield from overrides(section, f"{key}{name}.")
        else:
            yield f"{key}{name}={json.dumps(value)}"


def _without_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)


Advanced = optional(PipelineConfig, without=("name", "budget"))
"""All settings but those that the short form asks for."""
