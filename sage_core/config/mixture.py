"""What is trained on beside the main corpus."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from sage_core.config.corpus import ColumnsConfig, CorpusConfig, RolesConfig
from sage_core.config.section import Section, Share
from sage_core.corpus.readers import READERS


class InstructionsConfig(Section):
    """Instruction data, trained on as it is, without states."""

    reader: Annotated[str, READERS] = Field(
        "messages", description="Format of the input; one of dialogues, not of reply trees."
    )
    input: Path = Field(description="File or folder of the reader, or name on the hub.")
    configuration: str = Field("", description="As corpus.configuration.")
    splits: tuple[str, ...] = Field((), description="As corpus.splits.")
    columns: ColumnsConfig = ColumnsConfig()
    roles: RolesConfig = Field({}, description="As corpus.roles.")
    max_unused_share: Share = Field(
        0.05,
        description="Share of records that may be unreadable, or without a question and its "
        "answer, before the run stops; they are counted by reason.",
    )
    share: float = Field(0.1, ge=0, lt=1, description="Share of the training dialogues.")


class MixtureConfig(Section):
    """What SFT trains on besides the main corpus."""

    corpora: tuple[CorpusConfig, ...] = Field(
        (), description="Further corpora; max_dialogues and weight say how much of each."
    )
    blend: Share = Field(
        0.0, description="Share of dialogues joined in pairs, one's turns after the other's."
    )
    instructions: InstructionsConfig | None = None
