"""Requests to the tiny model in this process, and transformers' own results for them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sage_core.config.engine import SamplingConfig
from sage_core.config.model import ModelConfig
from sage_core.engines.base import Completion, Request
from sage_core.schema import Message

CONFIG = ModelConfig(base="tiny", dtype="float32", device="cpu", max_context=1024)
TEXTS = ("hi", "I waited an hour for the bus again!", "My dog ran away last night. Oh no.", "b", "")
SINGLE = ["A", "B", "!", "z"]
SYSTEM = "Be my companion: caring, playful, honest about being an AI, and brief. " * 2


def sampling(**more: Any) -> SamplingConfig:
    plain = {"temperature": 0, "top_k": 0, "repetition_penalty": 1, "max_new_tokens": 48}
    return SamplingConfig.model_validate({**plain, **more})


def asked(
    text: str, *, system: str = "", how: SamplingConfig | None = None, **more: Any
) -> Request:
    messages = (*([Message("system", system)] if system else []), Message("user", text))
    return Request(f"r/{text}", messages, how or sampling(), **more)


def texts_of(answers: Sequence[Sequence[Completion]]) -> list[list[str]]:
    return [[completion.text for completion in row] for row in answers]


def plain_model(base: Path) -> Any:
    """The same model, read and run by transformers alone."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()


def prompt_ids(tokenizer: Any, request: Request) -> list[int]:
    text = "".join(f"<|im_start|>{m.role}\n{m.content}<|im_end|>\n" for m in request.messages)
    ids: list[int] = tokenizer.encode(
        f"{text}<|im_start|>assistant\n{request.prefix}", add_special_tokens=False
    )
    return ids


def greedy(model: Any, tokenizer: Any, request: Request) -> Completion:
    """transformers' own greedy continuation."""
    ids = prompt_ids(tokenizer, request)
    with torch.no_grad():
        output = model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids)),
            do_sample=False,
            max_new_tokens=request.sampling.max_new_tokens,
            repetition_penalty=request.sampling.repetition_penalty,
        )
    tokens = output[0, len(ids) :].tolist()
    ended = tokens[-1] == tokenizer.eos_token_id
    spoken = tokens[:-1] if ended else tokens
    text = tokenizer.decode(spoken, skip_special_tokens=True)
    return Completion(text, "stop" if ended else "length", len(spoken), 0, tuple(spoken))


def log_probability(model: Any, tokenizer: Any, request: Request, option: str) -> float:
    """Sum of the option's token log-probabilities in one plain forward pass."""
    prompt = prompt_ids(tokenizer, request)
    tokens = tokenizer.encode(option, add_special_tokens=False)
    with torch.no_grad():
        logits = model(torch.tensor([prompt + tokens])).logits[0].log_softmax(-1)
    places = range(len(prompt) - 1, len(prompt) + len(tokens) - 1)
    return sum(float(logits[place, token]) for place, token in zip(places, tokens, strict=True))
