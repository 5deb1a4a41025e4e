"""Steering: one request without it, with a value boosted, and with the value forced.

    python examples/steering.py [MODEL]

A model of State-Action Chains writes what it feels and wants before it speaks. Steering acts on
that text while it is written: a boost raises the probability of a value, a force sets it, a ban
excludes it. `sage chat --boost emotion=playful:4` does the same in a conversation. MODEL is a
Hugging Face model or folder; without it a tiny random model writes letters, within seconds.
"""

import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from training_method import tiny_model

from sage_core import (
    Engine,
    Message,
    ModelConfig,
    Request,
    SamplingConfig,
    Steering,
    open_model,
    parse,
    sac_grammar,
)

WAYS = {
    "no steering": Steering(),
    "boost emotion=playful:30": Steering.read(boost=["emotion=playful:30"]),
    "force emotion=playful": Steering.read(force=["emotion=playful"]),
}
SAMPLING = SamplingConfig(temperature=1, top_k=0, max_new_tokens=24, max_state_tokens=600)
REPLIES = 8


def emotions(engine: Engine, steering: Steering) -> Counter[str]:
    """The agent's emotion in each reply to one message."""
    request = Request(
        request_id="example",
        messages=(Message("user", "It rains on my wedding."),),
        sampling=SAMPLING,
        n=REPLIES,
        constraint=sac_grammar(steering.forces),
        opens_with_states=True,
        steering=steering,
    )
    [replies] = engine.generate([request])
    return Counter(parse(reply.text.strip()).agent.emotion or "none" for reply in replies)


def main() -> None:
    with TemporaryDirectory() as scratch:
        base = sys.argv[1] if len(sys.argv) > 1 else str(tiny_model(Path(scratch) / "tiny"))
        engine = open_model(ModelConfig(base=base, device="cpu"), home=Path(scratch))
        for way, steering in WAYS.items():
            found = emotions(engine, steering)
            [(most, _)] = found.most_common(1)
            print(f"{way:24} playful in {found['playful']} of {REPLIES} replies; one is '{most}'")


if __name__ == "__main__":
    main()
