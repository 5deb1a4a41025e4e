"""Whether a refined model has collapsed (section 4.4)."""

from dataclasses import dataclass
from pathlib import Path

from sage_core.config.engine import EngineConfig
from sage_core.config.refine import GatesConfig
from sage_core.schema import Trajectory
from sage_core.steps.base import Context, Model, Step
from sage_core.steps.names import COLLAPSE, TRAJECTORIES
from sage_core.steps.reading import read_measurements
from sage_core.steps.speaking import Speaking
from sage_core.storage import ArtifactRef, read_rows, write_json


@dataclass(frozen=True, kw_only=True)
class CollapseMetrics(Step):
    """Whether a refined model has collapsed, by its conversations."""

    name = "collapse-metrics"
    retries = 1
    agent: Model
    rollouts: ArtifactRef
    measured: ArtifactRef
    settings: GatesConfig
    speaking: Speaking
    seed: int

    @property
    def engines(self) -> tuple[EngineConfig, ...]:
        return self.speaking.engines

    def run(self, folder: Path, context: Context) -> None:
        from sage_core.evaluation import collapse  # imports scipy

        selfplay, model = self.speaking.selfplay, self.speaking.model
        found = collapse.collapse_metrics(
            read_rows(context.folder(self.rollouts) / TRAJECTORIES, Trajectory),
            self.speaking.speaker(context, self.agent),
            context.engine(selfplay.agent_engine, self.agent.m0, model),
            selfplay,
            self.settings.kl_replies,
            self.seed,
            read_measurements(context.folder(self.measured)),
        )
        failed = collapse.collapsed(found, self.settings)
        write_json(folder / COLLAPSE, {"figures": found.figures(), "collapsed": failed})
