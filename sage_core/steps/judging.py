"""Pairwise judging (section 4.6)."""

from dataclasses import dataclass
from pathlib import Path

from sage_core.config.engine import EngineConfig
from sage_core.named import Named
from sage_core.schema import Trajectory
from sage_core.steps.base import Context, Model, Step
from sage_core.steps.judged import Judge
from sage_core.steps.names import TRAJECTORIES
from sage_core.storage import ArtifactRef, read_rows


@dataclass(frozen=True, kw_only=True)
class JudgePair(Step):
    """One judge's verdicts on one pair of models, both orders, and how many answers were read.

    Attributes:
        situations: of those that ``rollouts_a`` has, the first so many are judged; 0 = all.
    """

    name = "judge-pair"
    retries = 1
    model_a: str
    model_b: str
    rollouts_a: ArtifactRef
    rollouts_b: ArtifactRef
    m0: Model
    judge: Judge
    situations: int
    seed: int

    @property
    def engines(self) -> tuple[EngineConfig, ...]:
        return self.judge.engines

    @property
    def named(self) -> tuple[Named, ...]:
        return self.judge.named

    def run(self, folder: Path, context: Context) -> None:
        first = read_rows(context.folder(self.rollouts_a) / TRAJECTORIES, Trajectory)
        second = read_rows(context.folder(self.rollouts_b) / TRAJECTORIES, Trajectory)
        if self.situations:
            first = first[: self.situations]
            judged = {trajectory.situation_id for trajectory in first}
            second = [trajectory for trajectory in second if trajectory.situation_id in judged]
        names = (self.model_a, self.model_b)
        title = f"judge {self.model_a}-{self.model_b}"
        self.judge.compare(names, first, second, context, self.m0, self.seed, title, folder)
