"""Whether vLLM is installed beside the environment that runs the tests."""

import pytest

from sage_core.config.engine import VllmConfig
from sage_core.engines.vllm_server import find_python
from sage_core.errors import EngineError


def _missing() -> str:
    try:
        find_python(VllmConfig())
    except EngineError as error:
        return str(error)
    return ""


needs_vllm = pytest.mark.skipif(bool(_missing()), reason=_missing() or "vLLM is here")
