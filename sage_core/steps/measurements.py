"""What conversations say of a model without a judge."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sage_core.config.engine import EngineConfig
from sage_core.config.evaluation import QualityConfig
from sage_core.config.model import ModelConfig
from sage_core.schema import Trajectory
from sage_core.steps.base import Context, Model, Step, writes_states
from sage_core.steps.names import MEASUREMENTS, QUALITY, TRAJECTORIES
from sage_core.steps.reading import read_measurements
from sage_core.storage import ArtifactRef, read_rows, write_json

if TYPE_CHECKING:
    from sage_core.evaluation.measuring import Embed


@dataclass(frozen=True, kw_only=True)
class Measurements(Step):
    """What a model's conversations say of it without a judge, by situation.

    Attributes:
        of: the name of the model.
        m0: measures its conversations, through ``engine``.
        scorer: the sentence embedder that is installed.
    """

    name = "measurements"
    retries = 1
    of: str
    m0: Model
    rollouts: ArtifactRef
    settings: QualityConfig
    engine: EngineConfig
    model: ModelConfig
    scorer: str
    seed: int

    @property
    def engines(self) -> tuple[EngineConfig, ...]:
        return (self.engine,)

    def embedder(self) -> "Embed":
        """What makes sentence embeddings."""
        from sage_core.evaluation.embedding import embed

        return embed

    def run(self, folder: Path, context: Context) -> None:
        from sage_core.evaluation import measuring  # imports scipy

        rows = read_rows(context.folder(self.rollouts) / TRAJECTORIES, Trajectory)
        with context.progress(f"measure {self.of}", measuring.STEPS) as advance:
            measured = measuring.measure(
                self.of,
                rows,
                context.engine(self.engine, self.m0, self.model),
                self.settings,
                self.seed,
                states=writes_states(self.of),
                embed=self.embedder(),
                on_progress=advance,
            )
        write_json(folder / MEASUREMENTS, asdict(measured))


@dataclass(frozen=True, kw_only=True)
class Quality(Step):
    """All models' measurements, in the order of their making, the later ones against m1."""

    name = "quality"
    measured: tuple[ArtifactRef, ...]
    bootstrap_samples: int
    seed: int

    def run(self, folder: Path, context: Context) -> None:
        from sage_core.evaluation import quality  # imports scipy

        rows = [read_measurements(context.folder(ref)) for ref in self.measured]
        write_json(
            folder / QUALITY, asdict(quality.compare(rows, self.bootstrap_samples, self.seed))
        )
