"""Verdicts of judges, in the forms that they are written in."""

import pytest

from sage_core.answers.text import answer_of
from sage_core.answers.verdicts import opening_verdict, read_verdict

VERDICTS = {
    "a": [
        "Verdict: A",
        "VERDICT - **A**.",
        "Verdict: tie? No. Verdict: A",
        "A",
        "Conversation A is better.",
        "[[A]]",
        "The answer is $\\boxed{\\text{A}}$.",
        "Winner: Chatbot A",
        "Verdict: 'A'",
        '{"Verdict": "Conversation A", "reason": "B is worse"}',
        "The better chatbot is A.",
        "Final Answer: A",
        "Verdict: **Conversation A** is better",
        "Verdict: A, because B is rude.",
        "Winner = A",
        'Chatbot A wrote "Verdict: B", which is odd. Verdict: A',
        "Verdict: A (B wrote [[B]])",
        "Verdict: A's better",
        "a",
    ],
    "b": [
        "Verdict: B",
        "verdict: b",
        "'Verdict: A' would be rash.\nVerdict: B",
        "B (its chatbot wrote 'Verdict: A')",
        "[[B]]",
        "Verdict: Conversation B",
        "\\boxed{B}",
        "Winner: B",
        "**Verdict: B**",
        "**Verdict:** B",
        'Verdict: "B"',
        "'Verdict: B'",
        "```\nVerdict: B\n```",
        '```json\n{"verdict": "B"}\n```',
        "B is better than A.",
        "I prefer B.",
        "Conversation B wins.",
        "B wins",
        "I would choose Conversation B because it listens.",
        "My verdict is B.",
        "# Verdict\n\nB",
        "Verdict:\n\nB",
        "B.",
        "B\n\nBecause A is a bit dull.",
        "(B)",
        "Option B",
        "Verdict: B because A repeats itself.",
        "Verdict: The chatbot in conversation B",
        "The winner is B",
        "Verdict → B",
        "Verdict\uff1a B",
        "Verdict: B's chatbot",
        "b",
        "Based on the answer A gave, B is better.",
        "The answer A gave was dull. Verdict: B",
    ],
    "tie": [
        "Verdict: tie",
        "Verdict: TIE!",
        "Verdict: about equal",
        "Verdict: a tie",
        "A and B are equally good",
        "[[C]]",
        '"Verdict: tie"',
        '{"winner": "tie"}',
        "Verdict: A and B are equally good",
        "Neither A nor B is better.",
        "It's a tie.",
        "Tie",
        "A tie.",
        "A draw",
        "Verdict is a tie",
        "Both are about the same",
        "Verdict: no clear winner",
        "Verdict: neither",
        "the verdict: it's a tie",
    ],
    None: [
        "",
        "Verdict:",
        "Verdict: C",
        "Verdict: Both",
        "Answer 'Verdict: A', 'Verdict: B', or 'Verdict: tie', and nothing else.",
        "Verdict: A, Verdict: B, or Verdict: tie",
        "Verdict: A, B or tie",
        "Verdict: A or B",
        "Verdict: A/B",
        "A is not better than B.",
        "A better chatbot would listen.",
        "A is better in tone. B is better overall.",
        "Sorry, I can't judge.",
        "Verdict: not A",
        "The verdict isn't A.",
        "I cannot say that A is better.",
        "Verdict: A = B",
        "Verdict: A is worse",
        "Verdict: B was far less engaging.",
    ],
}


@pytest.mark.parametrize("grade", VERDICTS)
def test_verdicts_in_all_forms(grade: str | None) -> None:
    read = {text: read_verdict(text) for text in VERDICTS[grade]}
    assert read == dict.fromkeys(read, grade)


@pytest.mark.parametrize(
    ("written", "answer", "reasoning_only"),
    [
        ("<think>Verdict: A</think>Verdict: B", "Verdict: B", False),
        ("<think>\nI was told: Answer 'Verdict: A', 'Verdict: B'", "", True),
        # Some templates put the opening mark into the prompt.
        ("Well, Verdict: A?</think>\n\nVerdict: B", "Verdict: B", False),
        # The reasoning quotes a closing mark.
        ("<think>It says </think> here. Verdict: A</think>B", "B", False),
        ("<thinking>A</thinking> B", "B", False),
        ("[THINK]A[/THINK]B", "B", False),
        ("◁think▷A◁/think▷B", "B", False),
        ("<|begin_of_thought|>A<|end_of_thought|><|begin_of_solution|>B<|end_of_solution|>",
         "B", False),
        ("<|channel|>analysis<|message|>A<|end|><|start|>assistant<|channel|>final<|message|>B",
         "B", False),
        ("<|channel|>analysis<|message|>Verdict: A", "", True),
        ("<think></think>", "", True),
        ("<answer>B</answer>", "B", False),
        ("I think <b>B</b>", "I think <b>B</b>", False),
        ("", "", False),
    ],
)  # fmt: skip
def test_reasoning_is_set_aside(written: str, answer: str, reasoning_only: bool) -> None:
    found = answer_of(written)
    assert (found.text, found.reasoning_only) == (answer, reasoning_only)


@pytest.mark.parametrize(
    ("cut", "grade"),
    [
        ("Verdict: B\n\nThe chatbot in B asks", "b"),
        ("**Verdict: tie**\nBoth", "tie"),
        ("Verdict: B", None),  # 'both' may have been meant
        ("Verdict: A would be rash, since B", None),
        ("Verdict: A would be rash.\nB is", None),
        ("Let us see. Verdict: A\nNo,", None),
    ],
)
def test_a_cut_answer_counts_by_its_first_line_alone(cut: str, grade: str | None) -> None:
    assert opening_verdict(cut) == grade
