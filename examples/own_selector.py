"""A selector of your own in self-play search: of each turn's candidates, the one you score highest.

    python examples/own_selector.py [MODEL]

An agent and a simulated user talk; the agent draws four candidates for each reply, and `brief`
chooses among those that no token limit cut off. Settings name it as `own_selector:brief`, here and
in `sage search`. MODEL is a Hugging Face model or folder, whose replies are printed too; without it
a tiny random model draws letters, within seconds.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from training_method import tiny_model

from sage_core import (
    Message,
    Players,
    Situation,
    Speaker,
    load_config,
    open_model,
    selector_of,
    self_play,
    strategy_of,
)
from sage_core.search.selectors.selector import Inputs

SITUATIONS = [
    Situation("bus", "I waited an hour for the bus again!", "annoyed", "search"),
    Situation("job", "I got the job!", "proud", "search"),
]


def brief(utterance: str, history: tuple[Message, ...]) -> float:
    """Short replies, but of more than two words; higher is better."""
    words = len(utterance.split())
    return -float(words) if words > 2 else -1000.0


def main() -> None:
    with TemporaryDirectory() as scratch:
        base = sys.argv[1] if len(sys.argv) > 1 else str(tiny_model(Path(scratch) / "tiny"))
        config = load_config("tiny", [
            f"model.base={base}", "model.device=cpu", "search.candidates=4",
            "search.selector.relevance=false", "search.selector.function=own_selector:brief",
            "search.selfplay.max_turns=4", "search.selfplay.sampling.top_k=0",
        ])  # fmt: skip
        engine = open_model(config.model, home=Path(scratch))
        players = Players(
            agent=Speaker("m0", engine, False, config.conversation.agent),
            user=Speaker("m0", engine, False, config.conversation.user),
            config=config.search.selfplay,
            seed=config.seed,
            selector=selector_of(
                Inputs(config.search.selector, lambda: engine, config.model, config.seed)
            ),
        )
        for found in self_play(SITUATIONS, players, strategy_of(config.search)):
            print(found.trajectory.situation)
            for number, turn in enumerate(found.trajectory.turns):
                for each in turn.candidates:
                    words = f"{len(each.text.split()):2} words"
                    text = each.text if len(sys.argv) > 1 else ""
                    mark = "chosen" if each.chosen else "cut off" if each.cut else ""
                    print(f"  turn {number}: {mark:7} {words}  {text}".rstrip())


if __name__ == "__main__":
    main()
