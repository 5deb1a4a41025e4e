"""What a text classifier of the user's says of all models' replies."""

from dataclasses import asdict, dataclass
from pathlib import Path

from sage_core.config.evaluation import ClassifierConfig
from sage_core.schema import Trajectory
from sage_core.steps.base import Context, Step
from sage_core.steps.names import CLASSIFIED, TRAJECTORIES
from sage_core.storage import ArtifactRef, read_rows, write_json


@dataclass(frozen=True, kw_only=True)
class Classify(Step):
    """The probability of one class for every reply, by model and situation.

    Attributes:
        source: the hash of the classifier's files.
        rollouts: by model, in the order of their making.
    """

    name = "classify"
    settings: ClassifierConfig
    source: str
    device: str
    rollouts: dict[str, ArtifactRef]
    bootstrap_samples: int
    seed: int

    def run(self, folder: Path, context: Context) -> None:
        from sage_core.evaluation import classifiers  # imports scipy

        rollouts = {
            name: read_rows(context.folder(ref) / TRAJECTORIES, Trajectory)
            for name, ref in self.rollouts.items()
        }
        found = classifiers.classify(
            self.settings, self.device, rollouts, self.bootstrap_samples, self.seed
        )
        write_json(folder / CLASSIFIED, asdict(found))
