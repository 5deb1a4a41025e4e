"""One more round of search and refinement, for a schedule."""

from typing import Any

from prefect import flow

from flows.pipeline import pipeline
from flows.runners import held_by_flow
from sage_core.config.pipeline import PipelineConfig
from tasks.tracking import finished_rounds


@flow(name="sage-one-more-round")
def one_more_round(config: PipelineConfig) -> dict[str, Any]:
    """Run the pipeline with one round more than the last finished run of these settings had.

    Everything up to the last model comes from the cache; the new model, DPO from it, and their
    comparisons are made. Without an earlier run this is the configured number of rounds, and where
    the rounds stop by themselves (``refine.stop = 'saturation'``) it is the run as configured.
    """
    with held_by_flow():
        rounds = None if config.refine.stop == "saturation" else finished_rounds(config)
        if rounds is None:
            return pipeline(config)
        refine = config.refine.model_copy(update={"rounds": rounds + 1})
        return pipeline(config.model_copy(update={"refine": refine}))
