"""Who talks, about what, and how."""

from pathlib import Path

from pydantic import Field, field_validator

from sage_core.config.answers import UnreadSection
from sage_core.config.engine import EngineConfig, SamplingConfig, TransformersConfig, those_that
from sage_core.config.section import Positive, Section
from sage_core.sac import AGENT, USER, is_well_formed, render_state
from sage_core.states import EMPTY, FIELDS


class SituationsConfig(Section):
    """The statements that open simulated conversations."""

    path: Path | None = Field(
        None,
        description="JSON lines with situation_id, text, emotion and split ('search' or "
        "'evaluation'), or EmpatheticDialogues: its folder, or one of its files, which is then "
        "halved; empty = the embedded ones.",
    )


def _states_of_consent() -> str:
    user = agent = EMPTY
    for field in FIELDS:
        seen, planned = field.consent
        user, agent = field.put(user, (seen,)), field.put(agent, (planned,))
    return f"{render_state(user, USER.written)} {render_state(agent, AGENT.written)}"


class ProfileConfig(Section):
    """The exchange that opens a speaker's view of every conversation, in training as in use: what
    it is asked to be, and its consent."""

    ask: str = "Be my companion: caring, playful, honest about being an AI, and brief."
    consent: str = "Gladly. I am here, and I am listening."
    states: str = Field(
        _states_of_consent(),
        description="States before the consent, for models that write them.",
    )

    @field_validator("states")
    @classmethod
    def _well_formed(cls, states: str) -> str:
        if not is_well_formed(f"{states} ."):
            names = ", ".join(field.name for field in FIELDS)
            raise ValueError(f"is not both state groups of the format, each with {names}")
        return states


class ConversationConfig(Section):
    """Who talks: the profile that opens each speaker's view (:mod:`sage_core.conversation`)."""

    agent: ProfileConfig = ProfileConfig()
    user: ProfileConfig = ProfileConfig(
        ask="Be a person who tells an AI companion about their day, in a sentence or two.",
        consent="All right.",
    )
    train_user: bool = Field(
        False,
        description="Train m1 and raw on the user's side of the dialogues too, under the user's "
        "profile, since m1 plays the user. The paper trains the agent's side only.",
    )


class SelfPlayConfig(UnreadSection):
    """How the agent and the simulated user talk."""

    agent_engine: EngineConfig = TransformersConfig()
    user_engine: EngineConfig = TransformersConfig()
    max_turns: Positive = Field(12, description="Turns of a dialogue, both speakers counted.")
    sampling: SamplingConfig = SamplingConfig()
    state_grammar: bool = Field(True, description="Decode states under a grammar.")
    trim_user_questions: bool = Field(
        True, description="Cut the user's questions, so that the agent is the one who asks."
    )
    shard_size: Positive = Field(8, description="Situations per cached task.")

    @field_validator("agent_engine", "user_engine")
    @classmethod
    def _takes_adapters(cls, engine: EngineConfig) -> EngineConfig:
        if not engine.traits.loads_adapters:
            raise ValueError(
                "the agent and the user are checkpoints of this run, which only "
                f"{those_that('loads_adapters')} can load"
            )
        return engine
