"""Drawing the tokens of a batch of candidates: grammar, penalty, steering, and a seeded stream for
each."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from sage_core.config.engine import SamplingConfig
from sage_core.engines.base import Completion, ReplyLimits, Request, draw_seed
from sage_core.engines.loaded_model import LoadedModel
from sage_core.engines.shared_prefix import Kept
from sage_core.engines.steerer import Row, Steerer, apply


class Rows:
    """The candidates of a batch: draws their tokens, knows which are finished. ``only``: of each
    request the candidates of these numbers; None: all."""

    def __init__(
        self,
        loaded: LoadedModel,
        requests: list[Request],
        prompts: list[list[int]],
        only: Sequence[int] | None = None,
    ) -> None:
        sampling = requests[0].sampling
        candidates = range(requests[0].n) if only is None else only
        n = len(candidates)
        device = loaded.model.device
        self._loaded, self._sampling = loaded, sampling
        self._rows = len(requests) * n
        self._tokens: list[list[int]] = [[] for _ in range(self._rows)]
        self._stopped = np.zeros(self._rows, dtype=bool)
        self._cut = np.zeros(self._rows, dtype=bool)
        self._limits = [ReplyLimits(request) for request in requests for _ in range(n)]
        self._live = np.arange(self._rows)  # row of the batch -> row of the request list
        self._uniforms = torch.tensor(
            np.stack(
                [
                    np.random.Generator(np.random.PCG64(draw_seed(request, candidate))).random(
                        sampling.budget(requests[0].opens_with_states)
                    )
                    for request in requests
                    for candidate in candidates
                ]
            ),
            device=device,
        )
        self._exempt = requests[0].opens_with_states and not sampling.penalise_states
        self._seen: torch.Tensor | None = None
        if sampling.repetition_penalty != 1:
            self._seen = torch.zeros(self._rows, loaded.vocabulary, dtype=torch.bool, device=device)
            for row in range(self._rows):
                self._seen[row, torch.tensor(prompts[row // n], device=device)] = True
        self._matchers: list[Any] = []
        constraint = requests[0].constraint
        if constraint is not None:
            compiled = loaded.compiled(constraint, at_start=not requests[0].prefix)
            self._matchers = [loaded.matcher(compiled) for _ in range(self._rows)]
            self._bitmask = loaded.bitmask(self._rows)
        self._steered: list[tuple[Steerer, Row] | None] = [None] * self._rows
        for number, request in enumerate(requests):
            if request.steering:
                steerer = loaded.steerer(request)
                for row in range(number * n, number * n + n):
                    self._steered[row] = steerer, Row(request.prefix)

    def draw(self, logits: torch.Tensor, step: int) -> torch.Tensor:
        """Draw the next token of every live row from float32 logits (R, V)."""
        if self._matchers:
            self._constrain(logits)
        if self._seen is not None:
            self._penalise(logits)
        if any(self._steered):
            edits = [steered[0].edit(steered[1]) if steered else None for steered in self._steered]
            apply(logits, edits)
        tokens = draw(logits, self._sampling, self._uniforms[:, step])
        if self._seen is not None:
            self._seen.scatter_(1, tokens[:, None], True)
        for row, token in enumerate(tokens.tolist()):
            self._accept(row, token)
        return tokens

    def _accept(self, row: int, token: int) -> None:
        at = self._live[row]
        if self._ended(at):
            return
        if self._matchers:
            self._matchers[row].accept_token(token)
        if token in self._loaded.stop:
            self._stopped[at] = True
            return
        self._tokens[at].append(token)
        if (steered := self._steered[row]) is not None:
            steerer, followed = steered
            followed.feed(steerer.vocabulary.texts[token])
        self._limits[at].feed(self._loaded.token_texts[token])
        self._cut[at] = self._limits[at].reached

    def _ended(self, at: Any) -> Any:
        return self._stopped[at] | self._cut[at]

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
        speaking = torch.tensor(
            [
                row
                for row, at in enumerate(self._live)
                if not (self._exempt and self._limits[at].in_states)
            ],
            dtype=torch.long,
            device=logits.device,
        )
        penalty = self._sampling.repetition_penalty
        scores = logits[speaking]
        penalised = torch.where(scores > 0, scores / penalty, scores * penalty)
        logits[speaking] = torch.where(self._seen[speaking], penalised, scores)

    def finished(self) -> bool:
        return bool(self._ended(slice(None)).all())

    def compact(self, n: int) -> Kept | None:
        """Drop the prompts all of whose candidates ended, once they are a quarter of the batch."""
        done: Any = self._ended(self._live).reshape(-1, n).all(axis=1)
        if done.mean() < 0.25 or len(done) == 1:
            return None
        device = self._uniforms.device
        prompts = np.flatnonzero(~done)
        rows = np.flatnonzero(np.repeat(~done, n))
        kept = Kept(torch.tensor(prompts, device=device), torch.tensor(rows, device=device))
        self._live = self._live[rows]
        self._uniforms = self._uniforms[kept.rows]
        if self._seen is not None:
            self._seen = self._seen[kept.rows]
        if self._matchers:
            self._matchers = [self._matchers[row] for row in rows]
        self._steered = [self._steered[row] for row in rows]
        return kept

    def completions(self) -> list[Completion]:
        texts = self._loaded.tokenizer.batch_decode(self._tokens, skip_special_tokens=True)
        return [
            Completion(text, "stop" if stopped else "length", len(tokens), 0, tuple(tokens))
            for text, stopped, tokens in zip(texts, self._stopped, self._tokens, strict=True)
        ]


def draw(logits: torch.Tensor, sampling: SamplingConfig, uniforms: torch.Tensor) -> torch.Tensor:
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
