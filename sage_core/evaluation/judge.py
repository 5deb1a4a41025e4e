"""Pairwise judging: an LLM compares two conversations that start from the same situation.

Each pair is judged in both orders, and a verdict is mapped back from position to model at once.
The judge sees utterances, never states. An answer without a verdict is ``unparsed``, a result of
its own: the paper's release counted it as agreement.
"""

import re
from collections.abc import Callable, Sequence
from itertools import pairwise

from sage_core.config.engine import SamplingConfig
from sage_core.config.evaluation import JudgeConfig
from sage_core.engines.base import Engine, Request
from sage_core.engines.grammar import one_of
from sage_core.errors import DataError
from sage_core.evaluation.odds import log_odds
from sage_core.evaluation.prompts import PROMPTS
from sage_core.sac import utterance_of
from sage_core.schema import Judgement, Message, Order, Trajectory, Verdict

_ANSWER = "Answer 'Verdict: A', 'Verdict: B', or 'Verdict: tie', and nothing else."
_ANSWERS = ("Verdict: A", "Verdict: B", "Verdict: tie")
_GRADE = re.compile(r"verdict\W+(a|b|tie)\b", re.IGNORECASE)
_NAMES = {"user": "Person", "assistant": "Chatbot"}
_ORDERS: tuple[Order, ...] = ("ab", "ba")
_VERDICT_TOKENS = 16


def model_pairs(models: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs of the paper's Table 1 for ``models``, which are m0, raw, m1, m2, ..., dpo: m0-m1,
    raw-m1, each refinement against the one before, dpo against the last and against m0."""
    refined = [model for model in models if re.fullmatch(r"m[1-9]\d*", model)]
    trained = [*refined, "dpo"]
    return [("m0", "m1"), ("raw", "m1"), *pairwise(trained), ("m0", "dpo")]


def judge_pair(
    model_a: str,
    model_b: str,
    rollouts_a: Sequence[Trajectory],
    rollouts_b: Sequence[Trajectory],
    engine: Engine,
    config: JudgeConfig,
    seed: int,
    on_progress: Callable[[int], None] = lambda count: None,
) -> list[Judgement]:
    """Judge the conversations of two models about the same situations, in both orders.

    Raises:
        DataError: the two models were not rolled out on the same situations.
    """
    by_situation = {trajectory.situation_id: trajectory for trajectory in rollouts_b}
    if set(by_situation) != {trajectory.situation_id for trajectory in rollouts_a}:
        raise DataError(
            f"{model_a} and {model_b} were rolled out on different situations; roll both out with "
            "the same evaluation settings"
        )
    cases = [
        (first, by_situation[first.situation_id], order)
        for first in rollouts_a
        for order in _ORDERS
    ]
    requests = [
        Request(
            request_id=f"judge/{config.name}/{model_a}-{model_b}/{first.situation_id}/{order}",
            messages=_prompt(first, second, order, config),
            sampling=SamplingConfig(
                temperature=0, top_k=0, repetition_penalty=1, max_new_tokens=_VERDICT_TOKENS
            ),
            seed=seed,
            constraint=one_of(_ANSWERS) if engine.capabilities.grammar else None,
        )
        for first, second, order in cases
    ]
    answers = engine.generate(requests)
    odds: list[float | None] = [None] * len(cases)
    if config.soft:
        odds = log_odds(engine, requests, [order for _, _, order in cases], _ANSWER)
    on_progress(len(requests))
    return [
        Judgement(
            item_id=first.situation_id,
            judge=config.name,
            model_a=model_a,
            model_b=model_b,
            order=order,
            verdict=parse_verdict(answer[0].text, order),
            raw=answer[0].text,
            log_odds=each_odds,
        )
        for (first, _, order), answer, each_odds in zip(cases, answers, odds, strict=True)
    ]


def parse_verdict(text: str, order: Order) -> Verdict:
    """Map a judge's answer back to the models; the last verdict in the text counts."""
    grades = _GRADE.findall(text)
    if not grades:
        return "unparsed"
    grade = grades[-1].lower()
    if grade == "tie":
        return "tie"
    return "model_a" if (grade == "a") == (order == "ab") else "model_b"


def question(prompt: str) -> str:
    """What a judge with this prompt is asked.

    Raises:
        ConfigError: it cannot be imported, or is not a text.
    """
    found = PROMPTS.load(prompt)
    if isinstance(found, str) and found.strip():
        return found
    raise PROMPTS.error(prompt, "is not a text")


def _prompt(
    first: Trajectory, second: Trajectory, order: Order, config: JudgeConfig
) -> tuple[Message, ...]:
    a, b = (first, second) if order == "ab" else (second, first)
    text = f"Conversation A:\n{_transcript(a)}\n\nConversation B:\n{_transcript(b)}\n\n{_ANSWER}"
    return Message("system", question(config.prompt)), Message("user", text)


def _transcript(trajectory: Trajectory) -> str:
    return "\n".join(
        f"{_NAMES[turn.role]}: "
        f"{utterance_of(turn.content) if turn.role == 'assistant' else turn.content}"
        for turn in trajectory.turns
    )
