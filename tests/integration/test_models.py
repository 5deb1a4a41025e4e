"""Architectures of `make models` beside those of test_models_table.py: none is wrong."""

import pytest
from test_models_table import SAMPLE

from benchmarks.models import check
from benchmarks.small_models import MODELS

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("model_type", sorted(set(MODELS) - set(SAMPLE)))
def test_no_architecture_is_silently_wrong(model_type: str) -> None:
    assert check(model_type).wrong == ()
