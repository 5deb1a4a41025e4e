"""The models that talk in a conversation."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sage_core.config.conversation import ProfileConfig, SelfPlayConfig
from sage_core.config.engine import EngineConfig
from sage_core.config.model import ModelConfig
from sage_core.errors import AnswersError
from sage_core.schema import Situation
from sage_core.search.dialogue import Speaker
from sage_core.search.selfplay import Found
from sage_core.search.unread import tally_of
from sage_core.steps.base import Context, Model
from sage_core.steps.names import ANSWERS, SITUATIONS
from sage_core.storage import ArtifactRef, read_rows, shards, write_json


@dataclass(frozen=True, kw_only=True)
class Speaking:
    """How a model talks with the people of the evaluation.

    Attributes:
        profile: the agent's.
        model: the settings of m0 and of all models over it.
    """

    selfplay: SelfPlayConfig
    profile: ProfileConfig
    model: ModelConfig

    @property
    def engines(self) -> tuple[EngineConfig, ...]:
        return (self.selfplay.agent_engine,)

    def speaker(self, context: Context, agent: Model) -> Speaker:
        """``agent`` under its profile."""
        return speaker(context, agent, self.selfplay.agent_engine, self.model, self.profile)


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


def write_tally(
    folder: Path, found: Sequence[Found], settings: SelfPlayConfig, setting: str, work: Path
) -> None:
    """Write how many answers of a shard were read.

    Raises:
        AnswersError: hopelessly few. What was saved in ``work`` is dropped, since a search that
            goes on from it would not ask again.
    """
    tally = tally_of(found)
    try:
        tally.check_part(settings.max_unread_share, setting)
    except AnswersError:
        shutil.rmtree(work, ignore_errors=True)
        raise
    write_json(folder / ANSWERS, tally.as_dict())
