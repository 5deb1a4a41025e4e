"""Whether a run keeps within its budget, by its plan."""

from sage_core.config.pipeline import PipelineConfig
from sage_core.errors import ConfigError
from sage_core.planning.stages import plan


def check_budget(config: PipelineConfig) -> None:
    """
    Raises:
        ConfigError: the plan exceeds ``budget``, with both numbers of every limit that it exceeds;
            or a limit in USD is set and a price is not.
    """
    budget = config.budget
    limits = {"tokens": budget.tokens, "gpu_hours": budget.gpu_hours, "usd": budget.usd}
    if not any(limits.values()):
        return
    stages = plan(config)
    unpriced = {f"{each.stage} {each.label}".strip() for each in stages if each.api_usd is None}
    if budget.usd and unpriced:
        raise ConfigError(
            f"budget.usd = {budget.usd:g}, but no price is known for {', '.join(sorted(unpriced))};"
            " set usd_per_million_prompt_tokens and usd_per_million_completion_tokens of the engine"
        )
    hours = sum(each.gpu_hours for each in stages)
    planned = {
        "tokens": sum(each.read + each.written + each.trained for each in stages),
        "gpu_hours": hours,
        "usd": hours * config.plan.gpu.usd_per_hour + sum(each.api_usd or 0.0 for each in stages),
    }
    over = [
        f"{_text(planned[name])} {name.replace('_', '-')}, over budget.{name} = {_text(limit)}"
        for name, limit in limits.items()
        if limit and planned[name] > limit
    ]
    if over:
        raise ConfigError(
            f"the plan of this run is {'; '.join(over)}: `sage plan` has the stages. Make the run "
            "smaller or raise the budget"
        )


def _text(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
