"""The memory that this process holds for models, and giving it back.

A vLLM server and training each need the GPU to themselves. Whoever keeps a model, or runs a server
that does, registers how to drop it with :func:`droppable`; :func:`release` drops them all. It is
called before a managed server starts and before any training, in this process or launched.
"""

import gc
import sys
from collections.abc import Callable

_droppers: list[Callable[[], None]] = []


def droppable(drop: Callable[[], None]) -> Callable[[], None]:
    """Register a function without arguments that drops what its module keeps; a decorator."""
    _droppers.append(drop)
    return drop


def release() -> None:
    """Drop the models and stop the server of this process, and give CUDA memory back.

    A model that is still in use elsewhere, such as by an engine of the same stage, stays.
    """
    for drop in _droppers:
        drop()
    gc.collect()  # trainers and PEFT models are in reference cycles
    torch = sys.modules.get("torch")  # where it is not imported, nothing of it holds memory
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
