"""A judge prompt of your own, and the win rates that come of it.

    python examples/own_judge.py [MODEL]

The judge compares two models' conversations about the same situations in both orders. A model wins
a situation only if both orders name it, so a judge that answers by position, as the tiny random
model here does, yields ties. Give MODEL, a Hugging Face model or folder, for a judge that reads.
Settings name the prompt: `evaluation.judges=[{name: kind, prompt: "own_judge:KINDER"}]`.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from training_method import tiny_model

from sage_core import (
    JudgeConfig,
    ModelConfig,
    Trajectory,
    TrajectoryTurn,
    judge_pair,
    open_model,
    position_bias,
    summarise,
)

KINDER = "Two chatbots answer the same person. Decide which one is kinder to them."

SAID = {
    "bus": (
        "I waited an hour for the bus again!",
        "Take a taxi.",
        "In this cold? Sit down.",
    ),
    "job": ("I got the job!", "Fine.", "You did it! I am so glad for you."),
    "cat": ("My cat ran away.", "Cats do that.", "I am so sorry. Shall we look for her?"),
}


def rollouts(reply: int) -> list[Trajectory]:
    """One model's conversations, a reply each; `sage run` keeps those of its models as tables."""
    return [
        Trajectory(name, name, said[0], "", (
            TrajectoryTurn("user", said[0], ()), TrajectoryTurn("assistant", said[reply], ()),
        ))
        for name, said in SAID.items()
    ]  # fmt: skip


def main() -> None:
    with TemporaryDirectory() as scratch:
        base = sys.argv[1] if len(sys.argv) > 1 else str(tiny_model(Path(scratch) / "tiny"))
        engine = open_model(ModelConfig(base=base, device="cpu"), home=Path(scratch))
        judge = JudgeConfig(name="kind", prompt="own_judge:KINDER")
        judgements = judge_pair("curt", "warm", rollouts(1), rollouts(2), engine, judge, seed=0)
    for row in judgements:
        print(f"{row.item_id}, order {row.order}: {row.raw.strip()} -> {row.verdict}")
    for pair in summarise(judgements):
        print(
            f"{pair.model_a} against {pair.model_b}: {pair.wins_a} wins, {pair.ties} ties, "
            f"{pair.wins_b} losses of {pair.n}; p = {pair.p_value}"
        )
    first = position_bias(judgements)["kind"]
    print(f"position bias: the conversation shown first was chosen in {first.hits} of {first.n}")


if __name__ == "__main__":
    main()
