"""The most memory that a stage takes, in this process and on its GPU."""

import re
import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_KIB_PER_GB = 1e9 / 1024
_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_lock = threading.Lock()
_inside = 0


@contextmanager
def peaks() -> Iterator[dict[str, float]]:
    """The peaks within the block, filled in at its end: ``peak_memory_gb``, resident memory of
    this process (servers and launched trainings are other processes), and
    ``peak_gpu_memory_gb``, what PyTorch had allocated, where there is a GPU. 1 GB = 10⁹ bytes.

    Where blocks of several threads overlap, each has the peak since the first of them began. Where
    Linux does not let the peak be reset, it is the process's highest so far.
    """
    global _inside
    with _lock:
        if _inside == 0:
            _reset()
        _inside += 1
    found: dict[str, float] = {}
    try:
        yield found
    finally:
        with _lock:
            _inside -= 1
        found["peak_memory_gb"] = round(_peak_kib() / _KIB_PER_GB, 3)
        if (gpu := _cuda()) is not None:
            found["peak_gpu_memory_gb"] = round(gpu.max_memory_allocated() / 1e9, 3)


def _reset() -> None:
    with suppress(OSError):
        _CLEAR.write_text("5")  # proc(5): the peak becomes the present size
    if (gpu := _cuda()) is not None:
        gpu.reset_peak_memory_stats()


def _peak_kib() -> float:
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        found = None
    return float(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _cuda() -> Any:
    """PyTorch's CUDA module if this process uses it; nothing is loaded for that."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None
