"""The human dialogues."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from sage_core.config.section import NonNegative, Positive, Runtime, Section, Share
from sage_core.corpus.readers import READERS
from sage_core.corpus.rules import RULES


class ThreadsConfig(Section):
    """How reply trees become dialogues: every path from a root to a leaf is one."""

    two_authors: bool = Field(False, description="Only paths on which two authors take turns.")
    merge_consecutive: bool = Field(
        True, description="Posts of one author that follow each other become one turn."
    )
    drop_deleted: bool = Field(
        True,
        description="Drop posts such as [deleted] or [ Removed by Reddit ]; answers to them start "
        "own trees.",
    )
    bot_pattern: str = Field(
        r"(?i:^automoderator$|(?<!ab)(?<!ca)(?<!tal)(?<!tur)(?<!ro)bot[\d_-]*$)"
        r"|(?:Bot|BOT)[\d_-]*$",
        description="Posts of authors that match this regular expression are dropped likewise; "
        "empty = none. By default names that end in 'bot', digits aside, but for words such as "
        "'abbot'.",
    )
    max_paths: NonNegative = Field(0, description="Paths per thread, drawn at random; 0 = all.")

    @field_validator("bot_pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"is not a regular expression: {error}") from None
        return pattern


def _names(value: Any) -> Any:
    """YAML makes a number of a name such as 7."""
    return {str(name): role for name, role in value.items()} if isinstance(value, dict) else value


RolesConfig = Annotated[dict[str, Literal["user", "assistant", "system"]], BeforeValidator(_names)]


class ColumnsConfig(Section):
    """The names of a record's fields, where they are not recognised; "" = recognised."""

    messages: str = Field("", description="List of the messages, or of alternating texts.")
    role: str = Field("", description="Role or speaker: of a message, or of a row of a table.")
    content: str = Field("", description="Text: of a message, or of a row of a table.")
    conversation: str = Field(
        "",
        description="Conversation that a row of a table belongs to; its rows follow each other.",
    )
    prompt: str = Field("", description="Instruction or question of a single exchange.")
    query: str = Field("", description="Input of the instruction, appended to it.")
    response: str = Field("", description="Answer of a single exchange.")
    id: str = Field("", description="Name of the conversation, dialogue_id.")


class CorpusConfig(Section):
    """Which human dialogues are kept (paper section 4.1)."""

    reader: Annotated[str, READERS] = Field("chitchat", description="Format of the input.")
    input: Path | None = Field(
        None, description="File or folder of the reader, or name on the hub; not for packaged data."
    )
    configuration: str = Field(
        "", description="Configuration (subset) of a data set of the reader 'hf'; empty = its only."
    )
    splits: tuple[str, ...] = Field(
        (), description="Splits of a data set of the reader 'hf' that are read; none = all."
    )
    columns: ColumnsConfig = ColumnsConfig()
    roles: RolesConfig = Field(
        {},
        description="What the roles or speakers of the records are: user, assistant, or system, "
        "which is left out. The usual names need no entry. In a chat of people, name the one who "
        "is the assistant; all others are users.",
    )
    pause_hours: float = Field(
        6.0, gt=0, description="In a chat of people, a longer pause begins a new dialogue."
    )
    licence: str = Field("", description="Licence of the input, for the data card.")
    language: str = Field(
        "",
        pattern="^([a-z]{2,3})?$",
        description="ISO 639 code of the dialogues' language, such as 'en' or 'zh'. Rules about "
        "English words do not apply to other languages. Empty: sentiment applies to dialogues in "
        "Latin script.",
    )
    threads: ThreadsConfig = ThreadsConfig()
    span: Literal["whole", "longest_run"] = Field(
        "whole",
        description="'longest_run' keeps the first longest run of turns over min_sentiment.",
    )
    rules: Annotated[str | tuple[str, ...], RULES] = Field(
        "paper",
        description="A name or a list of them, in the order of application. 'paper' stands for the "
        "paper's four rules, 'dialogpt' for DialoGPT's, 'all' for all that are built in.",
    )
    min_turns: Positive = Field(5, description="Fewest turns kept; the paper: more than 4.")
    min_mean_words: float = Field(15.0, ge=0, description="Mean words a turn must be over this.")
    min_sentiment: float = Field(
        0.4, ge=-1, le=1, description="Every turn's VADER compound must be over this."
    )
    max_words: Positive = Field(200, description="Words of a whole dialogue at most (DialoGPT).")
    max_repeats: Positive = Field(
        2, description="Times that a word may be repeated in a row at most (DialoGPT)."
    )
    blocked_phrases: Path | None = Field(
        None, description="A text file of offensive words or phrases, one a line, on top."
    )
    blocked_sources: tuple[str, ...] = Field(
        (), description="Sources dropped by the rule 'subreddit', on top of the list with it."
    )
    near_duplicate_similarity: float = Field(
        0.8,
        gt=0,
        le=1,
        description="Jaccard similarity of word 5-grams from which on two "
        "dialogues are near duplicates.",
    )
    max_read: NonNegative = Field(0, description="Conversations read at most; 0 = all.")
    max_bad_share: Share = Field(
        0.01, description="Share of records that may be unreadable before the run stops."
    )
    max_record_bytes: Positive = Field(
        4_194_304, description="A longer record is quarantined, not read into memory."
    )
    validation_share: Share = Field(
        0.0,
        description="Share of threads in the validation split, which no stage of a run reads: for "
        "your own use; `sage corpus build` has 0.02.",
    )
    test_share: Share = Field(
        0.0, description="Share of threads in the test split; as validation_share."
    )
    max_dialogues: NonNegative = Field(
        0, description="Kept dialogues used for training, drawn at random; 0 = all."
    )
    max_turns: NonNegative = Field(
        0, description="Turns of a kept dialogue used for training, from its start; 0 = all."
    )
    weight: float = Field(
        0.0,
        ge=0,
        description="With several corpora: how many of its dialogues are used, relative to the "
        "others' weights; 0 = all.",
    )
    records_per_partition: Positive = Field(
        50_000, description="Records filtered by one task; bounds its memory."
    )

    sort_memory_mb: Runtime[Positive] = Field(
        150,
        description="Memory of the sort by thread and of the search for repeated names, which "
        "spill to disk; 150 MB are enough for 8 million posts, and a larger dump needs somewhat "
        "more.",
    )

    @property
    def reading(self) -> Self:
        """Only what reading depends on, so that a changed threshold reads nothing again."""
        names = {
            "reader", "input", "configuration", "splits", "columns", "roles", "pause_hours",
            "max_read", "max_bad_share", "max_record_bytes", "sort_memory_mb",
        }  # fmt: skip
        return type(self)(**{name: getattr(self, name) for name in names})

    @model_validator(mode="after")
    def _leaves_some_for_training(self) -> Self:
        if self.validation_share + self.test_share >= 1:
            raise ValueError(
                "validation_share and test_share leave nothing for training; together they must "
                "be under 1"
            )
        return self
