"""Conversations on held-out situations (section 4.6)."""

from dataclasses import dataclass
from pathlib import Path

from sage_core.config.conversation import ConversationConfig, SelfPlayConfig
from sage_core.config.engine import EngineConfig
from sage_core.config.model import ModelConfig
from sage_core.schema import Trajectory
from sage_core.search import selfplay
from sage_core.search.strategies.greedy import Greedy
from sage_core.search.strategies.strategy import Players
from sage_core.search.unread import ROLLOUTS
from sage_core.steps.base import Context, Model, Step
from sage_core.steps.names import TRAJECTORIES
from sage_core.steps.speaking import situations_of, speaker, turns, write_tally
from sage_core.storage import ArtifactRef, write_rows


@dataclass(frozen=True, kw_only=True)
class RolloutShard(Step):
    """Plain conversations of one model from one shard of held-out situations."""

    name = "rollout-shard"
    retries = 1
    agent: Model
    user: Model
    situations: ArtifactRef
    settings: SelfPlayConfig
    conversation: ConversationConfig
    model: ModelConfig
    shard: int
    seed: int

    @property
    def engines(self) -> tuple[EngineConfig, ...]:
        return (self.settings.agent_engine, self.settings.user_engine)

    def run(self, folder: Path, context: Context) -> None:
        settings, model = self.settings, self.model
        part = situations_of(context, self.situations, settings, self.shard)
        title = f"rollout {self.agent.name} shard {self.shard + 1}"
        with context.progress(title, turns(part, settings)) as advance:
            agent, user = self.conversation.agent, self.conversation.user
            players = Players(
                speaker(context, self.agent, settings.agent_engine, model, agent),
                speaker(context, self.user, settings.user_engine, model, user),
                settings,
                self.seed,
            )
            found = selfplay.self_play(
                part, players, Greedy(1), work=context.work, on_progress=advance
            )
        write_rows(folder / TRAJECTORIES, [each.trajectory for each in found], Trajectory)
        write_tally(folder, found, settings, ROLLOUTS, context.work)
