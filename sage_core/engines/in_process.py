"""The transformers engine: a base model in this process, with LoRA adapters side by side.

Requests are batched across dialogues by prompt length; the part that all prompts of a
batch share is read once, each prompt is read once for all its candidates
(:mod:`sage_core.engines.shared_prefix`), and every token is drawn from a stream seeded per
candidate. Models that this would change (:mod:`sage_core.engines.self_test`) generate and score by
transformers alone (:mod:`sage_core.engines.plain`).
"""

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sage_core.config.engine import TransformersConfig
from sage_core.config.model import ModelConfig
from sage_core.engines import plain, shared_prefix
from sage_core.engines.base import (
    Capabilities,
    Completion,
    Request,
    Usage,
    require,
    spaces_in_options,
)
from sage_core.engines.drawing import Rows
from sage_core.engines.loaded_model import loaded_model
from sage_core.engines.shared_prefix import Decoder, Prefilled, attending, common_prefix
from sage_core.errors import EngineError
from sage_core.execution import note

_OPTION_TOKENS = 1024  # scored in one pass at most: their logits are in memory, 0.2 GB


def open_engine(
    settings: TransformersConfig, base: Path, model: ModelConfig, adapter: Path | None, home: Path
) -> "TransformersEngine":
    """See :mod:`sage_core.engines.opening`."""
    return TransformersEngine(base, adapter, model)


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
        boosts=True,
        forces=True,
        bans=True,
    )

    def __init__(self, base: Path, adapter: Path | None, config: ModelConfig) -> None:
        self.config = config
        self.name = f"transformers:{adapter.name if adapter else base.name}"
        self.usage = Usage()
        self._adapter = adapter
        self._loaded = loaded_model(base, config)
        note("generation", str(self._loaded.generation))

    def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        for request in requests:
            require(self, request)
            if request.steering:
                self._loaded.steerer(request)  # so that a wrong keyword is named before the run
        prompts, left_out = self._fit(requests)
        results: dict[int, list[Completion]] = {}
        began = time.monotonic()
        with self._loaded.using(self._adapter), torch.inference_mode():
            for batch in self._batches(requests, prompts):
                completions = self._generate_batch(
                    [requests[index] for index in batch], [prompts[index] for index in batch]
                )
                results.update(zip(batch, completions, strict=True))
        drawn = sum(each.completion_tokens for row in results.values() for each in row)
        self._count(prompts, drawn, began, len(requests))
        return [
            [replace(completion, left_out=left_out[index]) for completion in results[index]]
            for index in range(len(requests))
        ]

    def choose(
        self, requests: Sequence[Request], options: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        asked = [spaces_in_options(*item) for item in zip(requests, options, strict=True)]
        requests, options = [request for request, _ in asked], [some for _, some in asked]
        prompts, _ = self._fit(requests)
        began = time.monotonic()
        encode = self._loaded.prompts.option
        tokens = [
            [encode(request.prefix, option) for option in choices]
            for request, choices in zip(requests, options, strict=True)
        ]
        if any(not option for choices in tokens for option in choices):
            raise EngineError("an option is empty; each needs some text")
        results: dict[int, list[float]] = {}
        with self._loaded.using(self._adapter), torch.inference_mode():
            for batch in self._batches(requests, prompts):
                scores = self._score_options(
                    [prompts[index] for index in batch], [tokens[index] for index in batch]
                )
                results.update(zip(batch, scores, strict=True))
        self._count([*prompts, *(option[1:] for choices in tokens for option in choices)], 0, began,
                    len(requests))  # fmt: skip
        return [results[index] for index in range(len(requests))]

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        encode = self._loaded.tokenizer.encode
        return [len(encode(text, add_special_tokens=False)) for text in texts]

    @contextmanager
    def weights(self) -> Iterator[tuple[Any, Any]]:
        """See :class:`sage_core.engines.base.HoldsWeights`."""
        with self._loaded.using(self._adapter):
            yield self._loaded.model, self._loaded.tokenizer

    def _fit(self, requests: Sequence[Request]) -> tuple[list[list[int]], list[int]]:
        """The prompts' token ids, and how many messages were left out of each."""
        fitted = [self._loaded.prompts.fit(request) for request in requests]
        return [ids for ids, _ in fitted], [left_out for _, left_out in fitted]

    def _count(self, read: Sequence[list[int]], drawn: int, began: float, requests: int) -> None:
        tokens = sum(len(text) for text in read)
        self.usage += Usage(requests, tokens, drawn, time.monotonic() - began)

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
                bool(request.prefix),  # the grammar starts elsewhere
                request.constraint.text if request.constraint else "",
            )

        order = sorted(range(len(requests)), key=lambda i: (kind(i), len(prompts[i]), i))
        for _, alike in itertools.groupby(order, key=kind):
            group = list(alike)
            common = self._common([prompts[index] for index in group])
            batch: list[int] = []
            for index in group:
                n = requests[index].n
                rows = (len(batch) + 1) * n
                reads = rows // n if self._shares else rows  # prompts
                too_long = reads * (len(prompts[index]) - common) > self.config.prefill_tokens
                if batch and (rows > self.config.batch_size or too_long):
                    yield batch
                    batch = []
                batch.append(index)
            yield batch

    @property
    def _shares(self) -> bool:
        return self._loaded.generation.way == "shared"

    def _common(self, prompts: list[list[int]]) -> int:
        return common_prefix(prompts) if self._shares else 0

    def _generate_batch(
        self, requests: list[Request], prompts: list[list[int]]
    ) -> list[list[Completion]]:
        n = requests[0].n
        if self._shares:
            completions = self._generate_shared(requests, prompts)
        elif self._loaded.generation.way == "batched":
            completions = self._generate_plainly(requests, prompts, range(n))
        else:
            completions = [
                completion
                for request, prompt in zip(requests, prompts, strict=True)
                for candidate in range(n)
                for completion in self._generate_plainly([request], [prompt], [candidate])
            ]
        return [completions[start : start + n] for start in range(0, len(completions), n)]

    def _generate_shared(
        self, requests: list[Request], prompts: list[list[int]]
    ) -> list[Completion]:
        loaded, n = self._loaded, requests[0].n
        prefilled = self._prefill(prompts)
        budget = requests[0].sampling.budget(requests[0].opens_with_states)
        decoder = Decoder(loaded.model, prefilled, n, budget)
        rows = Rows(loaded, requests, prompts)
        logits = prefilled.logits.repeat_interleave(n, dim=0)
        with attending(loaded.model):
            for step in range(budget):
                tokens = rows.draw(logits, step)
                if rows.finished():
                    break
                if step + 1 < budget:
                    keep = rows.compact(n)
                    if keep is not None:
                        decoder.select(keep)
                        tokens = tokens[keep.rows]
                    logits = decoder.step(tokens)
        return rows.completions()

    def _generate_plainly(
        self, requests: list[Request], prompts: list[list[int]], candidates: Sequence[int]
    ) -> list[Completion]:
        rows = Rows(self._loaded, requests, prompts, candidates)
        plain.generate(
            self._loaded.model,
            [prompt for prompt in prompts for _ in candidates],
            rows,
            requests[0].sampling.budget(requests[0].opens_with_states),
            self._loaded.tokenizer.pad_token_id,
        )
        return rows.completions()

    def _prefill(self, prompts: list[list[int]]) -> Prefilled:
        return shared_prefix.prefill(self._loaded.model, prompts, common_prefix(prompts))

    def _score_options(
        self, prompts: list[list[int]], options: list[list[list[int]]]
    ) -> list[list[float]]:
        """Log-probability of each option of each prompt, all its tokens counted."""
        if self._shares:
            return self._score_shared(prompts, options)
        return self._score_plainly(prompts, options)

    def _score_plainly(
        self, prompts: list[list[int]], options: list[list[list[int]]]
    ) -> list[list[float]]:
        """Each prompt is read again with each of the beginnings of its options."""
        scored = [
            (row, beginning)
            for row, choices in enumerate(options)
            for beginning in _beginnings(choices) or [()]
        ]
        totals: list[list[float | None]] = [[None] * len(choices) for choices in options]
        log_probs = plain.score(
            self._loaded.model,
            [[*prompts[row], *beginning] for row, beginning in scored],
            [len(prompts[row]) for row, _ in scored],
            together=self._loaded.generation.way == "batched",
        )
        for (row, beginning), found in zip(scored, log_probs, strict=True):
            for number, option in enumerate(options[row]):
                if beginning[: len(option) - 1] == tuple(option[:-1]):
                    totals[row][number] = sum(
                        float(found[place, token]) for place, token in enumerate(option)
                    )
        return [[total for total in row if total is not None] for row in totals]

    def _score_shared(
        self, prompts: list[list[int]], options: list[list[list[int]]]
    ) -> list[list[float]]:
        """Each prompt is read once. What comes before an option's last token is read once for all
        options that begin with it, for all prompts of the batch together.
        """
        prefilled = self._prefill(prompts)
        first = prefilled.logits.log_softmax(-1)
        totals = [
            [float(first[row, tokens[0]]) for tokens in choices]
            for row, choices in enumerate(options)
        ]
        beginnings = [_beginnings(choices) for choices in options]
        most = max(len(each) for each in beginnings)
        start = 0
        while start < most:
            # Shortest first, so a part is as wide as its longest beginnings allow.
            longest = max(len(tokens) for each in beginnings for tokens in each[start : start + 1])
            width = max(1, _OPTION_TOKENS // (len(prompts) * longest))
            parts = [each[start : start + width] for each in beginnings]
            self._add_following(prefilled, parts, options, totals)
            start += width
        return totals

    def _add_following(
        self,
        prefilled: Prefilled,
        beginnings: list[list[tuple[int, ...]]],
        options: list[list[list[int]]],
        totals: list[list[float]],
    ) -> None:
        """Read each prompt's ``beginnings`` and add to ``totals`` what follows in its options."""
        most = max(len(each) for each in beginnings)
        longest = max(len(tokens) for each in beginnings for tokens in each)
        rows = [
            [*tokens, *[0] * (longest - len(tokens))]
            for each in beginnings
            for tokens in (*each, *[()] * (most - len(each)))
        ]
        model = self._loaded.model
        decoder = Decoder(model, prefilled, most, longest)
        with attending(model):
            logits = decoder.step(torch.tensor(rows, device=model.device), every_position=True)
        logits -= logits.logsumexp(-1, keepdim=True)
        for prompt, each in enumerate(beginnings):
            for number, option in enumerate(options[prompt]):
                if len(option) == 1:
                    continue
                before = tuple(option[:-1])
                for place, tokens in enumerate(each):
                    if tokens[: len(before)] == before:
                        row = logits[prompt * most + place]
                        totals[prompt][number] += sum(
                            float(row[position, token]) for position, token in enumerate(option[1:])
                        )
                        break


def _beginnings(options: list[list[int]]) -> list[tuple[int, ...]]:
    """The options without their last tokens, shortest first, less those that another begins with;
    each option belongs to exactly one."""
    found = sorted({tuple(option[:-1]) for option in options if len(option) > 1})
    longest = [
        tokens
        for tokens, after in zip(found, [*found[1:], ()], strict=False)  # none: no pair
        if after[: len(tokens)] != tokens
    ]
    return sorted(longest, key=len)
