"""Asking a model and reading its answers: one reading for each request, whatever comes back."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from sage_core.answers import outcomes
from sage_core.answers.outcomes import Reading, Value
from sage_core.answers.text import answer_of, is_refusal
from sage_core.engines.answered import answered
from sage_core.engines.base import Completion, Engine, Request
from sage_core.errors import ItemError

Reader = Callable[[str], Value | None]
"""Reads the text behind the reasoning; None where it has nothing of the form that was asked for."""


def ask(
    engine: Engine,
    requests: Sequence[Request],
    reader: Reader[Value],
    opening: Reader[Value] | None = None,
) -> list[Reading[Value]]:
    """The reading of the answer to each request, in their order.

    A request that fails for itself is a reading too. What is no answer is not kept by the engine,
    so that the next start asks for it again.

    Args:
        reader: reads a whole answer.
        opening: reads an answer that was cut; None: it has no value.
    """

    def reading(completion: Completion) -> Reading[Value]:
        return read(completion, reader, opening)

    def is_answer(completion: Completion) -> bool:
        return reading(completion).outcome == outcomes.READ

    asked = [replace(request, is_answer=is_answer) for request in requests]
    return [
        Reading(answer.outcome, None, str(answer))
        if isinstance(answer, ItemError)
        else reading(answer[0])
        for answer in answered(engine.generate, asked)
    ]


def read(
    completion: Completion, reader: Reader[Value], opening: Reader[Value] | None = None
) -> Reading[Value]:
    """The reading of one completion."""
    answer = answer_of(completion.text)
    said = completion.text
    if completion.finish_reason == "refused":
        return Reading("content_filter", None, said)
    if completion.finish_reason == "length":
        value = opening(answer.text) if opening and answer.text else None
        return Reading(outcomes.READ if value is not None else outcomes.CUT, value, said)
    if not answer.text:
        return Reading(outcomes.EMPTY, None, said)
    value = reader(answer.text)
    if value is not None:
        return Reading(outcomes.READ, value, said)
    refused = is_refusal(answer.text)
    return Reading(outcomes.REFUSED if refused else outcomes.UNREADABLE, None, said)
