"""What a run will cost, from its configuration alone: tokens, GPU-hours, memory, disk, API prices.

Nothing is loaded and nothing asked. For the tokens the real code of each stage is run once, on one
dialogue or situation of the planned lengths, with an engine that answers with placeholder text and
counts (:class:`CountingEngine`); what it counts is then multiplied. So the estimate counts what the
manifests count: a prompt once for all its candidates, and an option that is scored not at all.

From tokens to hours:

- training: 4 FLOP per token and active parameter (2 forward, 2 backward through the activations;
  Kaplan et al. 2020 have 6, but the weights of the base take no gradient under LoRA), and 2 more
  for the reference of DPO;
- reading: 2 FLOP per token and active parameter;
- writing: bound by memory; each step reads all weights once for the whole batch, and each
  sequence's keys and values.

Memory of training: the base, 16 bytes per parameter of the adapter (value, gradient, Adam's two
moments, in float32), activations of 34 bytes per token, layer and hidden unit (Korthikanti et al.
2022, without their term of attention scores, which fused attention does not keep; the 19 of the
feed-forward part scaled to its width and active experts), and float32 logits with their gradient.
With gradient checkpointing only 2 bytes per token, layer and hidden unit are kept, and the whole
of one layer. In 4 bits a weight takes 4.127 (NF4 with constants quantised again; Dettmers et al.
2023), but embeddings, and experts, which transformers does not hold in linear layers, stay as they
are.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sage_core import annotation
from sage_core.config import (
    EMBEDDED_MODEL,
    EngineConfig,
    ModelConfig,
    ModelSizeConfig,
    PipelineConfig,
    PlanConfig,
    SelfPlayConfig,
)
from sage_core.engines.base import Capabilities, Completion, Request, Usage
from sage_core.engines.grammar import (
    action_grammar,
    states_grammar,
    user_grammar,
    utterance_grammar,
)
from sage_core.errors import ConfigError
from sage_core.evaluation import judge
from sage_core.sac import AGENT, USER, StateAction, render_state
from sage_core.schema import Dialogue, Message, Situation, Split, Trajectory
from sage_core.search import selfplay
from sage_core.search.dialogue import Speaker
from sage_core.search.selector import LLMSelector, RandomSelector
from sage_core.search.setup import strategy_of
from sage_core.search.situations import situations
from sage_core.search.strategies import Players
from sage_core.training import data

# Facts of the models' config.json.
MODELS = {
    EMBEDDED_MODEL: ModelSizeConfig(
        layers=30, hidden_size=576, intermediate_size=1536, heads=9, kv_heads=3, head_size=64,
        vocabulary=49152, tied_embeddings=True,
    ),
    "mistralai/Mixtral-8x7B-Instruct-v0.1": ModelSizeConfig(
        layers=32, hidden_size=4096, intermediate_size=14336, heads=32, kv_heads=8, head_size=128,
        vocabulary=32000, experts=8, active_experts=2,
    ),
}  # fmt: skip

_BYTES = {"bfloat16": 2, "float32": 4}
_GB = 1e9
_TEXT_BYTES_PER_TOKEN = 4.2  # of English under SmolLM2's tokenizer
_KEPT_TWICE = 2  # what a search writes is kept in its trajectories and in its tree
_WORD = re.compile(r"[^\W_]+|[^\w\s]+|_|\n+")
_FLOP_TRAINED, _FLOP_READ = 4, 2
_ADAM_BYTES = 16
_MOST_GPUS_LOG2 = 10
_ACTIVATION_BYTES, _OF_FEED_FORWARD = 34, 19  # the latter at a width of 4 hidden sizes
_CHECKPOINT_BYTES = 2  # a layer's input
_NF4_BYTES = 4.127 / 8


# --- the size of a model --------------------------------------------------------------------------


def model_size(config: ModelConfig, plan: PlanConfig) -> ModelSizeConfig:
    """The size of ``config.base``: as set, from the ``config.json`` of its folder, or known.

    Raises:
        ConfigError: none of the three, or the file lacks a number.
    """
    if plan.model:
        return plan.model
    path = Path(config.base) / "config.json"
    if path.is_file():
        return _size_of(path)
    if config.base in MODELS:
        return MODELS[config.base]
    raise ConfigError(
        f"the size of model.base = '{config.base}' is not known: it is no folder with config.json "
        f"and none of {', '.join(MODELS)}; set plan.model={{layers: 32, hidden_size: 4096, "
        "intermediate_size: 14336, heads: 32, kv_heads: 8, head_size: 128, vocabulary: 32000}}"
    )


def _size_of(path: Path) -> ModelSizeConfig:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    try:
        heads = found["num_attention_heads"]
        return ModelSizeConfig(
            layers=found["num_hidden_layers"],
            hidden_size=found["hidden_size"],
            intermediate_size=found["intermediate_size"],
            heads=heads,
            kv_heads=found.get("num_key_value_heads") or heads,
            head_size=found.get("head_dim") or found["hidden_size"] // heads,
            vocabulary=found["vocab_size"],
            experts=found.get("num_local_experts") or 1,
            active_experts=found.get("num_experts_per_tok") or 1,
            tied_embeddings=found.get("tie_word_embeddings", False),
        )
    except KeyError as error:
        raise ConfigError(
            f"'{path}' does not say {error}, so the model's size is not known; set plan.model"
        ) from None


def parameters(size: ModelSizeConfig, *, active: bool = False) -> int:
    """All parameters of a decoder with gated feed-forward layers, or those that a token goes
    through; norms and routers, a thousandth, are left out."""
    attention = 2 * size.hidden_size * size.head_size * (size.heads + size.kv_heads)
    experts = size.active_experts if active else size.experts
    forward = 3 * size.hidden_size * size.intermediate_size * experts
    embeddings = size.vocabulary * size.hidden_size * (1 if size.tied_embeddings else 2)
    return size.layers * (attention + forward) + embeddings


def quantised_parameters(size: ModelSizeConfig) -> int:
    """Those of linear layers, which a 4-bit base holds in 4 bits."""
    experts = 3 * size.hidden_size * size.intermediate_size * size.layers * size.experts
    embeddings = size.vocabulary * size.hidden_size * (1 if size.tied_embeddings else 2)
    kept = embeddings + (experts if size.experts > 1 else 0)
    return parameters(size) - kept


def lora_parameters(size: ModelSizeConfig, rank: int, modules: Sequence[str]) -> int:
    """Parameters of an adapter; a module of an unknown name counts as hidden x hidden."""
    hidden, forward = size.hidden_size, size.intermediate_size
    queries, keys = size.heads * size.head_size, size.kv_heads * size.head_size
    widths = {
        "q_proj": hidden + queries, "o_proj": hidden + queries,
        "k_proj": hidden + keys, "v_proj": hidden + keys,
        "gate_proj": hidden + forward, "up_proj": hidden + forward, "down_proj": hidden + forward,
    }  # fmt: skip
    return size.layers * rank * sum(widths.get(name, 2 * hidden) for name in modules)


# --- counting tokens ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Text:
    """Placeholder text of planned lengths."""

    plan: PlanConfig

    def tokens(self, text: str) -> float:
        """How many tokens a text has, by its words and runs of punctuation."""
        return self.plan.tokens_per_word * len(_WORD.findall(text))

    def of(self, tokens: float, number: int = 0) -> str:
        """Text of about so many tokens; another number gives another text."""
        words = max(1, round(tokens / self.plan.tokens_per_word))
        return " ".join(["word"] * (words - 1) + [f"word{number}"])

    def conversation(self, messages: Sequence[Message]) -> float:
        """Tokens of messages under the chat template."""
        marks = self.plan.message_tokens * len(messages)
        return marks + sum(self.tokens(message.content) for message in messages)

    def state(self, number: int = 0) -> StateAction:
        """A state whose text has ``state_tokens``; another number is another motivation."""
        bare = StateAction(f"interest{number}", "content", ("word",))
        missing = self.plan.state_tokens - self.tokens(render_state(bare, AGENT.written))
        return replace(bare, topics=(self.of(max(1.0, missing)),))


class CountingEngine:
    """Answers every request with placeholder text and counts; see the module.

    Requests and prompts are counted as the other engines count them, completions by their text.
    """

    name = "plan"
    capabilities = Capabilities(
        top_k=True, repetition_penalty=True, penalty_outside_states=True, grammar=True,
        json_schema=True, prefix=True, scoring=True, boosts=True, forces=True, bans=True,
    )  # fmt: skip

    def __init__(self, text: Text, max_context: int, reply_tokens: float) -> None:
        self.usage = Usage()
        self.longest_prompt = 0
        self._text, self._max_context, self._reply = text, max_context, reply_tokens

    def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        answers = []
        for request in requests:
            texts = [self._answer(request, number) for number in range(request.n)]
            most = request.sampling.max_new_tokens
            lengths = [min(most, round(self._length(request, text))) for text in texts]
            self._count(request, sum(lengths))
            answers.append(
                [Completion(text, "stop", n) for text, n in zip(texts, lengths, strict=True)]
            )
        return answers

    def choose(
        self, requests: Sequence[Request], options: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        for request in requests:
            self._count(request, 0)
        return [[-float(place) for place in range(len(each))] for each in options]

    def _length(self, request: Request, text: str) -> float:
        if request.constraint is not None and request.constraint.kind == "json_schema":
            return self._text.plan.annotation_tokens
        return self._text.tokens(text)

    def _count(self, request: Request, written: int) -> None:
        # One more message: the reply's opening marks.
        marks = self._text.plan.message_tokens
        prompt = (
            marks + self._text.conversation(request.messages) + self._text.tokens(request.prefix)
        )
        room = self._max_context - request.sampling.max_new_tokens
        read = min(round(prompt), room)
        self.longest_prompt = max(self.longest_prompt, read)
        self.usage += Usage(1, read, written)

    def _answer(self, request: Request, number: int) -> str:
        state = self._text.state(number)
        user, agent = (render_state(state, prefix) for prefix in (USER.written, AGENT.written))
        utterance = self._text.of(self._reply, number)
        constraint = request.constraint
        if constraint is not None and constraint.kind == "json_schema":
            values = {"motivation": state.motivation, "emotion": state.emotion}
            return json.dumps({**values, "topics": list(state.topics)})
        if constraint == user_grammar():
            return user
        if constraint == action_grammar():
            return f" {agent}"
        if constraint == states_grammar():
            return f"{user} {agent}"
        if constraint == utterance_grammar():
            return f" {utterance}"
        if constraint is not None and not request.opens_with_states:
            return "Verdict: tie"  # the judge's is the only grammar besides those of states
        return f"{user} {agent} {utterance}" if request.opens_with_states else utterance


# --- the stages -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Use:
    """What one role asks of its engine in a stage: prompts, and tokens read and written."""

    role: str
    engine: EngineConfig
    requests: float
    read: float
    written: float
    longest_prompt: int = 0
    candidates: int = 1
    max_new_tokens: int = 0


@dataclass(frozen=True)
class StagePlan:
    """The estimate of one stage.

    Attributes:
        stage, label: as in the manifests; the label is the model's name, or empty.
        uses: what its engines are asked.
        trained: tokens that go through training, all epochs counted.
        gpu_hours: of one GPU of the planned kind; 0 for servers elsewhere.
        gpus: the fewest that hold it, in powers of two; ``memory_gb`` is of each of them. None
            where none are enough, and ``memory_gb`` is what each needs besides the weights.
        disk_gb: what the stage leaves behind.
        api_usd: price at servers elsewhere; None where a price is not set.
        formulas: how each of these comes about, with the numbers put in.
    """

    stage: str
    label: str
    uses: tuple[Use, ...] = ()
    trained: float = 0.0
    gpu_hours: float = 0.0
    gpus: int | None = 0
    memory_gb: float = 0.0
    disk_gb: float = 0.0
    api_usd: float | None = 0.0
    formulas: dict[str, str] = field(default_factory=dict)

    @property
    def read(self) -> float:
        return sum(use.read for use in self.uses)

    @property
    def written(self) -> float:
        return sum(use.written for use in self.uses)


def plan(config: PipelineConfig) -> list[StagePlan]:
    """The estimate of every stage that costs anything, in the order of the run; with
    ``refine.stop = 'saturation'`` of the most rounds there may be.

    Raises:
        ConfigError: the model's size, or the number of dialogues or situations, is not known.
    """
    return _Planner(config).stages()


class _Planner:
    def __init__(self, config: PipelineConfig) -> None:
        self.config, self.settings = config, config.plan
        self.text = Text(config.plan)
        self.size = model_size(config.model, config.plan)
        most = [corpus.max_dialogues for corpus in (config.corpus, *config.mixture.corpora)]
        self.dialogues = config.plan.dialogues or (sum(most) if all(most) else 0)
        if not self.dialogues:
            raise ConfigError(
                "how many dialogues the corpora keep is not known before they are read; set "
                "plan.dialogues, or max_dialogues of each corpus"
            )
        self.openings = self._situations("search", config.search.situations)
        self.held_out = self._situations("evaluation", config.evaluation.situations)
        refined = [f"m{number}" for number in range(2, config.refine.most_rounds + 2)]
        self.chain = ["m1", *refined]
        self.models = ["m0", "raw", *self.chain, "dpo"]

    def stages(self) -> list[StagePlan]:
        config = self.config
        annotated, annotation_plan = self.annotation()
        with_states, without = annotation.chains(annotated), annotation.without_states(annotated)
        trained = {
            name: self.text.conversation(each.messages)
            for name, each in (("raw", without), ("m1", with_states))
        }
        count = self._trained_dialogues()
        found = [self.base(), annotation_plan]
        for name, tokens in trained.items():
            found.append(self.training("sft", name, count, "dialogues", tokens, config.sft.epochs,
                                       config.sft))  # fmt: skip
        found.append(self.probe())
        rollouts = {name: self.rollout(name) for name in self.models}
        selected, search = self.search()
        dialogue = sum(
            self.text.conversation(each.messages) for each in data.selected_dialogues([selected])
        )
        for last, name in zip(self.chain, self.chain[1:], strict=False):
            found.append(replace(search, label=last))
            found.append(self.training("sft", name, self.openings, "trajectories", dialogue,
                                       config.refine.sft.epochs, config.refine.sft))  # fmt: skip
        found.append(self.preference(selected))
        found += [stage for _, stage in rollouts.values()]
        played = {name: trajectory for name, (trajectory, _) in rollouts.items()}
        found += [self.health(name, played[name]) for name in self.chain]
        found += self.judging(played)
        if config.steering_report.enabled:
            found.append(self.steering())
        return found

    # --- what each stage asks ---------------------------------------------------------------------

    def base(self) -> StagePlan:
        total = parameters(self.size)
        active = parameters(self.size, active=True)
        through = "" if active == total else f" ({active / 1e9:.3g} billion active)"
        formula = f"{total / 1e9:.3g} billion parameters{through} x {self._bytes} bytes"
        disk = total * self._bytes / _GB
        return StagePlan("base-model", "m0", disk_gb=disk, formulas={"disk": formula})

    def annotation(self) -> tuple[Any, StagePlan]:
        settings = self.config.annotation
        engine = self._engine(self.settings.utterance_tokens)
        dialogue = self._dialogue()
        (annotated,) = annotation.annotate([dialogue], engine, settings, self.config.seed)
        use = self._use("annotator", settings.engine, engine, self.dialogues)
        return annotated, self._generation(
            "annotate-shard", "", [use], f"{self.dialogues:,} dialogues of "
            f"{len(dialogue.messages)} turns", self.config.model.batch_size,
        )  # fmt: skip

    def probe(self) -> StagePlan:
        settings = self.config.search
        limit = min(settings.grammar_probe, self.openings)
        agent = self._speaker("m1")
        for constrained in (True, False):
            rules = settings.selfplay.model_copy(update={"state_grammar": constrained})
            selfplay.count_malformed([self._situation()], agent, rules, self.config.seed)
        use = self._use("agent", settings.selfplay.agent_engine, agent.engine, limit,
                        max_new_tokens=settings.selfplay.sampling.max_new_tokens)  # fmt: skip
        return self._generation("grammar-probe", "", [use], f"{limit} situations", limit)

    def rollout(self, name: str) -> tuple[Trajectory, StagePlan]:
        settings = self.config.evaluation.selfplay
        agent, user = self._speaker(name), self._user()
        players = Players(agent, user, settings, self.config.seed)
        (played,) = selfplay.self_play([self._situation()], players)
        uses = self._sides(settings, agent, user, self.held_out, 1)
        return played, self._generation(
            "rollout-shard", name, uses, f"{self.held_out:,} situations of {settings.max_turns} "
            "turns", settings.shard_size,
        )  # fmt: skip

    def search(self) -> tuple[Trajectory, StagePlan]:
        settings = self.config.search
        agent, user = self._speaker("m1"), self._user()
        judge_engine = self._engine(1)
        selector = (
            LLMSelector(judge_engine, settings.selector, self.config.seed)
            if settings.selector.is_llm
            else RandomSelector(self.config.seed)
        )
        players = Players(agent, user, settings.selfplay, self.config.seed, selector)
        (found,) = selfplay.search([self._situation()], players, strategy_of(settings))
        uses = self._sides(settings.selfplay, agent, user, self.openings, settings.candidates)
        if settings.selector.is_llm:
            engine = settings.selector.engine
            use = self._use("selector", engine, judge_engine, self.openings)
            if engine.kind == "openai":  # which answers a choice with a token
                use = replace(use, written=use.requests)
            uses.append(use)
        return found.trajectory, self._generation(
            "search-shard", "", uses, f"{self.openings:,} situations of "
            f"{settings.selfplay.max_turns} turns and {settings.candidates} candidates",
            settings.selfplay.shard_size, kept=_KEPT_TWICE,
        )  # fmt: skip

    def preference(self, selected: Trajectory) -> StagePlan:
        config = self.config.dpo
        pairs = data.preference_pairs([selected], self.config.seed, self.config.dpo.rejected)
        rounds = len(self.chain) - 1
        number = len(pairs) * self.openings * rounds
        if config.max_pairs:
            number = min(number, config.max_pairs)
        tokens = _mean(
            [
                self.text.conversation((*pair.prompt, Message("assistant", reply)))
                for pair in pairs
                for reply in (pair.chosen, pair.rejected)
            ]
        )
        return self.training("dpo", "", 2 * number, "chosen and rejected replies", tokens,
                             config.epochs, config)  # fmt: skip

    def health(self, name: str, played: Trajectory) -> StagePlan:
        from sage_core.evaluation import collapse  # imports scipy

        config = self.config.evaluation.selfplay
        replies = sum(turn.role == "assistant" for turn in played.turns)
        number = min(self.config.refine.gates.kl_replies, replies * self.held_out)
        agent, m0 = self._speaker("m1"), self._engine(0)
        collapse.health([played], agent, m0, config, replies, self.config.seed)
        times = number / max(1, replies)
        uses = [
            self._use(role, config.agent_engine, engine, times)
            for role, engine in (("agent", agent.engine), ("m0", m0))
        ]
        return self._generation("model-health", name, uses, f"{number} replies", number)

    def judging(self, played: dict[str, Trajectory]) -> list[StagePlan]:
        found = []
        for settings in self.config.evaluation.judges:
            for a, b in judge.model_pairs(self.models):
                engine = self._engine(1)
                judge.judge_pair(a, b, [played[a]], [played[b]], engine, settings, self.config.seed)
                use = self._use(f"judge {settings.name}", settings.engine, engine, self.held_out)
                found.append(
                    self._generation(
                        "judge-pair", f"{settings.name} {a}-{b}", [use],
                        f"{self.held_out:,} situations in 2 orders", 2 * self.held_out,
                    )
                )  # fmt: skip
        return found

    def steering(self) -> StagePlan:
        from sage_core.evaluation import steering  # imports scipy

        settings, play = self.config.steering_report, self.config.evaluation.selfplay
        number = self._situations("evaluation", settings.situations)
        shown = min(settings.shown_situations, number)
        engines = []
        for hidden in (False, True):  # what is done for each situation, and for those shown only
            engines.append(self._engine(self.settings.reply_tokens))
            asked = settings.model_copy(update={"shown_situations": int(hidden)})
            steering.evidence([self._situation()], "m1", engines[-1], asked, play, self.config.seed)
        each, with_shown = (engine.usage for engine in engines)
        uses = [
            Use("agent", play.agent_engine, each.requests * number, each.prompt_tokens * number,
                each.completion_tokens * number, engines[0].longest_prompt, settings.draws,
                settings.max_new_tokens),
            Use("agent, shown", play.agent_engine, (with_shown.requests - each.requests) * shown,
                (with_shown.prompt_tokens - each.prompt_tokens) * shown,
                (with_shown.completion_tokens - each.completion_tokens) * shown,
                engines[1].longest_prompt, 1, settings.max_new_tokens),
        ]  # fmt: skip
        what = f"{number} situations, {shown} shown"
        return self._generation("steering-evidence", "m1", uses, what, self.config.model.batch_size)

    # --- from tokens to the rest ------------------------------------------------------------------

    def training(
        self, stage: str, label: str, number: float, what: str, tokens: float, epochs: float,
        settings: Any,
    ) -> StagePlan:  # fmt: skip
        """A training on ``number`` sequences of ``tokens``."""
        size, gpu = self.size, self.settings.gpu
        length = min(tokens, settings.max_length)
        trained = number * length * epochs
        active = parameters(size, active=True)
        referred = number * length if stage == "dpo" else 0.0
        flop = (_FLOP_TRAINED * trained + _FLOP_READ * referred) * active
        hours = flop / (gpu.tflops * 1e12 * self.settings.training_utilisation) / 3600
        adapter = lora_parameters(size, self.config.lora.rank, self.config.lora.target_modules)
        sequences = settings.micro_batch_size * (2 if stage == "dpo" else 1)
        positions = sequences * settings.max_length
        forward = size.active_experts * size.intermediate_size / (4 * size.hidden_size)
        per_unit = _ACTIVATION_BYTES + _OF_FEED_FORWARD * (forward - 1)
        units = positions * size.hidden_size
        activations = units * size.layers * per_unit / _GB
        kept = f"{size.layers} layers x {per_unit:.0f} bytes"
        if self.config.training.gradient_checkpointing:
            activations = units * (size.layers * _CHECKPOINT_BYTES + per_unit) / _GB
            kept = f"({size.layers} layers x {_CHECKPOINT_BYTES} + {per_unit:.0f} bytes)"
        logits = 2 * positions * size.vocabulary * 4 / _GB
        weights = self._weights_gb()
        alone = adapter * _ADAM_BYTES / _GB + activations + logits
        gpus, memory = self._spread(weights, alone)
        reference = f" + {_FLOP_READ} x {referred:,.0f} for the reference" if referred else ""
        return StagePlan(
            stage, label, trained=trained, gpu_hours=hours, gpus=gpus, memory_gb=memory,
            disk_gb=4 * adapter / _GB,
            formulas={
                "tokens": f"{number:,.0f} {what} x {length:.0f} x {epochs:g} epochs",
                "GPU-hours": f"({_FLOP_TRAINED} x {trained:,.0f} tokens{reference}) x {active:.3g} "
                f"active parameters / ({gpu.tflops:g} TFLOP/s x "
                f"{self.settings.training_utilisation:g} x 3600 s)",
                "memory": f"{weights:.2f} GB of weights / {gpus or 'any number'} + {adapter:,} of "
                f"LoRA x {_ADAM_BYTES} bytes + {positions:,} positions x {size.hidden_size} x "
                f"{kept} + logits {positions:,} x {size.vocabulary:,} x 8 bytes",
                "disk": f"{adapter:,} parameters of LoRA x 4 bytes",
            },
        )  # fmt: skip

    def _generation(
        self, stage: str, label: str, uses: Sequence[Use], what: str, together: int, kept: int = 1
    ) -> StagePlan:
        """``together``: prompts that could run at once."""
        uses = [use for use in uses if use.requests]
        gpu, settings, size = self.settings.gpu, self.settings, self.size
        weights = self._weights_gb()
        active = parameters(size, active=True)
        kv_bytes = 2 * size.layers * size.kv_heads * size.head_size * self._bytes
        hours, peak, memory = 0.0, 0.0, 0.0
        gpus: int | None = 0
        formulas: dict[str, str] = {"tokens": what}
        price: float | None = 0.0
        for use in uses:
            written = f", {use.written:,.0f} written" if use.written else ""
            mean = use.read / use.requests
            formulas[f"tokens, {use.role}"] = (
                f"{use.requests:,.0f} prompts x {mean:.0f} = {use.read:,.0f} read"
                + (f"{written} ({use.written / use.requests:.0f} each)" if written else "")
            )
            if use.engine.kind == "openai":
                cost = self._price(use)
                price = None if price is None or cost is None else price + cost
                rates = (
                    use.engine.usd_per_million_prompt_tokens,
                    use.engine.usd_per_million_completion_tokens,
                )
                formulas[f"API, {use.role}"] = (
                    f"{use.read / 1e6:.3g} M x ${rates[0]:g} + {use.written / 1e6:.3g} M x "
                    f"${rates[1]:g}"
                    if cost is not None
                    else "set the engine's usd_per_million_prompt_tokens and "
                    "usd_per_million_completion_tokens"
                )
                continue
            limit = (
                use.engine.max_concurrency * use.candidates
                if use.engine.kind == "vllm"
                else self.config.model.batch_size
            )
            batch = max(1, min(limit, together * use.candidates))
            prompts = max(1, batch // use.candidates)
            reading = _FLOP_READ * active * use.read / (
                gpu.tflops * 1e12 * settings.reading_utilisation
            )  # fmt: skip
            length = mean + use.written / use.requests / use.candidates / 2
            step = weights * _GB + batch * length * kv_bytes
            writing = use.written / batch * step / (
                gpu.bandwidth_gb_s * 1e9 * settings.writing_utilisation
            )  # fmt: skip
            hours += (reading + writing) / 3600
            formulas[f"GPU-hours, {use.role}"] = (
                f"{_FLOP_READ} x {use.read:,.0f} x {active:.3g} / ({gpu.tflops:g} TFLOP/s x "
                f"{settings.reading_utilisation:g} x 3600 s)"
                + (
                    f" + {use.written:,.0f} / {batch} sequences x ({weights:.2f} GB + {batch} x "
                    f"{length:.0f} x {kv_bytes:,} bytes) / ({gpu.bandwidth_gb_s:g} GB/s x "
                    f"{settings.writing_utilisation:g} x 3600 s)"
                    if use.written
                    else ""
                )
            )
            longest = use.max_new_tokens or math.ceil(use.written / use.requests)
            cache = (prompts * use.longest_prompt + batch * longest) * kv_bytes / _GB
            if weights + cache > peak:
                peak = weights + cache
                gpus, memory = self._spread(weights + cache, 0.0)
                formulas["memory"] = (
                    f"({weights:.2f} GB of weights + ({prompts} prompts x {use.longest_prompt:,} + "
                    f"{batch} sequences x {longest}) x {kv_bytes:,} bytes) / "
                    f"{gpus or 'any number'}"
                )
        written_all = sum(use.written for use in uses)
        formulas["disk"] = (
            f"{written_all:,.0f} tokens x {_TEXT_BYTES_PER_TOKEN} bytes"
            + (f" x {kept}" if kept > 1 else "")
        )  # fmt: skip
        return StagePlan(
            stage, label, tuple(uses), gpu_hours=hours, gpus=gpus,
            memory_gb=memory,
            disk_gb=kept * written_all * _TEXT_BYTES_PER_TOKEN / _GB, api_usd=price,
            formulas=formulas,
        )  # fmt: skip

    def _price(self, use: Use) -> float | None:
        engine = use.engine
        rates = engine.usd_per_million_prompt_tokens, engine.usd_per_million_completion_tokens
        if not any(rates) and not engine.base_url:
            return None  # the provider's own address: it is paid for
        return (use.read * rates[0] + use.written * rates[1]) / 1e6

    def _spread(self, shared: float, each: float) -> tuple[int | None, float]:
        """The fewest GPUs, in powers of two, over which ``shared`` GB are split with room for
        ``each`` on all of them, and the memory that is used of each; see :class:`StagePlan`."""
        for gpus in (2**exponent for exponent in range(_MOST_GPUS_LOG2 + 1)):
            if shared / gpus + each <= self.settings.gpu.memory_gb:
                return gpus, shared / gpus + each
        return None, each

    @property
    def _bytes(self) -> int:
        return _BYTES[self.config.model.dtype]

    def _weights_gb(self) -> float:
        total, small = parameters(self.size), 0
        if self.config.model.quantization == "4bit":
            small = quantised_parameters(self.size)
        return ((total - small) * self._bytes + small * _NF4_BYTES) / _GB

    # --- placeholders -----------------------------------------------------------------------------

    def _trained_dialogues(self) -> float:
        share = self.config.mixture.instructions.share if self.config.mixture.instructions else 0.0
        return self.dialogues / (1 - share)

    def _dialogue(self) -> Dialogue:
        turns = self.settings.turns or self.config.corpus.max_turns or self.config.corpus.min_turns
        messages = tuple(
            Message(
                "assistant" if turn % 2 else "user", self.text.of(self.settings.utterance_tokens)
            )
            for turn in range(turns)
        )
        return Dialogue("plan", "plan", "plan", messages)

    def _situation(self) -> Situation:
        return Situation("plan", self.text.of(self.settings.situation_tokens), "joyful", "search")

    def _situations(self, split: Split, limit: int) -> int:
        planned = {
            "search": self.settings.search_situations,
            "evaluation": self.settings.evaluation_situations,
        }[split]
        there = planned or len(situations(self.config.situations, split, 0))
        return min(limit, there) if limit else there

    def _engine(self, reply_tokens: float) -> CountingEngine:
        return CountingEngine(self.text, self.config.model.max_context, reply_tokens)

    def _speaker(self, name: str) -> Speaker:
        lengths = {"m0": self.settings.m0_reply_tokens, "raw": self.settings.raw_reply_tokens}
        engine = self._engine(lengths.get(name, self.settings.reply_tokens))
        return Speaker(name, engine, states=name not in lengths)

    def _user(self) -> Speaker:
        return Speaker("m1", self._engine(self.settings.user_tokens), states=True)

    def _use(
        self, role: str, engine: EngineConfig, counted: Any, times: float, candidates: int = 1,
        max_new_tokens: int = 0,
    ) -> Use:  # fmt: skip
        usage = counted.usage
        return Use(
            role, engine, usage.requests * times, usage.prompt_tokens * times,
            usage.completion_tokens * times, counted.longest_prompt, candidates, max_new_tokens,
        )  # fmt: skip

    def _sides(
        self, settings: SelfPlayConfig, agent: Speaker, user: Speaker, times: int, candidates: int
    ) -> list[Use]:
        most = settings.sampling.max_new_tokens
        return [
            self._use("agent", settings.agent_engine, agent.engine, times, candidates, most),
            self._use("user", settings.user_engine, user.engine, times, 1, most),
        ]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
