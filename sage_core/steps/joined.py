"""The tables of all shards in one."""

from dataclasses import dataclass
from pathlib import Path

from sage_core.schema import Judgement, SearchNode, Showing, Trajectory
from sage_core.steps.base import Context, Step
from sage_core.steps.names import JUDGEMENTS, SEARCH_TREE, SHOWINGS, TRAJECTORIES
from sage_core.steps.tables import concatenate, join_answers
from sage_core.storage import ArtifactRef


@dataclass(frozen=True, kw_only=True)
class Trajectories(Step):
    """All trajectories of a model."""

    name = "trajectories"
    parts: tuple[ArtifactRef, ...]

    def run(self, folder: Path, context: Context) -> None:
        concatenate(context, self.parts, TRAJECTORIES, Trajectory, folder)
        join_answers(context, self.parts, folder)


@dataclass(frozen=True, kw_only=True)
class Searched(Step):
    """All trajectories of a search, with its tree and what its selector was shown."""

    name = "searched"
    parts: tuple[ArtifactRef, ...]

    def run(self, folder: Path, context: Context) -> None:
        concatenate(context, self.parts, TRAJECTORIES, Trajectory, folder)
        concatenate(context, self.parts, SEARCH_TREE, SearchNode, folder)
        concatenate(context, self.parts, SHOWINGS, Showing, folder)
        join_answers(context, self.parts, folder)


@dataclass(frozen=True, kw_only=True)
class Judgements(Step):
    """All verdicts."""

    name = "judgements"
    parts: tuple[ArtifactRef, ...]

    def run(self, folder: Path, context: Context) -> None:
        concatenate(context, self.parts, JUDGEMENTS, Judgement, folder)
        join_answers(context, self.parts, folder)
