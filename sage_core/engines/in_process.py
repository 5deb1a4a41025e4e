"""The transformers engine: a base model in this process, with LoRA adapters side by side.

One copy of the base stays in memory; adapters are loaded next to each other and switched, never
merged. Requests are batched across dialogues by prompt length; the part that all prompts of a
batch share is read once, each prompt is read once for all its candidates
(:mod:`sage_core.engines.shared_prefix`), and every token is drawn from a stream seeded per
candidate.
"""

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sage_core.config import ModelConfig, SamplingConfig
from sage_core.engines import shared_prefix
from sage_core.engines.base import (
    Capabilities,
    Completion,
    Constraint,
    Request,
    draw_seed,
    require,
)
from sage_core.engines.loading import load_model, load_tokenizer, stop_tokens
from sage_core.errors import EngineError

_STATE_GROUPS = 2
_MIN_COMMON = 32  # tokens; below that, reading them once costs more than it saves


class TransformersEngine:
    """A base folder and, unless it is m0, the adapter folder on top of it."""

    capabilities = Capabilities(
        top_k=True,
        repetition_penalty=True,
        penalty_outside_states=True,
        grammar=True,
        json_schema=True,
        prefix=True,
        scoring=True,
    )

    def __init__(self, base: Path, adapter: Path | None, config: ModelConfig) -> None:
        self.config = config
        self.name = f"transformers:{adapter.name if adapter else base.name}"
        self._adapter = adapter
        self._resident = _resident(base, config)

    def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        for request in requests:
            require(self, request)
        prompts = [self._resident.encode(request) for request in requests]
        results: dict[int, list[Completion]] = {}
        with self._resident.using(self._adapter), torch.inference_mode():
            for batch in self._batches(requests, prompts):
                completions = self._generate_batch(
                    [requests[index] for index in batch], [prompts[index] for index in batch]
                )
                results.update(zip(batch, completions, strict=True))
        return [results[index] for index in range(len(requests))]

    def choose(
        self, requests: Sequence[Request], options: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        prompts = [self._resident.encode(request) for request in requests]
        encode = self._resident.tokenizer.encode
        tokens = [
            [encode(option, add_special_tokens=False) for option in choices] for choices in options
        ]
        if any(not option for choices in tokens for option in choices):
            raise EngineError("an option is empty; each needs some text")
        results: dict[int, list[float]] = {}
        with self._resident.using(self._adapter), torch.inference_mode():
            for batch in self._batches(requests, prompts):
                if all(len(option) == 1 for index in batch for option in tokens[index]):
                    scores = self._first_token([prompts[index] for index in batch])
                    for index, row in zip(batch, scores, strict=True):
                        results[index] = [float(row[option[0]]) for option in tokens[index]]
                else:
                    for index in batch:
                        results[index] = self._whole_options(prompts[index], tokens[index])
        return [results[index] for index in range(len(requests))]

    def _batches(
        self, requests: Sequence[Request], prompts: Sequence[list[int]]
    ) -> Iterator[list[int]]:
        """Indices of requests that run together: alike in sampling, near in prompt length."""

        def kind(index: int) -> tuple[Any, ...]:
            request = requests[index]
            return (
                request.n,
                request.sampling.model_dump_json(),
                request.opens_with_states,
                request.constraint.text if request.constraint else "",
            )

        order = sorted(range(len(requests)), key=lambda i: (kind(i), len(prompts[i]), i))
        for _, alike in itertools.groupby(order, key=kind):
            group = list(alike)
            common = _common_prefix([prompts[index] for index in group])
            batch: list[int] = []
            for index in group:
                grown = len(batch) + 1
                too_wide = grown * requests[index].n > self.config.batch_size
                too_long = grown * (len(prompts[index]) - common) > self.config.prefill_tokens
                alone = not self._resident.shares_prompts
                if batch and (too_wide or too_long or alone):
                    yield batch
                    batch = []
                batch.append(index)
            yield batch

    def _generate_batch(
        self, requests: list[Request], prompts: list[list[int]]
    ) -> list[list[Completion]]:
        resident, sampling, n = self._resident, requests[0].sampling, requests[0].n
        prefilled = resident.prefill(prompts)
        decoder = _Decoder(resident, prefilled, n, sampling.max_new_tokens)
        rows = _Rows(resident, requests, prompts)
        logits = prefilled.logits.repeat_interleave(n, dim=0)
        for step in range(sampling.max_new_tokens):
            tokens = rows.draw(logits, step)
            if rows.finished():
                break
            if step + 1 < sampling.max_new_tokens:
                keep = rows.compact(n)
                if keep is not None:
                    decoder.select(keep)
                    tokens = tokens[keep.rows]
                logits = decoder.step(tokens)
        completions = rows.completions()
        return [completions[start : start + n] for start in range(0, len(completions), n)]

    def _first_token(self, prompts: list[list[int]]) -> torch.Tensor:
        """Log-probabilities (P, V) of the token after each prompt."""
        return self._resident.prefill(prompts).logits.log_softmax(-1)

    def _whole_options(self, prompt: list[int], options: list[list[int]]) -> list[float]:
        """Log-probability of each option, all its tokens counted; the prompt is read once."""
        resident = self._resident
        prefilled = resident.prefill([prompt])
        first = prefilled.logits.log_softmax(-1)[0]
        totals = [float(first[tokens[0]]) for tokens in options]
        longest = max(len(tokens) for tokens in options)
        if longest == 1:
            return totals
        decoder = _Decoder(resident, prefilled, len(options), longest)
        padded = [tokens[:-1] + [0] * (longest - len(tokens)) for tokens in options]
        following = decoder.step(
            torch.tensor(padded, device=resident.model.device), every_position=True
        ).log_softmax(-1)
        for row, tokens in enumerate(options):
            for position, token in enumerate(tokens[1:]):
                totals[row] += float(following[row, position, token])
        return totals


@dataclass
class _Kept:
    """What stays after finished prompts left the batch: indices of prompts and of rows."""

    prompts: torch.Tensor
    rows: torch.Tensor


@dataclass
class _Prefilled:
    """Prompts that were read: their cache, right-padded, how many tokens they have in common, the
    lengths (P,) of what follows those, and the logits (P, V) after each prompt."""

    cache: Any
    common: int
    lengths: torch.Tensor
    logits: torch.Tensor


class _Decoder:
    """The model past its prompts: feeds tokens, keeps the cache."""

    def __init__(self, resident: "_Resident", prefilled: _Prefilled, n: int, capacity: int) -> None:
        self._resident = resident
        self._next = (prefilled.common + prefilled.lengths).repeat_interleave(n)
        self._levels: list[shared_prefix.Level] | None = None
        if resident.shares_prompts:
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
        model = self._resident.model
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

    def select(self, kept: _Kept) -> None:
        """Go on with these prompts and rows only."""
        assert self._levels is not None  # rows leave batches of several prompts only
        self._levels = [*self._levels[:-1], self._levels[-1].select(kept.prompts)]
        self._cache.select(kept.rows)
        self._next = self._next[kept.rows]


class _Rows:
    """The candidates of a batch: draws their tokens, knows which are finished."""

    def __init__(
        self, resident: "_Resident", requests: list[Request], prompts: list[list[int]]
    ) -> None:
        sampling, n = requests[0].sampling, requests[0].n
        device = resident.model.device
        self._resident, self._sampling = resident, sampling
        self._rows = len(requests) * n
        self._tokens: list[list[int]] = [[] for _ in range(self._rows)]
        self._stopped = np.zeros(self._rows, dtype=bool)
        self._live = np.arange(self._rows)  # row of the batch -> row of the request list
        self._uniforms = torch.tensor(
            np.stack(
                [
                    np.random.Generator(np.random.PCG64(draw_seed(request, candidate))).random(
                        sampling.max_new_tokens
                    )
                    for request in requests
                    for candidate in range(n)
                ]
            ),
            device=device,
        )
        self._exempt = requests[0].opens_with_states and not sampling.penalise_states
        self._open_groups = np.full(self._rows, _STATE_GROUPS if self._exempt else 0)
        self._seen: torch.Tensor | None = None
        if sampling.repetition_penalty != 1:
            self._seen = torch.zeros(
                self._rows, resident.vocabulary, dtype=torch.bool, device=device
            )
            for row in range(self._rows):
                self._seen[row, torch.tensor(prompts[row // n], device=device)] = True
        self._matchers: list[Any] = []
        constraint = requests[0].constraint
        if constraint is not None:
            compiled = resident.compiled(constraint)
            self._matchers = [resident.matcher(compiled) for _ in range(self._rows)]
            self._bitmask = resident.bitmask(self._rows)

    def draw(self, logits: torch.Tensor, step: int) -> torch.Tensor:
        """Draw the next token of every live row from float32 logits (R, V)."""
        if self._matchers:
            self._constrain(logits)
        if self._seen is not None:
            self._penalise(logits)
        tokens = _draw(logits, self._sampling, self._uniforms[:, step])
        if self._seen is not None:
            self._seen.scatter_(1, tokens[:, None], True)
        for row, token in enumerate(tokens.tolist()):
            self._accept(row, token)
        return tokens

    def _accept(self, row: int, token: int) -> None:
        if self._stopped[self._live[row]]:
            return
        if self._matchers:
            self._matchers[row].accept_token(token)
        if token in self._resident.stop:
            self._stopped[self._live[row]] = True
            return
        self._tokens[self._live[row]].append(token)
        if self._open_groups[row] > 0:
            self._open_groups[row] -= self._resident.closing_braces[token]

    def _constrain(self, logits: torch.Tensor) -> None:
        import xgrammar

        for row, matcher in enumerate(self._matchers):
            if not matcher.is_terminated():
                matcher.fill_next_token_bitmask(self._bitmask, row)
            else:
                self._bitmask[row] = -1
        bitmask = self._bitmask[: len(self._matchers)].to(logits.device)
        xgrammar.apply_token_bitmask_inplace(logits, bitmask)

    def _penalise(self, logits: torch.Tensor) -> None:
        """Repetition penalty (Keskar et al. 2019) over prompt and reply, but not in states."""
        assert self._seen is not None
        speaking = torch.tensor(np.flatnonzero(self._open_groups <= 0), device=logits.device)
        penalty = self._sampling.repetition_penalty
        scores = logits[speaking]
        penalised = torch.where(scores > 0, scores / penalty, scores * penalty)
        logits[speaking] = torch.where(self._seen[speaking], penalised, scores)

    def finished(self) -> bool:
        return bool(self._stopped.all())

    def compact(self, n: int) -> _Kept | None:
        """Drop the prompts all of whose candidates ended, once they are a quarter of the batch."""
        done: Any = self._stopped[self._live].reshape(-1, n).all(axis=1)
        if done.mean() < 0.25 or len(done) == 1:
            return None
        device = self._uniforms.device
        prompts = np.flatnonzero(~done)
        rows = np.flatnonzero(np.repeat(~done, n))
        kept = _Kept(torch.tensor(prompts, device=device), torch.tensor(rows, device=device))
        self._live = self._live[rows]
        self._open_groups = self._open_groups[rows]
        self._uniforms = self._uniforms[kept.rows]
        if self._seen is not None:
            self._seen = self._seen[kept.rows]
        if self._matchers:
            self._matchers = [self._matchers[row] for row in rows]
        return kept

    def completions(self) -> list[Completion]:
        texts = self._resident.tokenizer.batch_decode(self._tokens, skip_special_tokens=True)
        return [
            Completion(text, "stop" if stopped else "length", len(tokens))
            for text, stopped, tokens in zip(texts, self._stopped, self._tokens, strict=True)
        ]


def _draw(logits: torch.Tensor, sampling: SamplingConfig, uniforms: torch.Tensor) -> torch.Tensor:
    """One token per row: inverse-CDF sampling with one uniform number each; top-k first."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    scores, tokens = logits, None
    if 0 < sampling.top_k < logits.shape[-1]:
        scores, tokens = logits.topk(sampling.top_k)
    cumulative = (scores / sampling.temperature).softmax(-1, dtype=torch.float64).cumsum(-1)
    # Scaled by the sum, since rounding leaves it short of one, and a token of no probability must
    # not be drawn.
    index = torch.searchsorted(cumulative, uniforms[:, None] * cumulative[:, -1:], right=True)
    return (index if tokens is None else tokens.gather(1, index))[:, 0]


def _common_prefix(prompts: list[list[int]]) -> int:
    """How many tokens all prompts start with, if it is worth reading them apart; at least one
    token of each prompt is left over."""
    shortest = min(len(prompt) for prompt in prompts)
    common = min(len(os.path.commonprefix(prompts)), shortest - 1)
    return common if len(prompts) > 1 and common >= _MIN_COMMON else 0


class _Resident:
    """A loaded base model with everything derived from its tokenizer."""

    def __init__(self, base: Path, config: ModelConfig) -> None:
        self.config = config
        self.tokenizer: Any = load_tokenizer(base)
        self.model: Any = load_model(base, config)
        self.vocabulary: int = self.model.get_output_embeddings().weight.shape[0]
        self.stop = set(stop_tokens(self.model, self.tokenizer))
        self._peft: Any = None
        self._loaded: list[str] = []
        self._compiled: dict[Constraint, Any] = {}

    def encode(self, request: Request) -> list[int]:
        """Token ids of the conversation, up to where the completion starts."""
        messages = [{"role": m.role, "content": m.content} for m in request.messages]
        text = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        ids: list[int] = self.tokenizer.encode(text + request.prefix, add_special_tokens=False)
        room = self.config.max_context - request.sampling.max_new_tokens
        if len(ids) > room:
            raise EngineError(
                f"the prompt of '{request.request_id}' has {len(ids)} tokens, but model.max_context"
                f" leaves room for {room}; raise model.max_context or lower max_turns or "
                "max_new_tokens"
            )
        return ids

    def prefill(self, prompts: list[list[int]]) -> "_Prefilled":
        """Read the prompts. The tokens that all of them start with are read once."""
        from transformers import DynamicCache

        device = self.model.device
        common = _common_prefix(prompts)
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
        return _Prefilled(cache, common, lengths, logits)

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
            self._loaded = [name]
        elif name not in self._loaded:
            if len(self._loaded) >= self.config.resident_adapters:
                self._peft.delete_adapter(self._loaded.pop(0))
            self._peft.load_adapter(adapter, adapter_name=name, autocast_adapter_dtype=False)
            self._loaded.append(name)
        self._peft.base_model.enable_adapter_layers()
        self._peft.set_adapter(name)

    @cached_property
    def shares_prompts(self) -> bool:
        """Whether all layers are full attention; others take one unpadded prompt at a time."""
        from transformers import DynamicCache

        return shared_prefix.supports(DynamicCache(config=self.model.config))

    @cached_property
    def closing_braces(self) -> list[int]:
        """How many closing braces each token of the vocabulary holds."""
        texts = self.tokenizer.batch_decode([[token] for token in range(len(self.tokenizer))])
        counts = [text.count("}") for text in texts]
        return counts + [0] * (self.vocabulary - len(counts))

    def compiled(self, constraint: Constraint) -> Any:
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
                    f"the {constraint.kind} cannot be compiled: {error}; mend it:\n"
                    f"{constraint.text}"
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

    def __init__(self, resident: _Resident, adapter: Path | None) -> None:
        self._resident, self._adapter = resident, adapter

    def __enter__(self) -> None:
        self._resident.activate(self._adapter)

    def __exit__(self, *error: object) -> None:
        self._resident.activate(None)


@lru_cache(maxsize=1)
def _resident(base: Path, config: ModelConfig) -> _Resident:
    return _Resident(base, config)


def release() -> None:
    """Forget the model in memory, so that training has the machine to itself."""
    _resident.cache_clear()
