"""How far a model can be steered (section 5.3)."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sage_core.config.engine import EngineConfig
from sage_core.config.steering import SteeringReportConfig
from sage_core.schema import Situation
from sage_core.steps.base import Context, Model, Step
from sage_core.steps.names import SITUATIONS, STEERING
from sage_core.steps.speaking import Speaking
from sage_core.storage import ArtifactRef, read_rows, write_json

if TYPE_CHECKING:
    from sage_core.evaluation.faithfulness import Embed


@dataclass(frozen=True, kw_only=True)
class SteeringEvidence(Step):
    """How far a model can be steered, on held-out situations (section 5.3, Tables 3 to 5)."""

    name = "steering-evidence"
    retries = 1
    agent: Model
    situations: ArtifactRef
    settings: SteeringReportConfig
    speaking: Speaking
    seed: int

    @property
    def engines(self) -> tuple[EngineConfig, ...]:
        return self.speaking.engines

    def embedder(self) -> "Embed | None":
        """What makes sentence embeddings; None: no measure by them."""
        from sage_core.evaluation.embedding import embed

        return embed

    def run(self, folder: Path, context: Context) -> None:
        from sage_core.evaluation import steering  # imports scipy

        rows = read_rows(context.folder(self.situations) / SITUATIONS, Situation)
        agent = self.speaking.speaker(context, self.agent)
        title = f"steer {self.agent.name}"
        with context.progress(title, steering.steps(self.settings)) as advance:
            evidence = steering.evidence(
                rows, agent, self.settings, self.speaking.selfplay, self.seed, advance,
                self.embedder(),
            )  # fmt: skip
        write_json(folder / STEERING, asdict(evidence))
