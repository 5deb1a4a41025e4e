"""A model's attention, replaced for a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sage_core.errors import EngineError


@contextmanager
def replaced_attention(model: Any, name: str) -> Iterator[None]:
    """The model with the attention that is registered under ``name``.

    Raises:
        EngineError: it takes none from outside.
    """
    own = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        if model.config._attn_implementation != name:
            raise EngineError(f"{type(model).__name__} takes no other attention than its own")
        yield
    finally:
        model.set_attn_implementation(own)
