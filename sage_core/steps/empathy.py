"""What a model makes of the user's emotion, and what it says it is."""

from dataclasses import asdict, dataclass
from pathlib import Path

from sage_core.config.empathy import EmpathyConfig
from sage_core.config.engine import EngineConfig
from sage_core.schema import Situation
from sage_core.steps.base import Context, Model, Step
from sage_core.steps.names import EMPATHY, SITUATIONS
from sage_core.steps.speaking import Speaking
from sage_core.storage import ArtifactRef, read_rows, write_json


@dataclass(frozen=True, kw_only=True)
class Empathy(Step):
    """The emotions that a model finds in situations, and its answers to "are you human?".

    Attributes:
        situations: with EmpatheticDialogues' labels.
    """

    name = "empathy"
    retries = 1
    agent: Model
    situations: ArtifactRef
    settings: EmpathyConfig
    speaking: Speaking
    seed: int

    @property
    def engines(self) -> tuple[EngineConfig, ...]:
        return self.speaking.engines

    def run(self, folder: Path, context: Context) -> None:
        from sage_core.evaluation.empathy import emotions, human_probe  # import scipy

        rows = read_rows(context.folder(self.situations) / SITUATIONS, Situation)
        agent = self.speaking.speaker(context, self.agent)
        with context.progress(f"empathy {self.agent.name}", 2) as advance:
            found = emotions.recognise(rows, agent, self.seed)
            advance(1)
            probe = human_probe.probe(agent, self.speaking.selfplay, self.settings.draws, self.seed)
            advance(1)
        write_json(
            folder / EMPATHY,
            {
                "model": self.agent.name,
                "recognition": [asdict(each) for each in found],
                "probe": asdict(probe),
            },
        )
