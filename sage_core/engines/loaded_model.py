"""A base model in memory: its tokenizer, its adapters, and how it reads and continues prompts.

One copy of the base stays; adapters are loaded next to each other and switched, never merged.
"""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch

from sage_core.config.model import ModelConfig
from sage_core.engines import shared_prefix
from sage_core.engines.base import Constraint, Request
from sage_core.engines.loading import load_model, load_tokenizer, stop_tokens
from sage_core.engines.memory import droppable
from sage_core.engines.prompts import Prompts
from sage_core.engines.steerer import Steerer, Vocabulary
from sage_core.engines.steering import Steering
from sage_core.errors import EngineError

_MIN_COMMON = 32  # tokens; below that, reading them once costs more than it saves


@dataclass
class Kept:
    """What stays after finished prompts left the batch: indices of prompts and of rows."""

    prompts: torch.Tensor
    rows: torch.Tensor


@dataclass
class Prefilled:
    """Prompts that were read: their cache, right-padded, how many tokens they have in common, the
    lengths (P,) of what follows those, and the logits (P, V) after each prompt."""

    cache: Any
    common: int
    lengths: torch.Tensor
    logits: torch.Tensor


class Decoder:
    """The model past its prompts: feeds tokens, keeps the cache."""

    def __init__(self, loaded: "LoadedModel", prefilled: Prefilled, n: int, capacity: int) -> None:
        self._loaded = loaded
        self._next = (prefilled.common + prefilled.lengths).repeat_interleave(n)
        self._levels: list[shared_prefix.Level] | None = None
        if loaded.shares_prompts:
            self._levels = shared_prefix.levels(
                prefilled.cache, prefilled.common, prefilled.lengths
            )
            self._cache: Any = shared_prefix.SuffixCache(len(prefilled.cache.layers), capacity)
        else:
            prefilled.cache.batch_repeat_interleave(n)
            self._cache = prefilled.cache

    def step(self, tokens: torch.Tensor, *, every_position: bool = False) -> torch.Tensor:
        """Feed (R,) or (R, T) tokens; returns float32 logits (R, V), or (R, T, V)."""
        tokens = tokens if tokens.dim() == 2 else tokens[:, None]
        positions = self._next[:, None] + torch.arange(tokens.shape[1], device=tokens.device)
        self._next = self._next + tokens.shape[1]
        model = self._loaded.model
        arguments = {} if self._levels is None else {"levels": self._levels}
        model.set_attn_implementation("sdpa" if self._levels is None else shared_prefix.ATTENTION)
        output = model(
            input_ids=tokens,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=0 if every_position else 1,
            **arguments,
        )
        logits: torch.Tensor = output.logits.float()
        return logits if every_position else logits[:, -1]

    def select(self, kept: Kept) -> None:
        """Go on with these prompts and rows only."""
        assert self._levels is not None  # rows leave batches of several prompts only
        self._levels = [*self._levels[:-1], self._levels[-1].select(kept.prompts)]
        self._cache.select(kept.rows)
        self._next = self._next[kept.rows]


def common_prefix(prompts: list[list[int]]) -> int:
    """How many tokens all prompts start with, if it is worth reading them apart; at least one
    token of each prompt is left over."""
    shortest = min(len(prompt) for prompt in prompts)
    common = min(len(os.path.commonprefix(prompts)), shortest - 1)
    return common if len(prompts) > 1 and common >= _MIN_COMMON else 0


class LoadedModel:
    """A loaded base model with everything derived from its tokenizer."""

    def __init__(self, base: Path, config: ModelConfig) -> None:
        self.config = config
        self.tokenizer: Any = load_tokenizer(base)
        self.model: Any = load_model(base, config)
        self.vocabulary: int = self.model.get_output_embeddings().weight.shape[0]
        self.stop = set(stop_tokens(self.model, self.tokenizer))
        self._peft: Any = None
        self._adapters: list[str] = []
        self._compiled: dict[Constraint, Any] = {}
        self._steerers: dict[tuple[Steering, bool], Steerer] = {}

    def prefill(self, prompts: list[list[int]]) -> "Prefilled":
        """Read the prompts. The tokens that all of them start with are read once."""
        from transformers import DynamicCache

        device = self.model.device
        common = common_prefix(prompts)
        rest = [prompt[common:] for prompt in prompts]
        lengths = torch.tensor([len(tokens) for tokens in rest], device=device)
        longest = int(lengths.max())
        padded = torch.tensor(
            [tokens + [0] * (longest - len(tokens)) for tokens in rest], device=device
        )
        cache: Any = DynamicCache(config=self.model.config)
        self.model.set_attn_implementation("sdpa")
        if common:
            shared = torch.tensor([prompts[0][:common]], device=device)
            self.model(shared, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache.batch_repeat_interleave(len(prompts))
        # Padding is on the right, so the causal mask alone keeps it out of every prompt.
        ends = lengths - 1
        kept = torch.unique(ends)
        output = self.model(padded, past_key_values=cache, use_cache=True, logits_to_keep=kept)
        rows = torch.arange(len(rest), device=device)
        logits = output.logits[rows, torch.searchsorted(kept, ends)].float()
        return Prefilled(cache, common, lengths, logits)

    def using(self, adapter: Path | None) -> "_Adapter":
        return _Adapter(self, adapter)

    def activate(self, adapter: Path | None) -> None:
        """Switch to an adapter, loading it if it is not here; None switches adapters off."""
        from peft import PeftModel

        if adapter is None:
            if self._peft is not None:
                self._peft.base_model.disable_adapter_layers()
            return
        name = str(adapter.resolve()).replace(".", "_")
        if self._peft is None:
            self._peft = PeftModel.from_pretrained(
                self.model, adapter, adapter_name=name, autocast_adapter_dtype=False
            ).eval()
            self._adapters = [name]
        elif name not in self._adapters:
            if len(self._adapters) >= self.config.resident_adapters:
                self._peft.delete_adapter(self._adapters.pop(0))
            self._peft.load_adapter(adapter, adapter_name=name, autocast_adapter_dtype=False)
            self._adapters.append(name)
        self._peft.base_model.enable_adapter_layers()
        self._peft.set_adapter(name)

    @cached_property
    def prompts(self) -> Prompts:
        return Prompts(self.tokenizer, self.config.max_context)

    @cached_property
    def shares_prompts(self) -> bool:
        """Whether all layers are full attention; others take one unpadded prompt at a time."""
        from transformers import DynamicCache

        return shared_prefix.supports(DynamicCache(config=self.model.config))

    @property
    def token_texts(self) -> list[bytes]:
        """The text of each token of the vocabulary; special tokens have none."""
        return self._vocabulary.texts

    def steerer(self, request: Request) -> Steerer:
        """What carries out the request's steering.

        Raises:
            ConfigError: the tokenizer cannot write a keyword.
        """
        assert request.steering is not None
        key = request.steering, request.constraint is not None
        if key not in self._steerers:
            self._steerers[key] = Steerer(self._vocabulary, key[0], grammar=key[1])
        return self._steerers[key]

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return Vocabulary.of(self.tokenizer, self.vocabulary)

    def compiled(self, constraint: Constraint, *, at_start: bool) -> Any:
        """The compiled constraint; ``at_start``: nothing of the reply stands there yet."""
        if at_start:
            constraint = self.prompts.led(constraint)
        if constraint not in self._compiled:
            try:
                if constraint.kind == "grammar":
                    compiled = self._compiler.compile_grammar(constraint.text)
                else:
                    compiled = self._compiler.compile_json_schema(
                        constraint.text, any_whitespace=False
                    )
            except RuntimeError as error:
                raise EngineError(
                    f"the {constraint.kind} cannot be compiled: {error}; fix it:\n{constraint.text}"
                ) from None
            self._compiled[constraint] = compiled
        return self._compiled[constraint]

    def matcher(self, compiled: Any) -> Any:
        import xgrammar

        return xgrammar.GrammarMatcher(compiled, override_stop_tokens=sorted(self.stop))

    def bitmask(self, rows: int) -> Any:
        import xgrammar

        return xgrammar.allocate_token_bitmask(rows, self.vocabulary)

    @cached_property
    def _compiler(self) -> Any:
        import xgrammar

        info = xgrammar.TokenizerInfo.from_huggingface(self.tokenizer, vocab_size=self.vocabulary)
        return xgrammar.GrammarCompiler(info)


class _Adapter:
    """The adapter that is on while a batch runs; off again afterwards."""

    def __init__(self, loaded: LoadedModel, adapter: Path | None) -> None:
        self._loaded, self._adapter = loaded, adapter

    def __enter__(self) -> None:
        self._loaded.activate(self._adapter)

    def __exit__(self, *error: object) -> None:
        self._loaded.activate(None)


_last: list[LoadedModel] = []  # the one that is kept although no engine uses it
_alive: WeakValueDictionary[tuple[Path, ModelConfig], LoadedModel] = WeakValueDictionary()


def loaded_model(base: Path, config: ModelConfig) -> LoadedModel:
    """The model of a base folder: the copy that is in memory, or one that is loaded now.

    A copy that an engine still uses is found even after :func:`release`, so that there are never
    two of one model.
    """
    found = _alive.get((base, config))
    if found is None:
        release()  # so that two models are in memory only if both are in use
        found = _alive[base, config] = LoadedModel(base, config)
    _last[:] = [found]
    return found


@droppable
def release() -> None:
    """Forget the model in memory."""
    _last.clear()
