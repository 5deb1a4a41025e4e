"""Whether a refined model has collapsed (section 4.4)."""

from dataclasses import dataclass
from pathlib import Path

from sage_core.config.refine import GatesConfig
from sage_core.schema import Trajectory
from sage_core.steps.base import Context
from sage_core.steps.names import COLLAPSE, TRAJECTORIES
from sage_core.steps.reading import read_measurements
from sage_core.steps.speaking import AgentStep
from sage_core.storage import ArtifactRef, read_rows, write_json


@dataclass(frozen=True, kw_only=True)
class CollapseMetrics(AgentStep):
    """Whether a refined model has collapsed, by its conversations."""

    name = "collapse-metrics"
    rollouts: ArtifactRef
    measured: ArtifactRef
    settings: GatesConfig

    def run(self, folder: Path, context: Context) -> None:
        from sage_core.evaluation import collapse  # imports scipy

        found = collapse.collapse_metrics(
            read_rows(context.folder(self.rollouts) / TRAJECTORIES, Trajectory),
            self.speaker(context),
            context.engine(self.selfplay.agent_engine, self.agent.m0, self.model),
            self.selfplay,
            self.settings.kl_replies,
            self.seed,
            read_measurements(context.folder(self.measured)),
        )
        failed = collapse.collapsed(found, self.settings)
        write_json(folder / COLLAPSE, {"figures": found.figures(), "collapsed": failed})
