"""What search found, as training data (sections 4.4 and 4.5)."""

from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

from sage_core.config.conversation import ProfileConfig
from sage_core.schema import PreferencePair, TrainingDialogue, Trajectory
from sage_core.steps.base import Context, Step
from sage_core.steps.names import PREFERENCES, TRAINING, TRAJECTORIES
from sage_core.steps.tables import rows_of
from sage_core.storage import ArtifactRef, read_rows, write_rows
from sage_core.training import data


@dataclass(frozen=True, kw_only=True)
class SelectedDialogues(Step):
    """The trajectories that search selected, as training text."""

    name = "selected-dialogues"
    trajectories: ArtifactRef
    profile: ProfileConfig

    def run(self, folder: Path, context: Context) -> None:
        rows = read_rows(context.folder(self.trajectories) / TRAJECTORIES, Trajectory)
        selected = data.selected_dialogues(rows, self.profile)
        write_rows(folder / TRAINING, selected, TrainingDialogue)


@dataclass(frozen=True, kw_only=True)
class Preferences(Step):
    """Chosen against rejected candidates of all rounds."""

    name = "preferences"
    trajectories: tuple[ArtifactRef, ...]
    profile: ProfileConfig
    rejected: Literal["random", "lowest"]
    max_pairs: int
    seed: int

    def run(self, folder: Path, context: Context) -> None:
        rows = rows_of(context, self.trajectories, TRAJECTORIES, Trajectory)
        pairs = data.preference_pairs(rows, self.profile, self.seed, self.rejected)
        drawn = at_most(pairs, self.max_pairs, self.seed)
        write_rows(folder / PREFERENCES, drawn, PreferencePair)


@dataclass(frozen=True, kw_only=True)
class DrawnPairs(Step):
    """Preference pairs that are there already, at most ``max_pairs`` of them."""

    name = "drawn-pairs"
    pairs: ArtifactRef
    max_pairs: int
    seed: int

    def run(self, folder: Path, context: Context) -> None:
        pairs = read_rows(context.folder(self.pairs) / PREFERENCES, PreferencePair)
        drawn = at_most(pairs, self.max_pairs, self.seed)
        write_rows(folder / PREFERENCES, drawn, PreferencePair)


def at_most(pairs: list[PreferencePair], number: int, seed: int) -> list[PreferencePair]:
    """``number`` of the pairs, drawn at random; 0 = all."""
    return Random(seed).sample(pairs, number) if number and len(pairs) > number else pairs
