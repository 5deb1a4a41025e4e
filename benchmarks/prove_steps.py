"""The steps of `make prove` beside the pipeline's."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks import preference
from benchmarks.prove_settings import Half, halved
from sage_core.config.conversation import ProfileConfig, SelfPlayConfig
from sage_core.config.engine import EngineConfig
from sage_core.config.model import ModelConfig
from sage_core.schema import PreferencePair, Situation, Trajectory
from sage_core.steps.base import Context, Model, Step
from sage_core.steps.names import PREFERENCES, SITUATIONS, TRAJECTORIES
from sage_core.steps.speaking import speaker
from sage_core.storage import ArtifactRef, read_rows, write_json, write_rows

LIKELIHOODS = "likelihoods.json"


@dataclass(frozen=True, kw_only=True)
class HeldOutHalf(Step):
    """The situations of one half, as :func:`halved` parts them."""

    name = "held-out-half"
    situations: ArtifactRef
    half: str

    def run(self, folder: Path, context: Context) -> None:
        rows = read_rows(context.folder(self.situations) / SITUATIONS, Situation)
        write_rows(folder / SITUATIONS, halved(rows)[Half(self.half)], Situation)


@dataclass(frozen=True, kw_only=True)
class SwappedPairs(Step):
    """Preference pairs with chosen and rejected exchanged."""

    name = "swapped-pairs"
    pairs: ArtifactRef

    def run(self, folder: Path, context: Context) -> None:
        rows = read_rows(context.folder(self.pairs) / PREFERENCES, PreferencePair)
        write_rows(folder / PREFERENCES, [swapped(pair) for pair in rows], PreferencePair)


@dataclass(frozen=True, kw_only=True)
class Likelihoods(Step):
    """The candidate sets under one model."""

    name = "likelihoods"
    retries = 1
    agent: Model
    sets: ArtifactRef
    selfplay: SelfPlayConfig
    profile: ProfileConfig
    model: ModelConfig

    @property
    def engines(self) -> tuple[EngineConfig, ...]:
        return (self.selfplay.agent_engine,)

    def run(self, folder: Path, context: Context) -> None:
        rows = read_rows(context.folder(self.sets) / TRAJECTORIES, Trajectory)
        engine = self.selfplay.agent_engine
        agent = speaker(context, self.agent, engine, self.model, self.profile)
        found = preference.likelihoods(rows, agent, self.selfplay, seed=0)
        write_json(folder / LIKELIHOODS, [asdict(row) for row in found])


def swapped(pair: PreferencePair) -> PreferencePair:
    """The pair that prefers the other reply."""
    return replace(
        pair,
        chosen=pair.rejected,
        rejected=pair.chosen,
        chosen_cut=pair.rejected_cut,
        rejected_cut=pair.chosen_cut,
    )
