"""All architectures of `make models`: what is accepted is right."""

import pytest

from benchmarks.models import check
from benchmarks.small_models import MODELS

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("model_type", sorted(MODELS))
def test_no_architecture_is_silently_wrong(model_type: str) -> None:
    assert check(model_type).wrong == ()
