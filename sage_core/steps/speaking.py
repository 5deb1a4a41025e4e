"""The models that talk in a conversation."""

from collections.abc import Sequence

from sage_core.config.conversation import ProfileConfig, SelfPlayConfig
from sage_core.config.engine import EngineConfig
from sage_core.config.model import ModelConfig
from sage_core.schema import Situation
from sage_core.search.dialogue import Speaker
from sage_core.steps.base import Context, Model
from sage_core.steps.names import SITUATIONS
from sage_core.storage import ArtifactRef, read_rows, shards


def speaker(
    context: Context,
    model: Model,
    settings: EngineConfig,
    config: ModelConfig,
    profile: ProfileConfig,
) -> Speaker:
    """``model`` under its profile."""
    engine = context.engine(settings, model, config)
    return Speaker(model.name, engine, model.states, profile)


def situations_of(
    context: Context, ref: ArtifactRef, settings: SelfPlayConfig, shard: int
) -> list[Situation]:
    """One shard of an artefact's situations."""
    rows = read_rows(context.folder(ref) / SITUATIONS, Situation)
    return list(shards(rows, settings.shard_size)[shard])


def turns(part: Sequence[Situation], settings: SelfPlayConfig) -> int:
    """Turns of the conversations, their openings not counted."""
    return len(part) * (settings.max_turns - 1)
