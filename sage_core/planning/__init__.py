"""What a run will cost, from its configuration alone: tokens, GPU-hours, memory, disk, API prices.

Nothing is loaded and nothing asked. For the tokens the pipeline's own steps are run once, on one
dialogue or situation of the planned lengths (:mod:`~sage_core.planning.context`), with an engine
that answers with placeholder text and counts (:mod:`~sage_core.planning.counting`); what it counts
is then multiplied. So the estimate
counts what the manifests count: a prompt once for all its candidates, and an option that is scored
not at all.

How big a model is says :mod:`~sage_core.planning.sizes`; what hours, memory and prices follow from
the tokens, :mod:`~sage_core.planning.costs`; what a machine must have for all stages,
:mod:`~sage_core.planning.needs`.
"""

from sage_core.planning.costs import StagePlan, Use
from sage_core.planning.needs import Needs, needs
from sage_core.planning.stages import plan

__all__ = ["Needs", "StagePlan", "Use", "needs", "plan"]
