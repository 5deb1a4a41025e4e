"""Self-play search (section 4.4)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sage_core.config.conversation import ConversationConfig
from sage_core.config.engine import EngineConfig
from sage_core.config.model import ModelConfig
from sage_core.config.search import SearchConfig
from sage_core.engines.base import Engine
from sage_core.named import Named
from sage_core.schema import SearchNode, Showing, Trajectory
from sage_core.search import selfplay
from sage_core.search.selectors import SELECTORS
from sage_core.search.selectors.selector import Inputs, selector_of
from sage_core.search.strategies import STRATEGIES
from sage_core.search.strategies.strategy import Players, strategy_of
from sage_core.search.unread import SEARCH
from sage_core.steps.base import Context, Model, Step
from sage_core.steps.names import SEARCH_TREE, SHOWINGS, TRAJECTORIES
from sage_core.steps.speaking import situations_of, speaker, turns, write_tally
from sage_core.storage import ArtifactRef, write_rows


@dataclass(frozen=True, kw_only=True)
class SearchShard(Step):
    """Self-play search from one shard of situations.

    Attributes:
        source: the hash of the files that the selector reads.
    """

    name = "search-shard"
    retries = 1
    agent: Model
    user: Model
    situations: ArtifactRef
    settings: SearchConfig
    conversation: ConversationConfig
    model: ModelConfig
    shard: int
    seed: int
    source: str

    @property
    def engines(self) -> tuple[EngineConfig, ...]:
        return engines_of(self.settings)

    @property
    def named(self) -> tuple[Named, ...]:
        return named_in(self.settings)

    def run(self, folder: Path, context: Context) -> None:
        part = situations_of(context, self.situations, self.settings.selfplay, self.shard)
        total = turns(part, self.settings.selfplay)
        title = f"search {self.agent.name} shard {self.shard + 1}"
        with context.progress(title, total) as advance:
            players = players_of(
                context, self.agent, self.user, self.settings, self.conversation, self.model,
                self.seed,
            )  # fmt: skip
            strategy = strategy_of(self.settings)
            found = selfplay.self_play(
                part, players, strategy, work=context.work, on_progress=advance
            )
        write_found(folder, found)
        write_tally(folder, found, self.settings.selfplay, SEARCH, context.work)


def engines_of(settings: SearchConfig) -> tuple[EngineConfig, ...]:
    """The engines that a search asks."""
    players = (settings.selfplay.agent_engine, settings.selfplay.user_engine)
    return (*players, settings.selector.engine) if settings.selector.asks_engine else players


def named_in(settings: SearchConfig) -> tuple[Named, ...]:
    """What the settings of a search name."""
    function = settings.selector.function
    return (
        *STRATEGIES.resolve(settings.strategy),
        *SELECTORS.resolve(settings.selector.chosen),
        *([Named(function, function)] if function else []),
    )


def players_of(
    context: Context,
    agent: Model,
    user: Model,
    settings: SearchConfig,
    conversation: ConversationConfig,
    model: ModelConfig,
    seed: int,
) -> Players:
    """Who plays, and the selector, which asks the agent's m0."""

    def selecting() -> Engine:
        return context.engine(settings.selector.engine, agent.m0, model)

    selfplay_ = settings.selfplay
    return Players(
        speaker(context, agent, selfplay_.agent_engine, model, conversation.agent),
        speaker(context, user, selfplay_.user_engine, model, conversation.user),
        selfplay_,
        seed,
        selector_of(Inputs(settings.selector, selecting, model, seed)),
    )


def write_found(folder: Path, found: Sequence[selfplay.Found]) -> None:
    """The tables of a search."""
    write_rows(folder / TRAJECTORIES, [each.trajectory for each in found], Trajectory)
    nodes = [node for each in found for node in each.nodes]
    write_rows(folder / SEARCH_TREE, nodes, SearchNode)
    showings = [showing for each in found for showing in each.showings]
    write_rows(folder / SHOWINGS, showings, Showing)
