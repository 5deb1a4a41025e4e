"""The part of a completion that is the answer.

Reasoning models write their reasoning before the answer. Some servers send it in a field of its own
(``reasoning_content``), which engines leave out; others leave it in the text, between marks that
depend on the model. A text that ends within its reasoning has no answer, however many verdicts the
reasoning quotes.
"""

import re
from dataclasses import dataclass

_TAGS = "think|thinking|thought|thoughts|reasoning|reflection|analysis|seed:think"
_MARKS = (
    (rf"<(?:{_TAGS})>", rf"</(?:{_TAGS})>"),  # DeepSeek-R1, Qwen3, GLM, Seed-OSS, ...
    (r"\[THINK\]", r"\[/THINK\]"),  # Magistral
    (r"◁think▷", r"◁/think▷"),  # Kimi
    (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),  # OpenThinker
    (  # gpt-oss: channels, of which 'final' is the answer
        r"(?:<\|start\|>assistant)?<\|channel\|>(?:analysis|commentary)",
        r"<\|channel\|>final<\|message\|>",
    ),
)
_OPENINGS = re.compile("|".join(rf"(?:{opening})" for opening, _ in _MARKS), re.IGNORECASE)
_CLOSINGS = re.compile("|".join(rf"(?:{closing})" for _, closing in _MARKS), re.IGNORECASE)
_WRAPPING = re.compile(
    r"<\|begin_of_solution\|>|<\|end_of_solution\|>|</?answer>|</?solution>|<\|(?:end|return)\|>",
    re.IGNORECASE,
)
_FENCE = re.compile(r"```[\w-]*[ \t]*\n?(.*?)(?:```|\Z)", re.DOTALL)
_REFUSALS = re.compile(
    r"\b(?:I|we)(?:'m| am|'re| are)? (?:really |very |so )?(?:sorry|unable|not able|not comfortable"
    r"|can ?not|can't|won't|will not|must decline|decline)\b|\bas an AI\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Answer:
    """The text behind the reasoning; ``reasoning_only``: the reasoning has no end, or nothing
    follows it."""

    text: str
    reasoning_only: bool


def answer_of(written: str) -> Answer:
    """A completion's text without its reasoning.

    The reasoning ends at its last closing mark: a model may quote one. Without an opening mark the
    closing one alone tells, since some templates put the opening one into the prompt.
    """
    closings = list(_CLOSINGS.finditer(written))
    rest = written[closings[-1].end() :] if closings else written
    opened = _OPENINGS.match(rest.lstrip())
    text = "" if opened else _WRAPPING.sub("", rest).strip()
    return Answer(text, bool(opened or closings) and not text)


def without_fences(text: str) -> str:
    """What is in the last markdown fence, or the text as it is."""
    fenced = [found.strip() for found in _FENCE.findall(text) if found.strip()]
    return fenced[-1] if fenced else text


def is_refusal(text: str) -> bool:
    """Whether an answer that nothing could be read in declines to answer."""
    return bool(_REFUSALS.search(text.replace("\u2019", "'")))
