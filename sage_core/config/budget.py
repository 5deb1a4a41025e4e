"""What a run may take."""

from pydantic import Field

from sage_core.config.section import NonNegative, Section


class BudgetConfig(Section):
    """The most that a run may take by its plan (`sage plan`); a run that would take more is refused
    before any work. A round of retraining counts as a whole run."""

    tokens: NonNegative = Field(
        0, description="Tokens read, written and trained on, all stages. 0 = no limit."
    )
    gpu_hours: float = Field(0.0, ge=0, description="Hours of one plan.gpu. 0 = no limit.")
    usd: float = Field(
        0.0,
        ge=0,
        description="Prices at servers, and GPU-hours at plan.gpu.usd_per_hour, where it is set. "
        "0 = no limit.",
    )
