"""``make prove-simulation``: how often each claim of `make prove` holds, where it is true and where
it is false.

Models are simulated by what `make prove` measures of them: a preference in nats for each seed and
situation. A model is the one that it was trained from, plus the effect of that step, plus three
noises that every step has, whether it has an effect or not (:class:`benchmarks.claims.Noise`).
No model is loaded. Effects and noises are assumptions until `make prove` has run, which prints the
noises that it found; what matters is their ratio, so the table has larger noises as well.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import typer
from rich.console import Console
from rich.markdown import Markdown

from benchmarks.claims import MARGIN, Models, Noise, Scores, claims
from benchmarks.harness import RESULTS
from benchmarks.preference import Part
from benchmarks.prove_settings import SEEDS

SITUATIONS = 16  # of a half
REPEATS = 2_000
VARIANTS = (
    (2, 16, 1.0), (3, 16, 1.0), (4, 8, 1.0), (4, 32, 1.0), (6, 16, 1.0), (4, 16, 0.5), (4, 16, 1.5),
    (4, 16, 2.0),
)  # fmt: skip
FALSE_AT_MOST, TRUE_AT_LEAST = 0.05, 0.80

PARENTS = {
    "m2": "m1",
    "m3": "m2",
    "dpo": "m3",
    "dpo swapped": "m3",
    "m2 turned around": "m1",
    "m2 at random": "m1",
}


@dataclass(frozen=True)
class World:
    """What is true of the simulated models.

    Attributes:
        effects: model -> nats that its training moves it from its parent, of the whole reply.
        action: the share of an effect that shows in ``a_motivation``; the words have the others.
        false: numbers of the claims that are not true there, from 0.
    """

    name: str
    effects: Mapping[str, float]
    action: float
    false: frozenset[int] = frozenset()


NOISE = {
    Part.reply: Noise(situation=0.5, seed=0.2, rest=0.4),
    Part.words: Noise(situation=0.4, seed=0.2, rest=0.3),
    Part.action: Noise(situation=0.1, seed=0.05, rest=0.1),
}
EXPECTED = World(
    "all steps work",
    {
        "m2": 1.4,
        "m3": 0.7,
        "dpo": 0.7,
        "dpo swapped": -0.7,
        "m2 turned around": -1.4,
        "m2 at random": 0.0,
    },
    action=0.1,
)


def worlds() -> list[World]:
    """The expected world, and those in which one thing or all are wrong."""

    def but(name: str, false: set[int], action: float = EXPECTED.action, **moved: float) -> World:
        effects = {each.replace("_", " "): nats for each, nats in moved.items()}
        return replace(
            EXPECTED,
            name=name,
            effects={**EXPECTED.effects, **effects},
            action=action,
            false=frozenset(false),
        )

    nothing = {name.replace(" ", "_"): 0.0 for name in PARENTS}
    return [
        EXPECTED,
        but("the selector is ignored", set(range(8)), **nothing),
        but("round 2 does nothing", {1}, m3=0.0),
        but("DPO does nothing", {2, 3}, dpo=0.0, dpo_swapped=0.0),
        but("DPO's pairs are swapped by mistake", {2, 3}, dpo=-0.7, dpo_swapped=0.7),
        but("the turned selector does nothing", {4}, m2_turned_around=0.0),
        but(f"chance moves by {MARGIN:.0%} of m2", {5}, m2_at_random=MARGIN * 1.4),
        but("only the words move", {7}, action=0.0),
        but("only the action moves", {6}, action=1.0),
    ]


def simulate(
    world: World, noise: Mapping[Part, Noise], seeds: int, situations: int, rng: np.random.Generator
) -> Models:
    """One proof's models: preferences of (seeds, situations); m1's are 0, and one for all seeds."""
    shares = {Part.reply: 1.0, Part.action: world.action, Part.words: 1 - world.action}
    found: dict[str, dict[Part, Scores]] = {
        "m1": {part: np.zeros((seeds, situations)) for part in Part}
    }
    for name, parent in PARENTS.items():
        found[name] = {
            part: found[parent][part]
            + shares[part] * world.effects[name]
            + rng.normal(0, noise[part].situation, (1, situations))
            + rng.normal(0, noise[part].seed, (seeds, 1))
            + rng.normal(0, noise[part].rest, (seeds, situations))
            for part in Part
        }
    return found


def pass_rates(
    world: World,
    noise: Mapping[Part, Noise] = NOISE,
    seeds: int = SEEDS,
    situations: int = SITUATIONS,
    repeats: int = REPEATS,
) -> np.ndarray:
    """How often each claim holds, in [0, 1]; (claims,)."""
    rng = np.random.default_rng(0)
    met = [
        [claim.met for claim in claims(simulate(world, noise, seeds, situations, rng))]
        for _ in range(repeats)
    ]
    return np.asarray(np.mean(met, axis=0))


def largest_false(worlds: Sequence[World], rates: Sequence[np.ndarray]) -> float:
    """The largest share in which a false claim holds, of any world."""
    return max(
        float(row[number])
        for world, row in zip(worlds, rates, strict=True)
        for number in world.false
    )


def main() -> None:
    """Simulate, print the table and write it to benchmarks/results."""
    names = [
        claim.what for claim in claims(simulate(EXPECTED, NOISE, 2, 2, np.random.default_rng(0)))
    ]
    all_worlds = worlds()
    rates = [pass_rates(world) for world in all_worlds]
    lines = [
        "# prove-simulation",
        "",
        f"How often each claim of `make prove` holds in {REPEATS:,} simulated proofs of {SEEDS} "
        f"seeds and {SITUATIONS} situations. **Bold: the claim is false there**, and should hold "
        f"in {FALSE_AT_MOST:.0%} at most; elsewhere it is true.",
        "",
        "| in truth | " + " | ".join(names) + " |",
        "| --- |" + " ---: |" * len(names),
    ]
    for world, row in zip(all_worlds, rates, strict=True):
        cells = [
            f"**{rate:.1%}**" if number in world.false else f"{rate:.0%}"
            for number, rate in enumerate(row)
        ]
        lines.append(f"| {world.name} | " + " | ".join(cells) + " |")
    lines += ["", *_assumptions(), ""]
    lines += [
        "| seeds | situations | noises | " + " | ".join(names) + " | false ones, at most |",
        "| ---: | ---: | ---: |" + " ---: |" * (len(names) + 1),
    ]
    for seeds, situations, factor in VARIANTS:
        noise = {part: Noise(*(factor * sd for sd in each)) for part, each in NOISE.items()}
        variant = [
            pass_rates(world, noise, seeds, situations, REPEATS // 4) for world in all_worlds
        ]
        cells = [f"{rate:.0%}" for rate in [*variant[0], largest_false(all_worlds, variant)]]
        lines.append(f"| {seeds} | {situations} | x {factor:g} | " + " | ".join(cells) + " |")
    false, true = largest_false(all_worlds, rates), rates[0].min()
    # A share of 5% in so many repeats has a standard error of half a point.
    met = bool(false <= FALSE_AT_MOST + 0.01 and true >= TRUE_AT_LEAST)
    lines += [
        "",
        f"With {SEEDS} seeds, {SITUATIONS} situations and the noises above, false claims hold in "
        f"{false:.1%} at most and true ones, where all steps work, in {true:.0%} at least: "
        f"{'as' if met else 'NOT as'} asked for ({FALSE_AT_MOST:.0%}, {TRUE_AT_LEAST:.0%}).",
        "",
    ]
    text = "\n".join(lines)
    (RESULTS / "prove-simulation.md").write_text(text, encoding="utf-8")
    Console(width=200).print(Markdown(text))
    raise typer.Exit(0 if met else 1)


def _assumptions() -> list[str]:
    """What was simulated, in words."""
    noises = "; ".join(
        f"{part}: {noise.situation:g} between situations, {noise.seed:g} between seeds, "
        f"{noise.rest:g} of the rest"
        for part, noise in NOISE.items()
    )
    effects = ", ".join(f"{name} {nats:+g}" for name, nats in EXPECTED.effects.items())
    return [
        f"Effects in nats, from each model's parent: {effects}; {EXPECTED.action:.0%} of each "
        f"shows in a_motivation. Standard deviations of one step, in nats: {noises}. A step "
        "without an effect has the same noise.",
        "",
        "Where all steps work, by seeds, situations and a factor on the noises:",
    ]


if __name__ == "__main__":
    typer.run(main)
