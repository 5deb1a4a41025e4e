"""One frozen model per stage, and :class:`PipelineConfig`, which holds them all.

This is the one source of the command line's, the YAML presets' and the Prefect form's parameters.
Defaults are the paper's numbers where the paper gives them; presets override them. In a field
documented with "0 = ...", zero switches the limit off.
"""

import re
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from sage_core.errors import ConfigError
from sage_core.keys import holds_credentials
from sage_core.sac import AGENT, USER, is_well_formed, render_state
from sage_core.states import EMPTY, FIELDS, SCORED, TOPIC, StateField

PRESETS = ("tiny", "demo", "paper")
EMBEDDED_MODEL = "smollm2-135m-instruct"

Reader = Literal[
    "chitchat", "empathetic_dialogues", "pushshift", "convokit", "sharegpt", "messages", "hf"
]
RuleSet = Literal["paper", "dialogpt", "all"]
Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Value = TypeVar("Value")
RUNTIME = "runtime"
Runtime = Annotated[Value, RUNTIME]
"""A setting that says how a step runs and cannot change what it makes: it is in no key."""
_UNSHOWN = "unshown"  # the type of errors whose value no message may repeat
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """A frozen part of the configuration; an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True
    )


# Options that need hardware which no test or run of ours has had, by key and value.
EXPERIMENTAL = {
    "model.quantization": ("4bit",),
    "training.launcher.strategy": ("fsdp", "zero2", "zero3"),
}
NEVER_RUN = "experimental: no test and no run of ours has used it"


class ModelConfig(Section):
    """The base model m0."""

    base: str = Field(
        EMBEDDED_MODEL,
        description=f"'{EMBEDDED_MODEL}' (embedded), a model folder, or a hub name ORG/NAME.",
    )
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto",
        description="'auto': bfloat16 on a GPU and on processors with instructions for it (AMX, "
        "AVX-512 BF16), else float32, which is several times faster on the others.",
    )
    quantization: Literal["none", "4bit"] = Field(
        "none",
        description="'4bit': the base in NF4 (QLoRA), which needs bitsandbytes and a GPU; "
        f"{NEVER_RUN}.",
    )
    device: str = Field("auto", description="'auto', 'cpu', 'cuda' or 'cuda:N'.")
    max_context: Positive = Field(
        2048,
        description="Longest prompt and reply together, in tokens; a longer conversation loses its "
        "oldest turns.",
    )
    batch_size: Runtime[Positive] = Field(64, description="Sequences generated together.")
    prefill_tokens: Runtime[Positive] = Field(
        8192, description="Prompt tokens read together at most."
    )
    resident_adapters: Runtime[Positive] = Field(4, description="Adapters kept in memory at once.")


class ThreadsConfig(Section):
    """How reply trees become dialogues: every path from a root to a leaf is one."""

    two_authors: bool = Field(False, description="Only paths on which two authors take turns.")
    merge_consecutive: bool = Field(
        True, description="Posts of one author that follow each other become one turn."
    )
    drop_deleted: bool = Field(
        True, description="Drop [deleted] and [removed] posts; answers to them start own trees."
    )
    bot_pattern: str = Field(
        r"(?i)^automoderator$|bot$",
        description="Posts of authors that match this regular expression are dropped likewise; "
        "empty = none.",
    )
    max_paths: NonNegative = Field(0, description="Paths per thread, drawn at random; 0 = all.")

    @field_validator("bot_pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        return pattern


class CorpusConfig(Section):
    """Which human dialogues are kept (paper section 4.1)."""

    reader: Reader = "chitchat"
    input: Path | None = Field(
        None, description="File or folder of the reader, or name on the hub; not for packaged data."
    )
    licence: str = Field("", description="Licence of the input, for the data card.")
    threads: ThreadsConfig = ThreadsConfig()
    span: Literal["whole", "longest_run"] = Field(
        "whole",
        description="'longest_run' keeps the first longest run of turns over min_sentiment.",
    )
    rules: RuleSet | tuple[str, ...] = Field(
        "paper",
        description="'paper' for the paper's four rules, 'dialogpt' for DialoGPT's, 'all', or a "
        "list of rule names.",
    )
    min_turns: Positive = Field(5, description="Fewest turns kept; the paper: more than 4.")
    min_mean_words: float = Field(15.0, ge=0, description="Mean words a turn must be over this.")
    min_sentiment: float = Field(
        0.4, ge=-1, le=1, description="Every turn's VADER compound must be over this."
    )
    max_words: Positive = Field(200, description="Words of a whole dialogue at most (DialoGPT).")
    max_repeats: Positive = Field(
        2, description="Times in a row that a word may stand at most (DialoGPT)."
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
        description="Memory of the sort by thread, which spills to disk; 150 MB are enough for "
        "8 million posts, and a larger dump needs somewhat more.",
    )

    @property
    def reading(self) -> Self:
        """Only what reading depends on, so that a changed threshold reads nothing again."""
        names = {
            "reader", "input", "max_read", "max_bad_share", "max_record_bytes", "sort_memory_mb"
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


class InstructionsConfig(Section):
    """Instruction data, trained on as it is, without states."""

    reader: Literal["messages", "sharegpt", "hf"] = "messages"
    input: Path = Field(description="File or folder of the reader, or name on the hub.")
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


class EngineConfig(Section):
    """How a role speaks to a model."""

    kind: Literal["transformers", "openai", "vllm"] = Field(
        "transformers",
        description="The base model in this process; an OpenAI-compatible HTTP server; or the base "
        "model on a vLLM server that this process starts and stops.",
    )
    server: Literal["openai", "vllm", "llama.cpp"] = Field(
        "openai",
        description="What answers (openai only): 'vllm' and 'llama.cpp' may be asked for top-k, "
        "penalties, grammars and a forced start as well, 'vllm' for options of several tokens.",
    )
    model: str = Field("", description="Name of the model on the server (openai only).")
    base_url: str = Field(
        "",
        description="Address of the server, without a user name or password; empty = OpenAI's own.",
    )
    api_key_env: Runtime[str] = Field(
        "OPENAI_API_KEY",
        description="Name of the environment variable that holds the key: capital letters, digits "
        "and underscores.",
    )
    max_concurrency: Runtime[Positive] = Field(
        16, description="Requests under way at once on one server, all stages together."
    )
    timeout_s: Runtime[float] = Field(
        600.0, gt=0, description="Seconds without an answer before a request is sent again."
    )
    max_retries: Runtime[NonNegative] = Field(
        4, description="How often a request that failed or fell short is sent again."
    )
    max_spend_usd: Runtime[float] = Field(
        0.0,
        ge=0,
        description="Most that this model may cost in USD under one SAGE_HOME, all runs together; "
        "requests under way when it is reached are finished. 0 = no limit.",
    )
    usd_per_million_prompt_tokens: Runtime[float] = Field(0.0, ge=0)
    usd_per_million_completion_tokens: Runtime[float] = Field(0.0, ge=0)
    vllm_python: Path | None = Field(
        None,
        description="Python of the environment that has vLLM (vllm only); empty = that of "
        "`make setup-vllm-cpu`.",
    )
    vllm_arguments: tuple[str, ...] = Field(
        (), description="Further arguments of the vLLM server, such as --tensor-parallel-size=2."
    )
    vllm_start_timeout_s: Runtime[float] = Field(
        900.0, gt=0, description="Seconds that the vLLM server may take to load the model."
    )

    # The configuration is stored with each run, so it must not hold a key.

    @field_validator("base_url")
    @classmethod
    def _holds_no_credentials(cls, value: str) -> str:
        if holds_credentials(value):
            raise PydanticCustomError(
                _UNSHOWN,
                "an address must not hold a user name or password (user:password@host); put the "
                "key into the environment variable that api_key_env names, and write any other "
                "'@' as %40",
            )
        return value

    @field_validator("api_key_env")
    @classmethod
    def _names_a_variable(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", value):
            raise PydanticCustomError(
                _UNSHOWN,
                "it is not the name of an environment variable (capital letters, digits and "
                "underscores), such as OPENAI_API_KEY; the key itself goes into that variable",
            )
        return value

    @field_validator("vllm_arguments")
    @classmethod
    def _hold_no_key(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(argument.partition("=")[0] == "--api-key" for argument in value):
            raise PydanticCustomError(
                _UNSHOWN, "leave out --api-key: the server gets a key of its own at each start"
            )
        return value

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.kind == "openai" and not self.model:
            raise ValueError("an engine of kind 'openai' needs 'model', its name on the server")
        if self.kind == "openai" and self.server == "vllm" and not self.base_url:
            raise ValueError("a vLLM server needs 'base_url', such as http://localhost:8000/v1")
        priced = self.usd_per_million_prompt_tokens or self.usd_per_million_completion_tokens
        if self.max_spend_usd and not priced:
            raise ValueError(
                "max_spend_usd needs the model's prices: set usd_per_million_prompt_tokens and "
                "usd_per_million_completion_tokens"
            )
        return self


class SamplingConfig(Section):
    """How tokens are drawn. The paper: top-k 100, temperature 1.1, repetition penalty 1.1."""

    temperature: float = Field(1.1, ge=0, description="0 = the most likely token.")
    top_k: NonNegative = Field(100, description="Tokens drawn from; 0 = all.")
    repetition_penalty: float = Field(1.1, ge=1, description="1 = none.")
    penalise_states: bool = Field(
        False, description="Whether the repetition penalty also holds inside the states."
    )
    max_new_tokens: Positive = Field(200, description="Tokens of an utterance; states not counted.")
    max_state_tokens: Positive = Field(
        96, description="Tokens of the states before an utterance, both groups together."
    )

    def budget(self, states: bool) -> int:
        """Tokens of a reply at most, with states or without."""
        return self.max_new_tokens + (self.max_state_tokens if states else 0)


class AnnotationConfig(Section):
    """An LLM gives every utterance its state (section 4.2)."""

    engine: EngineConfig = EngineConfig()
    method: Literal["write", "score"] = Field(
        "write",
        description="'write': the model writes the values down; 'score': it chooses from the lists "
        "by its probabilities, which a small model does far better.",
    )
    context_turns: NonNegative = Field(2, description="Earlier turns shown to the annotator.")
    motivations: tuple[str, ...] = Field((), description="Allowed values; empty = free text.")
    emotions: tuple[str, ...] = Field((), description="Allowed values; empty = free text.")
    topics: Literal["written", "extracted"] = Field(
        "written",
        description="'written': as the model writes them; 'extracted': words of the dialogue only, "
        "of what it writes or, with method 'score', the utterance's most telling ones.",
    )
    max_topics: Positive = TOPIC.most
    calibration: Literal["corpus", "situations"] = Field(
        "corpus",
        description="With method 'score': whose mean the emotions' scores are compared with: the "
        "corpus' own, or the situations', for a corpus of one sentiment, whose own mean would take "
        "that sentiment out.",
    )
    margin: float = Field(
        0.0,
        ge=0,
        description="With method 'score': how far (nats) the best value must be ahead of the "
        "second, or it is left empty.",
    )
    temperature: float = Field(0.0, ge=0)
    rewrite: bool = Field(False, description="Rewrite each utterance to read well.")
    bridging_question: bool = Field(
        False, description="Add a question to a reply without one, towards the next user turn."
    )
    shard_size: Positive = Field(32, description="Dialogues per cached task.")

    def allowed(self, field: StateField) -> tuple[str, ...]:
        """The values that a field of one value may have; empty = free text."""
        values: tuple[str, ...] = () if field.many else getattr(self, field.plural, ())
        return values

    def most(self, field: StateField) -> int:
        """How many values a list may have."""
        most: int = getattr(self, f"max_{field.plural}", field.most)
        return most

    @property
    def compares_situations(self) -> bool:
        return self.method == "score" and self.calibration == "situations"

    @model_validator(mode="after")
    def _can_score(self) -> Self:
        if self.method == "write":
            return self
        for field in SCORED:
            values = self.allowed(field)
            if len({value.casefold() for value in values}) < max(2, len(values)):
                raise ValueError(
                    f"method 'score' chooses from {field.plural}; list two or more different "
                    "values, or set method to 'write'"
                )
        if self.topics != "extracted":
            raise ValueError(
                "method 'score' writes no topics; set topics to 'extracted', or method to 'write'"
            )
        if self.engine.kind == "openai" and self.engine.server != "vllm":
            raise ValueError(
                "method 'score' needs the probability of every value, which only engines of kind "
                "'transformers' and 'vllm' and servers of kind 'vllm' give; change engine, or set "
                "method to 'write'"
            )
        return self


class LoraConfig(Section):
    """The adapter. The paper gives no rank; these are the release's trainer defaults."""

    rank: Positive = 8
    alpha: Positive = 16
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: tuple[str, ...] = ("q_proj", "v_proj")
    chain: Literal["continue", "stacked", "merged"] = Field(
        "continue",
        description="How a round starts from the last: 'continue' trains the same adapter on, "
        "'stacked' a new one on top of it, 'merged' a new one on the base with it merged in. All "
        "three save one adapter over m0; with the last two its rank grows by 'rank' each round.",
    )


class LauncherConfig(Section):
    """Several processes of `accelerate launch` on this machine, or what a file of its says."""

    processes: Positive = Field(2, description="One for each GPU.")
    strategy: Literal["ddp", "fsdp", "zero2", "zero3"] = Field(
        "ddp",
        description="'ddp': each process holds the model; 'fsdp' and 'zero3' (DeepSpeed) share out "
        "its weights, 'zero2' only gradients and optimiser. All but 'ddp': "
        f"{NEVER_RUN}.",
    )
    accelerate_config: Path | None = Field(
        None,
        description="A file of `accelerate config`, in place of processes and strategy.",
    )


class TrainingConfig(Section):
    """How training runs; what it learns from is in sft, refine.sft and dpo."""

    packing: bool = Field(
        True,
        description="Compute no padding, and logits only where there is a loss; models with other "
        "than full or sliding-window attention are always padded.",
    )
    gradient_checkpointing: Runtime[bool] = Field(
        False, description="Compute activations twice instead of keeping them: slower, smaller."
    )
    save_steps: Runtime[NonNegative] = Field(
        50,
        description="Optimiser steps between checkpoints that a killed run resumes from; 0 = none.",
    )
    launcher: LauncherConfig | None = Field(
        None, description="Train in several processes, by `accelerate launch`; empty = in this one."
    )


class SegmentWeights(Section):
    """Weights of the loss on the parts of a reply; 0 = no gradient, its loss still logged."""

    state: float = Field(1.0, ge=0, description="The user's state, as the agent predicts it.")
    action: float = Field(1.0, ge=0, description="The agent's own action.")
    utterance: float = Field(1.0, ge=0, description="What it says, and the token that ends it.")

    @model_validator(mode="after")
    def _one_is_positive(self) -> Self:
        if not (self.state or self.action or self.utterance):
            raise ValueError("state, action and utterance are all 0; give one of them a weight")
        return self


class SFTConfig(Section):
    """Fine-tuning with the loss on the assistant's messages only (sections 4.3 and 4.4)."""

    epochs: float = Field(5.0, gt=0)
    learning_rate: float = Field(5e-5, gt=0)
    batch_size: Positive = Field(32, description="Dialogues per optimiser step.")
    micro_batch_size: Positive = Field(4, description="Dialogues per forward pass.")
    warmup_steps: NonNegative = 0
    max_length: Positive = Field(2048, description="Tokens; longer is cut by whole turns.")
    weights: SegmentWeights = SegmentWeights()


class DPOConfig(Section):
    """Preference learning on chosen against rejected candidates (section 4.5)."""

    epochs: float = Field(3.0, gt=0)
    learning_rate: float = Field(1e-5, gt=0)
    beta: float = Field(0.1, gt=0)
    sft_weight: float = Field(1.0, ge=0, description="Weight of the SFT term on the chosen.")
    pairs_from: Literal["rounds", "last"] = Field(
        "rounds",
        description="'rounds': the candidates of all rounds, of which none are of the model that "
        "DPO starts from; 'last': those of one more search, with that model.",
    )
    rejected: Literal["random", "lowest"] = Field(
        "random",
        description="One of the other candidates at random, as in the paper, or the one with the "
        "fewest votes.",
    )
    batch_size: Positive = 16
    micro_batch_size: Positive = 2
    max_pairs: NonNegative = Field(0, description="Pairs used, drawn at random; 0 = all.")
    max_length: Positive = 4096


class SituationsConfig(Section):
    """The statements that open simulated conversations."""

    path: Path | None = Field(
        None,
        description="JSON lines with situation_id, text, emotion and split ('search' or "
        "'evaluation'), or EmpatheticDialogues: its folder, or one of its files, which is then "
        "halved; empty = the 64 embedded ones.",
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


class SelfPlayConfig(Section):
    """How the agent and the simulated user talk."""

    agent_engine: EngineConfig = EngineConfig()
    user_engine: EngineConfig = EngineConfig()
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
        if engine.kind == "openai" and engine.server != "vllm":
            raise ValueError(
                "the agent and the user are checkpoints of this run, which only 'transformers', "
                "'vllm', or 'openai' with server = 'vllm' can load"
            )
        return engine


class SelectorConfig(Section):
    """What picks the best candidate of a turn (section 4.4): an LLM, unless relevance, a function,
    a reward model or chance is named."""

    engine: EngineConfig = EngineConfig()
    criteria: Literal["humour"] | tuple[str, ...] = Field(
        (
            "consistency",
            "humour",
            "sympathy",
            "informativeness",
            "appropriateness",
            "respect",
        ),
        description="What a good reply shows; 'humour' asks for the funniest one, whatever else.",
    )
    shuffles: Positive = Field(
        1, description="Orders in which the candidates are shown; the mean of their Borda counts."
    )
    none_is_good: bool = Field(
        False, description="Let the selector say that none is good; then candidates are drawn anew."
    )
    redraws: NonNegative = Field(
        5, description="Times that candidates are drawn anew before the dialogue ends there."
    )
    function: str = Field(
        "",
        pattern=r"^([A-Za-z_][\w.]*:[A-Za-z_][\w.]*)?$",
        description="A Python function in place of the LLM, as package.module:name: (utterance) or "
        "(utterance, history) -> float, higher is better; empty = none.",
    )
    reward_model: Path | None = Field(
        None,
        description="A folder of a transformers sequence-classification model with one output, in "
        "place of the LLM; empty = none.",
    )
    relevance: bool = Field(
        False,
        description="How much likelier the reply is after this dialogue than after none, under m0, "
        "in place of the LLM's ranking; `engine` does the scoring.",
    )
    length_penalty: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Of relevance, which is divided by the reply's tokens to this power: 1 = nats "
        "per token, 0 = of the whole reply. Nearer to 1 favours short replies.",
    )
    random: bool = Field(False, description="Chance in place of the LLM: a baseline.")

    @model_validator(mode="after")
    def _one_selector(self) -> Self:
        named = {"relevance": self.relevance, "function": self.function,
                 "reward_model": self.reward_model, "random": self.random}  # fmt: skip
        given = [name for name, value in named.items() if value]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are both set; keep one of them")
        if given and self.none_is_good:
            raise ValueError(f"{given[0]} cannot say that none is good; set none_is_good=false")
        if self.relevance and self.engine.kind == "openai" and self.engine.server != "vllm":
            raise ValueError(
                "relevance needs an engine that scores whole replies: of kind 'transformers' or "
                "'vllm', or 'openai' with server = 'vllm'"
            )
        return self

    @property
    def is_llm(self) -> bool:
        """Whether the LLM of ``engine`` ranks the candidates."""
        return not (self.relevance or self.function or self.reward_model or self.random)

    @property
    def asks_engine(self) -> bool:
        """Whether ``engine`` is asked, to rank or to score."""
        return self.is_llm or self.relevance


class TreeConfig(Section):
    """Tree search: distinct actions first, wordings under them, and a look ahead."""

    width: Positive = Field(4, description="Distinct actions kept of a turn's candidates.")
    wordings: Positive = Field(2, description="Replies drawn under each action.")
    depth: NonNegative = Field(
        1, description="Exchanges played on from each branch to value it; 0 = the reply alone."
    )


class SearchConfig(Section):
    """Self-play search: several candidates per agent turn, the best one kept."""

    strategy: Literal["greedy", "best_of_n_dialogue", "tree"] = Field(
        "greedy",
        description="'greedy': the best of the candidates at each turn, as in the paper; "
        "'best_of_n_dialogue': the best of as many whole dialogues; 'tree': see search.tree.",
    )
    candidates: Positive = 16
    tree: TreeConfig = TreeConfig()
    situations: NonNegative = Field(0, description="Situations per round; 0 = all of the half.")
    grammar_probe: NonNegative = Field(
        8, description="Situations on which malformed states are counted without the grammar."
    )
    selfplay: SelfPlayConfig = SelfPlayConfig()
    selector: SelectorConfig = SelectorConfig()

    @model_validator(mode="after")
    def _tree_needs_the_grammar(self) -> Self:
        if self.strategy == "tree" and not self.selfplay.state_grammar:
            raise ValueError(
                "the strategy 'tree' draws states and words apart, which needs the grammar; set "
                "selfplay.state_grammar=true, or choose greedy or best_of_n_dialogue"
            )
        return self


class GatesConfig(Section):
    """When a refined model counts as collapsed, by its conversations on held-out situations. In
    each limit, 0 = off."""

    on_collapse: Runtime[Literal["warn", "stop"]] = Field(
        "warn",
        description="'stop' ends the rounds, and preference learning starts from the model before.",
    )
    min_action_entropy: float = Field(0.5, ge=0, description="Of the motivations, in bits.")
    min_distinct_2: float = Field(0.05, ge=0, le=1, description="Distinct word pairs.")
    min_reply_words: float = Field(2.0, ge=0, description="Mean words of a reply.")
    max_reply_words: float = Field(150.0, ge=0, description="Mean words of a reply.")
    max_question_rate: Share = Field(0.98, description="Replies that end in a question.")
    max_malformed: Share = Field(0.2, description="Replies whose states break the format.")
    max_kl_to_m0: float = Field(0.0, ge=0, description="Divergence from m0, in nats per word.")
    max_cut_share: Share = Field(0.5, description="Replies ended by the limit of tokens.")
    max_stray_braces: Share = Field(
        0.1, description="Utterances of either speaker with braces or keys of states in them."
    )
    min_situation_recovery: Share = Field(
        0.0, description="First replies from which m0 tells the situation that they answer."
    )
    kl_replies: NonNegative = Field(16, description="Replies it is estimated from; 0 = none.")


class RefineConfig(Section):
    """Rounds of search and fine-tuning: m2, m3, ... (the paper stops after two)."""

    stop: Literal["rounds", "saturation"] = Field(
        "rounds",
        description="'rounds': after that many; 'saturation': once no judge's interval of a model "
        "against the one before lies above zero.",
    )
    rounds: Positive = 2
    max_rounds: Positive = Field(6, description="Rounds at most, with stop = 'saturation'.")
    sft: SFTConfig = SFTConfig()
    gates: GatesConfig = GatesConfig()

    @property
    def most_rounds(self) -> int:
        """Rounds if nothing stops them."""
        return self.max_rounds if self.stop == "saturation" else self.rounds


class JudgeConfig(Section):
    """One LLM judge (section 4.6)."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    engine: EngineConfig = EngineConfig()
    prompt: Literal["open", "companion"] = Field(
        "open",
        description="'open': the judge's own sense of a good social chatbot, as in the paper; "
        "'companion': with the criteria of the paper's release.",
    )


class QualityConfig(Section):
    """What the measures without a judge cost (:mod:`sage_core.evaluation.quality`)."""

    situations: NonNegative = Field(
        64, description="Held-out situations whose first replies are matched; 0 = all."
    )
    alternatives: NonNegative = Field(
        11, description="Other situations that each reply is matched with; 0 = all."
    )
    matched_words: NonNegative = Field(
        16, description="Words at the start of a reply that m0 matches it by; 0 = all."
    )
    likelihood_replies: NonNegative = Field(
        12, description="Replies whose likelihood under m0 is measured, first ones first; 0 = none."
    )


class EvaluationConfig(Section):
    """Rollouts on held-out situations, and pairwise judging in both orders."""

    situations: NonNegative = Field(0, description="Held-out situations; 0 = all of the half.")
    selfplay: SelfPlayConfig = SelfPlayConfig(max_turns=16)
    judges: tuple[JudgeConfig, ...] = Field((JudgeConfig(name="m0"),), min_length=1)
    quality: QualityConfig = QualityConfig()
    bootstrap_samples: Positive = 10_000

    @model_validator(mode="after")
    def _judge_names_differ(self) -> Self:
        names = [judge.name for judge in self.judges]
        if len(set(names)) != len(names):
            raise ValueError(f"two judges have the same name among {names}; give each its own")
        return self


class SteeringReportConfig(Section):
    """What shows how far m1 can be steered (paper section 5.3, Tables 3 to 5): a dose-response
    curve, the faithfulness of replies to the action, and replies under forced values."""

    enabled: Runtime[bool] = Field(
        True, description="Whether a run measures it; `sage steer report` does."
    )
    situations: NonNegative = Field(16, description="Held-out situations; 0 = all of the half.")
    boosted: tuple[str, ...] = Field(
        ("emotion=playful",), description="FIELD=KEYWORD of the agent, one curve each."
    )
    boosts: tuple[float, ...] = Field(
        (0.0, 0.5, 1.0, 2.0, 4.0, 8.0), description="Added to the keyword's logits."
    )
    draws: Positive = Field(4, description="Replies drawn per situation and boost.")
    motivation_pairs: tuple[tuple[str, str], ...] = Field(
        (("humor", "sympathy"), ("suggestion", "disagreement")),
        description="Actions that replies are compared under; empty = none.",
    )
    emotion_pairs: tuple[tuple[str, str], ...] = Field(
        (), description="As motivation_pairs, for the agent's emotion."
    )
    wordings: Positive = Field(
        3,
        description="Replies drawn under each action of the pairs, for the share of a reply's "
        "variance that the action decides; 1 = not measured.",
    )
    shown_situations: NonNegative = Field(
        2, description="Situations whose replies under forced values are shown; 0 = none."
    )
    emotions: tuple[str, ...] = Field(
        ("optimism", "pessimistic", "mixed", "playful", "philosophical"),
        description="Forced and shown; the paper's Table 3.",
    )
    motivations: tuple[str, ...] = Field(
        (
            "reassurance", "sympathy", "humor", "empathy", "clarification", "encouragement",
            "concern", "suggestion", "request", "disagreement", "interest", "philosophical",
            "reminiscing", "teasing", "homesickness",
        ),
        description="Forced and shown; the paper's Table 4.",
    )  # fmt: skip
    topics: tuple[tuple[str, ...], ...] = Field(
        (
            ("sport",), ("transportation",), ("music",), ("movie",), ("politics",), ("economy",),
            ("sport", "transportation", "music", "movie", "politics", "economy"),
            ("apple", "bridge", "cloud", "drum", "eagle"),
        ),
        description="Lists of topics, forced and shown; the paper's Table 5.",
    )  # fmt: skip
    max_new_tokens: Positive = Field(60, description="Of an utterance, or of the states alone.")

    def pairs(self, field: StateField) -> tuple[tuple[str, str], ...]:
        """The values of a field that replies are compared under."""
        pairs: tuple[tuple[str, str], ...] = getattr(self, f"{field.name}_pairs", ())
        return pairs

    def forced(self, field: StateField) -> tuple[tuple[str, ...], ...]:
        """What a field is set to in the replies that are shown."""
        choices = getattr(self, field.plural, ())
        return choices if field.many else tuple((value,) for value in choices)


class ModelSizeConfig(Section):
    """The size of a base model, in the terms of its ``config.json``."""

    layers: Positive
    hidden_size: Positive
    intermediate_size: Positive
    heads: Positive
    kv_heads: Positive
    head_size: Positive
    vocabulary: Positive
    experts: Positive = Field(1, description="Experts per layer; 1 = a dense model.")
    active_experts: Positive = Field(1, description="Experts that each token goes through.")
    tied_embeddings: bool = Field(False, description="Input and output share one embedding.")


class GpuConfig(Section):
    """A GPU: dense bfloat16 speed and memory as on its maker's data sheet, and what it costs."""

    name: str = "custom"
    tflops: float = Field(gt=0, description="Dense bfloat16, in TFLOP/s.")
    memory_gb: float = Field(gt=0, description="In units of 10^9 bytes.")
    bandwidth_gb_s: float = Field(gt=0, description="Of its memory, in GB/s.")
    usd_per_hour: float = Field(0.0, ge=0, description="Price of an hour; 0 = not counted.")


# NVIDIA's data sheets (dense, SXM where there is one); prices are the reader's to set.
GPUS = {
    name: GpuConfig(name=name, tflops=tflops, memory_gb=memory, bandwidth_gb_s=bandwidth)
    for name, tflops, memory, bandwidth in (
        ("A100-40GB", 312, 40, 1555),
        ("A100-80GB", 312, 80, 2039),
        ("H100-80GB", 989, 80, 3350),
        ("H200-141GB", 989, 141, 4800),
        ("L4-24GB", 121, 24, 300),
        ("L40S-48GB", 362, 48, 864),
    )
}


class PlanConfig(Section):
    """What `sage plan` assumes where the configuration does not say. Lengths are means in tokens;
    their defaults were measured on the demo (SmolLM2's tokenizer, the packaged dialogues)."""

    gpu: GpuConfig = Field(
        GPUS["H100-80GB"], description=f"One of {', '.join(GPUS)}, or its figures."
    )
    model: ModelSizeConfig | None = Field(
        None, description="The base's size; empty = from its folder or the table of known ones."
    )
    training_utilisation: float = Field(
        0.35, gt=0, le=1, description="Share of the GPU's FLOP/s that training reaches."
    )
    reading_utilisation: float = Field(
        0.5, gt=0, le=1, description="Share of the GPU's FLOP/s that reading prompts reaches."
    )
    writing_utilisation: float = Field(
        0.5, gt=0, le=1, description="Share of the memory's bandwidth that writing reaches."
    )
    dialogues: NonNegative = Field(
        0, description="Dialogues trained on, of all corpora; 0 = max_dialogues of each."
    )
    turns: NonNegative = Field(
        0, description="Turns of a dialogue trained on; 0 = corpus.max_turns, else min_turns."
    )
    search_situations: NonNegative = Field(
        0, description="Situations of the search half; 0 = counted in situations.path."
    )
    evaluation_situations: NonNegative = Field(
        0, description="Situations of the held-out half; 0 = counted in situations.path."
    )
    situation_tokens: Positive = 14
    utterance_tokens: Positive = Field(31, description="Of a human utterance.")
    annotation_tokens: Positive = Field(29, description="Of the annotator's answer, as JSON.")
    state_tokens: Positive = Field(25, description="Of one state, all its fields.")
    m0_reply_tokens: Positive = Field(91, description="Of a reply of m0.")
    raw_reply_tokens: Positive = Field(62, description="Of a reply of raw.")
    reply_tokens: Positive = Field(31, description="Of an utterance of m1 and later.")
    user_tokens: Positive = Field(28, description="Of an utterance of the simulated user.")
    message_tokens: Positive = Field(
        5, description="Marks of the chat template around a message; ChatML has 5."
    )
    tokens_per_word: float = Field(
        1.1,
        gt=0,
        description="Of our own prompts, a run of punctuation counted as a word.",
    )

    @field_validator("gpu", mode="before")
    @classmethod
    def _known_gpu(cls, gpu: object) -> object:
        if isinstance(gpu, str):
            if gpu not in GPUS:
                raise ValueError(
                    f"is no GPU of the table; choose one of {', '.join(GPUS)}, or give its tflops, "
                    "memory_gb and bandwidth_gb_s"
                )
            return GPUS[gpu]
        return gpu


class PipelineConfig(Section):
    """The whole run."""

    name: str = Field("sage", description="Name of the MLflow experiment and registered model.")
    seed: NonNegative = 0
    model: ModelConfig = ModelConfig()
    corpus: CorpusConfig = CorpusConfig()
    mixture: MixtureConfig = MixtureConfig()
    annotation: AnnotationConfig = AnnotationConfig()
    lora: LoraConfig = LoraConfig()
    training: TrainingConfig = TrainingConfig()
    sft: SFTConfig = SFTConfig()
    situations: SituationsConfig = SituationsConfig()
    conversation: ConversationConfig = ConversationConfig()
    search: SearchConfig = SearchConfig()
    refine: RefineConfig = RefineConfig()
    dpo: DPOConfig = DPOConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    steering_report: SteeringReportConfig = SteeringReportConfig()
    plan: Runtime[PlanConfig] = PlanConfig()

    def engines(self) -> dict[str, EngineConfig]:
        """The engine of each role, by the role's name."""
        return {
            "annotator": self.annotation.engine,
            "search agent": self.search.selfplay.agent_engine,
            "search user": self.search.selfplay.user_engine,
            **(
                {"selector": self.search.selector.engine}
                if self.search.selector.asks_engine
                else {}
            ),
            "evaluation agent": self.evaluation.selfplay.agent_engine,
            "evaluation user": self.evaluation.selfplay.user_engine,
            **{f"judge {judge.name}": judge.engine for judge in self.evaluation.judges},
        }

    def experimental(self) -> list[str]:
        """The options of :data:`EXPERIMENTAL` that are chosen, as ``key=value``."""
        chosen = []
        for key, values in EXPERIMENTAL.items():
            value: Any = self
            for part in key.split("."):
                value = getattr(value, part, None)
            if value in values:
                chosen.append(f"{key}={value}")
        return chosen

    @model_validator(mode="after")
    def _merges_whole_weights(self) -> Self:
        if self.model.quantization != "none" and self.lora.chain == "merged":
            raise ValueError(
                "lora.chain = 'merged' needs the base's full weights, which model.quantization = "
                f"'{self.model.quantization}' does not keep; use 'stacked' or 'continue'"
            )
        return self

    @model_validator(mode="after")
    def _one_vllm_server(self) -> Self:
        managed = [engine for engine in self.engines().values() if engine.kind == "vllm"]
        servers = {(e.vllm_python, e.vllm_arguments, e.vllm_start_timeout_s) for e in managed}
        if len(servers) > 1:
            raise ValueError(
                "all roles of kind 'vllm' share one server; give them the same vllm_python, "
                "vllm_arguments and vllm_start_timeout_s"
            )
        return self


def load_config(source: str, overrides: Iterable[str] = ()) -> PipelineConfig:
    """Read a preset (by name) or a YAML file, apply ``a.b=value`` overrides and validate.

    Raises:
        ConfigError: unknown preset or file, broken YAML, or any wrong key or value; all wrong
            keys and values are named in one message.
    """
    tree = _read_yaml(source)
    for override in overrides:
        apply_override(tree, override)
    return validate_config(tree)


def validate_config(tree: Mapping[str, Any]) -> PipelineConfig:
    """Validate a parameter tree; see :func:`load_config`."""
    try:
        return PipelineConfig.model_validate(tree)
    except ValidationError as error:
        problems = "\n".join(f"  - {_explain(detail)}" for detail in error.errors())
        raise ConfigError(f"the configuration has wrong values:\n{problems}") from None


def _read_yaml(source: str) -> dict[str, Any]:
    if source in PRESETS:
        text = resources.files("sage_core.presets").joinpath(f"{source}.yaml").read_text("utf-8")
    elif Path(source).is_file():
        text = Path(source).read_text("utf-8")
    else:
        raise ConfigError(
            f"'{source}' is neither a preset nor a file; choose one of {', '.join(PRESETS)}, or "
            "give the path of a YAML file"
        )
    try:
        tree = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"'{source}' is not YAML: {error}; mend that line") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"'{source}' holds no mapping of sections at its top; see demo.yaml")
    return {key: _unshared(value) for key, value in tree.items()}


def _unshared(node: Any) -> Any:
    """A copy in which each YAML alias is a value of its own, so that an override of one role's
    engine changes that role only."""
    if isinstance(node, dict):
        return {key: _unshared(value) for key, value in node.items()}
    return [_unshared(value) for value in node] if isinstance(node, list) else node


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Set one key of a parameter tree from ``a.b=value``; the value is read as YAML.

    Raises:
        ConfigError: not of that form, or the key goes through a value.
    """
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"'{override}' is not KEY=VALUE, such as search.candidates=8")
    *parents, last = key.strip().split(".")
    node = tree
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise ConfigError(f"'{key}' goes through '{parent}', which holds a value, no section")
    try:
        node[last] = yaml.safe_load(text)
    except yaml.YAMLError:
        node[last] = text


def _explain(detail: Any) -> str:
    """One pydantic error as: the key, the value, what is wrong, and the valid choices."""
    path = [part for part in detail["loc"] if isinstance(part, str) and "[" not in part]
    key = ".".join(path)
    if detail["type"] == "extra_forbidden":
        section = _section_at(path[:-1])
        choices = ", ".join(section.model_fields) if section else "none"
        return f"{key}: no such key; the keys there are: {choices}"
    if detail["type"] == _UNSHOWN:
        return f"{key}: {detail['msg']}"
    return f"{key or 'configuration'} = {_short(detail['input'])}: {detail['msg']}"


def _section_at(path: Iterable[str]) -> type[BaseModel] | None:
    section: type[BaseModel] = PipelineConfig
    for part in path:
        field = section.model_fields.get(part)
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return None
        section = annotation
    return section


def _short(value: object, limit: int = 80) -> str:
    text = re.sub(r"[^\s'\"]+@", "[...]@", repr(value))  # a user name and password of an address
    return text if len(text) <= limit else f"{text[:limit]}..."
