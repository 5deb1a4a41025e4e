"""``make bench-engines``: self-play search on both engines against one dialogue at a time, vLLM
against a bare vLLM, and what steering, the grammar and scoring cost.

The model is the embedded one with a fresh adapter, whose replies are m0's and whose cost is a
trained one's; in bfloat16 where the processor has instructions for it, else in float32. Useful
tokens are those of the agent's candidates and of the user's turns.
"""

import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from benchmarks.harness import Benchmark, alone
from sage_core.config.conversation import ConversationConfig, SelfPlayConfig, SituationsConfig
from sage_core.config.engine import SamplingConfig, VllmConfig
from sage_core.config.model import ModelConfig
from sage_core.config.search import SelectorConfig
from sage_core.config.training import LoraConfig
from sage_core.engines.base import Completion, Engine, Request, Usage
from sage_core.engines.grammar import sac_grammar
from sage_core.engines.loading import dtype_of, prepare_base
from sage_core.engines.managed_vllm import VllmEngine
from sage_core.engines.steering import Steering
from sage_core.engines.vllm_server import VllmServer
from sage_core.schema import Message, Situation
from sage_core.search.dialogue import Speaker
from sage_core.search.selectors.llm import LLMSelector
from sage_core.search.selfplay import self_play
from sage_core.search.situations import situations
from sage_core.search.strategies.greedy import Greedy
from sage_core.search.strategies.strategy import Players

SITUATIONS = 32
ONE_BY_ONE = 4  # situations that time the release's way
AGENT_TURNS = 4
CANDIDATES = 8
REPEATS = 5
COSTED = 64  # sequences whose throughput shows what steering and the grammar cost
OPTIONS = 16

MODEL = ModelConfig(max_context=2048)
PLAY = SelfPlayConfig(max_turns=2 * AGENT_TURNS, sampling=SamplingConfig(max_new_tokens=100))
VLLM = VllmConfig(max_concurrency=SITUATIONS)
# Costs are compared on replies of one length: all are still going on after this many tokens.
COSTED_SAMPLING = PLAY.sampling.model_copy(update={"max_new_tokens": 48})
# All the work of steering with next to no effect, so that the same tokens are drawn with it.
STEERING = Steering.read(
    boost=["emotion=playful:0.000001", "motivation=humor:0.000001", "topic=cats:0.000001"],
    ban=["emotion=xylophonic", "user.motivation=xylophonic"],
)


@dataclass
class Models:
    """The engines of a search: agent and user share the adapter, the selector is m0."""

    agent: Engine
    user: Engine
    selector: Engine

    def self_play(self, parts: Sequence[Sequence[Situation]]) -> float:
        """Useful tokens per second of a search over each part after the other."""

        def play() -> None:
            for part in parts:
                self._play(part)

        return self.speed(play)

    def speed(self, work: Callable[[], object]) -> float:
        """Useful tokens per second of ``work``."""
        used, began = self._tokens(), time.monotonic()
        work()
        return (self._tokens() - used) / (time.monotonic() - began)

    def _play(self, part: Sequence[Situation]) -> None:
        self_play(
            part,
            Players(
                Speaker("m1", self.agent, True, ConversationConfig().agent),
                Speaker("m1", self.user, True, ConversationConfig().user),
                PLAY,
                0,
                LLMSelector(self.selector, SelectorConfig(), 0),
            ),
            Greedy(CANDIDATES),
        )

    def _tokens(self) -> int:
        return self.agent.usage.completion_tokens + self.user.usage.completion_tokens


@dataclass
class Asked:
    """The requests of a search."""

    agent: list[Request]
    user: list[Request]
    selector: list[tuple[Request, Sequence[str]]]


@dataclass
class Measured:
    """What one engine reached, in useful tokens per second, and the positions it computed; the
    repeats of ``plain``, ``grammar`` and ``steered`` were measured in turn."""

    together: float
    one_by_one: float
    plain: list[float]
    grammar: list[float]
    steered: list[float]
    asked: "Asked"  # in the search
    scored: tuple[int, int, int] = (0, 0, 0)  # positions computed; tokens of prompt, of options
    bare: float = 0.0


def main() -> None:
    halves = sys.argv[1:] or ["transformers", "vllm"]
    benchmark = Benchmark("engines", note=f"In {dtype_of(MODEL)}.")
    with tempfile.TemporaryDirectory() as folder:
        base, adapter = alone(prepare, Path(folder))
        if "transformers" in halves:
            report(benchmark, "transformers", alone(on_transformers, base, adapter), 2.5)
        if "vllm" in halves:
            found = on_vllm(base, adapter, Path(folder))
            report(benchmark, "vLLM", found, 3.0)
            against_bare(benchmark, found)
    benchmark.finish()


def prepare(folder: Path) -> tuple[Path, Path]:
    """m0, and an adapter over it that changes nothing yet."""
    from peft import get_peft_model

    from sage_core.engines.loading import load_model
    from sage_core.training.lora_targets import peft_config, reach_in

    base, adapter = folder / "m0", folder / "m1"
    base.mkdir()
    prepare_base(base, MODEL)
    lora = LoraConfig()
    config = peft_config(lora, reach_in(base, lora).targets)
    get_peft_model(load_model(base, MODEL), config).save_pretrained(adapter)
    return base, adapter


def report(benchmark: Benchmark, name: str, found: Measured, target: float) -> None:
    gain = found.together / found.one_by_one
    benchmark.add(
        f"{name}: search of {SITUATIONS} situations x {AGENT_TURNS} turns x {CANDIDATES} "
        "candidates with selector, tokens/s",
        f"{found.together:.0f}",
        f"{found.one_by_one:.0f} (one dialogue at a time)",
        f"{gain:.2f}x",
        f">= {target:g}x",
        gain >= target,
    )
    for what, values, baselines, most in (
        ("the SAC grammar", found.grammar, found.plain, 0.15),
        ("steering", found.steered, found.grammar, 0.05),
    ):
        # Of neighbours in time: the machine's own speed changes more than this costs.
        cost = 1 - statistics.median(
            value / baseline for value, baseline in zip(values, baselines, strict=True)
        )
        benchmark.add(
            f"{name}: cost of {what}, {COSTED} sequences, tokens/s",
            f"{statistics.median(values):.0f}",
            f"{statistics.median(baselines):.0f} (without)",
            f"{cost:+.1%}",
            f"< {most:.0%}",
            cost < most,
        )
    computed, prompt, options = found.scored
    benchmark.add(
        f"{name}: positions computed to score {OPTIONS} options behind {prompt} tokens",
        str(computed),
        f"{OPTIONS * prompt + options} (each option apart)",
        f"{computed / (prompt + options):.2f} of prompt + options",
        "prompt once",
        computed < 2 * prompt + options,
    )


def against_bare(benchmark: Benchmark, found: Measured) -> None:
    share = found.together / found.bare
    benchmark.add(
        "vLLM: that search against the same requests submitted all at once, tokens/s",
        f"{found.together:.0f}",
        f"{found.bare:.0f} (bare vLLM)",
        f"{share:.2f}",
        ">= 0.75",
        share >= 0.75,
    )


# --- both engines ---------------------------------------------------------------------------------


def measure(models: Models) -> Measured:
    rows = situations(SituationsConfig(), "search", SITUATIONS)
    # Others, which no prefix cache knows.
    others = situations(SituationsConfig(), "evaluation", ONE_BY_ONE)
    costed(models.agent, rows[:8], None, 1, "warm-up")
    agent, user, selector = map(Recorded, (models.agent, models.user, models.selector))
    together = Models(agent, user, selector).self_play([rows])
    asked = Asked(agent.generated, user.generated, selector.scored)
    one_by_one = models.self_play([[row] for row in others])
    plain, grammar, steered = [], [], []
    for number in range(REPEATS):  # in turn, so that a slow spell of the machine meets all three
        plain.append(costed(models.agent, rows, None, 2, number, grammar=False))
        grammar.append(costed(models.agent, rows, None, 2, number))
        steered.append(costed(models.agent, rows, STEERING, 2, number))
    return Measured(together, one_by_one, plain, grammar, steered, asked)


class Recorded:
    """An engine that keeps what it was asked."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.name, self.capabilities = engine.name, engine.capabilities
        self.generated: list[Request] = []
        self.scored: list[tuple[Request, Sequence[str]]] = []

    @property
    def usage(self) -> Usage:
        return self._engine.usage

    def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        self.generated += requests
        return self._engine.generate(requests)

    def choose(
        self, requests: Sequence[Request], options: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        self.scored += zip(requests, options, strict=True)
        return self._engine.choose(requests, options)

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        return self._engine.token_counts(texts)


def costed(
    engine: Engine,
    rows: Sequence[Situation],
    steering: Steering | None,
    n: int,
    name: object,
    *,
    grammar: bool = True,
) -> float:
    """Tokens per second of first replies."""
    requests = [
        Request(
            f"{name}/{row.situation_id}",
            (Message("user", row.text),),
            COSTED_SAMPLING,
            n=n,
            constraint=sac_grammar() if grammar else None,
            opens_with_states=True,
            steering=steering,
        )
        for row in rows
    ]
    began = time.monotonic()
    answers = engine.generate(requests)
    tokens = sum(completion.completion_tokens for row in answers for completion in row)
    return tokens / (time.monotonic() - began)


def scoring() -> tuple[Request, list[str]]:
    """A long prompt, and options of several tokens."""
    story = " ".join(row.text for row in situations(SituationsConfig(), "search", 24))
    words = ("kind", "curious", "playful", "calm")
    options = [f"I feel {first} and {second}" for first in words for second in words]
    return Request("scored", (Message("user", story),), PLAY.sampling), options


# --- transformers ---------------------------------------------------------------------------------


def on_transformers(base: Path, adapter: Path) -> Measured:
    from sage_core.engines.in_process import TransformersEngine
    from sage_core.engines.loaded_model import loaded_model

    models = Models(
        TransformersEngine(base, adapter, MODEL),
        TransformersEngine(base, adapter, MODEL),
        TransformersEngine(base, None, MODEL),
    )
    found = measure(models)
    request, options = scoring()
    loaded = loaded_model(base, MODEL)
    computed = 0

    def count(module: Any, arguments: Any, keywords: dict[str, Any]) -> None:
        nonlocal computed
        ids = keywords["input_ids"] if "input_ids" in keywords else arguments[0]
        computed += ids.numel()

    hook = loaded.model.register_forward_pre_hook(count, with_kwargs=True)
    models.selector.choose([request], [options])
    hook.remove()
    found.scored = (computed, *sizes(loaded.prompts, loaded.tokenizer, request, options))
    return found


def sizes(prompts: Any, tokenizer: Any, request: Request, options: list[str]) -> tuple[int, int]:
    """Tokens of the prompt and of all options."""
    lengths = [len(tokenizer.encode(option, add_special_tokens=False)) for option in options]
    return len(prompts.fit(request)[0]), sum(lengths)


# --- vLLM -----------------------------------------------------------------------------------------


class BareServer(VllmServer):
    """Without our plug-in."""

    def _command(self) -> list[str]:
        line = super()._command()
        plugin = line.index("--logits-processors")
        return line[:plugin] + line[plugin + 2 :]


def on_vllm(base: Path, adapter: Path, folder: Path) -> Measured:
    with VllmServer(base, MODEL, VLLM, folder / "vllm.log") as server:
        agent, user = (VllmEngine(VLLM, server, adapter) for _ in range(2))
        selector = VllmEngine(VLLM, server, None)
        found = measure(Models(agent, user, selector))
        request, options = scoring()
        before = computed(server)
        selector.choose([request], [options])
        read = computed(server) - before
        found.scored = (read, *sizes(server.prompts, server.tokenizer, request, options))
    with BareServer(base, MODEL, VLLM, folder / "bare.log") as server:
        found.bare = all_at_once(server, adapter, found.asked)
    return found


def all_at_once(server: VllmServer, adapter: Path, asked: Asked) -> float:
    """Useful tokens per second where every request is sent before any is answered."""
    number = len(asked.agent) + len(asked.user) + len(asked.selector)
    settings = VLLM.model_copy(update={"max_concurrency": number})
    agent, user = (VllmEngine(settings, server, adapter) for _ in range(2))
    selector = VllmEngine(settings, server, None)
    costed(agent, situations(SituationsConfig(), "evaluation", 8), None, 1, "warm-up")

    def send() -> None:
        with ThreadPoolExecutor(3) as pool:
            ballots, options = zip(*asked.selector, strict=True)
            work: list[Future[Any]] = [
                pool.submit(agent.generate, asked.agent),
                pool.submit(user.generate, asked.user),
                pool.submit(selector.choose, ballots, options),
            ]
        for each in work:
            each.result()

    return Models(agent, user, selector).speed(send)


def computed(server: VllmServer) -> int:
    """Prompt positions that the server has computed so far, those in its prefix cache not."""
    address = server.base_url.removesuffix("/v1") + "/metrics"
    text = urlopen(address).read().decode()
    counts = {
        name: sum(
            map(float, re.findall(rf"^vllm:prefix_cache_{name}_total{{.*}} (\S+)$", text, re.M))
        )
        for name in ("queries", "hits")
    }
    return int(counts["queries"] - counts["hits"])


if __name__ == "__main__":
    main()
