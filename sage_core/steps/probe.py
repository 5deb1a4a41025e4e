"""What m1 has learned of the states' format."""

from dataclasses import asdict, dataclass
from pathlib import Path

from sage_core.config.conversation import ProfileConfig
from sage_core.config.engine import EngineConfig
from sage_core.config.model import ModelConfig
from sage_core.config.search import SearchConfig
from sage_core.schema import Situation
from sage_core.search import selfplay
from sage_core.steps.base import Context, Model, Step
from sage_core.steps.names import PROBE, SITUATIONS
from sage_core.steps.speaking import speaker
from sage_core.storage import ArtifactRef, read_rows, write_json


@dataclass(frozen=True, kw_only=True)
class GrammarProbe(Step):
    """How many of m1's first replies have malformed states, with and without the grammar."""

    name = "grammar-probe"
    retries = 1
    agent: Model
    situations: ArtifactRef
    settings: SearchConfig
    profile: ProfileConfig
    model: ModelConfig
    seed: int

    @property
    def engines(self) -> tuple[EngineConfig, ...]:
        return (self.settings.selfplay.agent_engine,)

    def run(self, folder: Path, context: Context) -> None:
        from sage_core.evaluation.metrics import Rate  # imports scipy

        rows = read_rows(context.folder(self.situations) / SITUATIONS, Situation)
        rows = rows[: self.settings.grammar_probe]
        play = self.settings.selfplay
        agent = speaker(context, self.agent, play.agent_engine, self.model, self.profile)
        rates = {}
        for label, constrained in (("with grammar", True), ("without grammar", False)):
            rules = play.model_copy(update={"state_grammar": constrained})
            rates[label] = asdict(Rate.of(*selfplay.count_malformed(rows, agent, rules, self.seed)))
        write_json(folder / PROBE, rates)
