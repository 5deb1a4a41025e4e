"""A run whose plan exceeds its budget is refused, with both numbers."""

import re

import pytest

from sage_core.config.loading import load_config
from sage_core.config.pipeline import PipelineConfig
from sage_core.errors import ConfigError
from sage_core.planning import plan
from sage_core.planning.budget import check_budget
from sage_core.preflight import check

JUDGE = "evaluation.judges=[{name: big, engine: {kind: openai, model: m%s}}]"
PRICED = JUDGE % ", usd_per_million_prompt_tokens: 2, usd_per_million_completion_tokens: 10"


def config(*overrides: str) -> PipelineConfig:
    return load_config("tiny", overrides)


def test_the_limit_itself_is_within_the_budget() -> None:
    stages = plan(config())
    tokens = sum(each.read + each.written + each.trained for each in stages)
    check_budget(config(f"budget.tokens={int(tokens) + 1}"))
    with pytest.raises(ConfigError) as error:
        check_budget(config(f"budget.tokens={int(tokens) - 1}", "budget.gpu_hours=1000"))
    found = re.search(r"is ([\d,]+) tokens, over budget.tokens = ([\d,]+)", str(error.value))
    assert found is not None
    planned, limit = (int(number.replace(",", "")) for number in found.groups())
    assert planned == pytest.approx(tokens, abs=1)
    assert limit == int(tokens) - 1
    assert "gpu_hours" not in str(error.value)  # which is kept


def test_hours_and_their_price_count() -> None:
    """GPU-hours at 2 million USD each cost 2 million times as many USD as there are hours."""
    hours = sum(each.gpu_hours for each in plan(config()))
    gpu = "plan.gpu={tflops: 989, memory_gb: 80, bandwidth_gb_s: 3350, usd_per_hour: 2000000}"
    check_budget(config(gpu, f"budget.usd={hours * 2e6 * 1.01}"))
    with pytest.raises(ConfigError, match=r"usd, over budget\.usd"):
        check_budget(config(gpu, f"budget.usd={hours * 2e6 * 0.99}"))
    with pytest.raises(ConfigError, match=r"gpu-hours, over budget\.gpu_hours"):
        check_budget(config(f"budget.gpu_hours={hours * 0.99}"))


def test_prices_at_servers_count_and_have_to_be_known() -> None:
    usd = sum(each.api_usd or 0 for each in plan(config(PRICED)))
    assert usd > 0
    check_budget(config(PRICED, f"budget.usd={usd * 1.01}"))
    with pytest.raises(ConfigError, match=r"over budget\.usd"):
        check_budget(config(PRICED, f"budget.usd={usd * 0.99}"))
    with pytest.raises(ConfigError, match="no price is known for judge-pair big"):
        check_budget(config(JUDGE % "", "budget.usd=5"))


def test_no_limit_asks_for_no_plan() -> None:
    check_budget(config("plan.dialogues=0", "model.base=org/of-unknown-size"))


def test_it_is_checked_before_a_run() -> None:
    with pytest.raises(ConfigError, match=r"over budget\.tokens = 1:"):
        check(config("budget.tokens=1"))
