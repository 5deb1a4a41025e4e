"""``make prove``: does training move a model towards what its selector likes, and only there?

The selector is a plain function that likes replies that end with a question; everything else is the
real pipeline on the embedded model. m1 is trained once and draws sets of candidates on held-out
situations, once. For each of :data:`SEEDS` seeds, which change all draws and all training after m1,
there are four arms: *planted* (m1 -> m2 -> m3 -> dpo), the same dpo with its pairs *swapped*, one
round with the selector *turned around*, and one round that selects *at random*. Each model is then
measured on the sets of m1 (:mod:`benchmarks.preference`) and compared with another one
(:mod:`benchmarks.claims`). :mod:`benchmarks.prove_simulation` says how often each claim would hold
if the step that it is about did nothing, and if it did what we expect.

Settings are chosen on one half of the held-out situations (``--half tune``), with seeds of its own;
the claims are tested on the other half and with other seeds.

What this does not show: whether another m1 would do as well, and whether dpo moves by its
preference loss or by the SFT term on the chosen replies that is part of it (``dpo.sft_weight``).

Every step is a cached stage in SAGE_HOME: kill it and start it again, and it goes on.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
import typer

from benchmarks.claims import Claim, Models, claims, noise
from benchmarks.harness import Benchmark
from benchmarks.preference import Part, Preference
from benchmarks.prove_settings import Half, seeds_of
from flows import environment
from sage_core.errors import DataError
from tasks import home


def main(
    half: Annotated[
        Half,
        typer.Option(help="Held-out situations: 'tune' to choose settings, 'test' for the claims."),
    ] = Half.test,
) -> None:
    """Plant a preference and see whether training follows it."""
    with home.held():
        environment.prepare(quiet=True)
        environment.stop_orphaned_servers()
        from benchmarks import prove_flow  # imports Prefect, which reads what was prepared
        from flows.commands.pipeline_run import name_stages

        with name_stages():
            measured = prove_flow.prove(half, (), seeds_of(half))
        found = {
            name: [prove_flow.read_preference(ref) for ref in refs]
            for name, refs in measured.items()
        }
        minutes = prove_flow.seconds(ref for refs in measured.values() for ref in refs) / 60
    models, _ = scores(found)
    benchmark = Benchmark("prove" if half is Half.test else f"prove-{half}")
    for claim in claims(models):
        benchmark.add(*row(claim, models))
    benchmark.note = note(half, found["m1"][0], models, minutes)
    benchmark.finish()


def note(half: Half, sets: Preference, models: Models, minutes: float) -> str:
    """How to read the table."""
    seeds, situations = models["m1"][Part.reply].shape
    chosen_for = "the claims" if half is Half.test else "the choice of settings"
    noises = "; ".join(f"{part}: {noise(models['m2'][part] - models['m1'][part])}" for part in Part)
    return (
        f"Values are log p(chosen) - log p(rejected) in nats: means over {seeds} seeds of all that "
        f"follows one m1 and {situations} held-out situations (the half for {chosen_for}; "
        f"{sets.unpaired} more have replies of one kind only), on {sets.pairs} "
        "pairs of replies that m1 drew once. The chosen one ends with a question and is "
        f"{sets.longer:+.1f} tokens longer on average. Intervals (95%; 90% for the equivalence) "
        "take seeds and situations as two crossed random factors. From m1 to m2, standard "
        f"deviations between situations, between seeds and of the rest are {noises}. The stages "
        f"took {minutes:.0f} min together, whenever they were made. How often each claim holds by "
        "chance: prove-simulation.md."
    )


def scores(found: Mapping[str, Sequence[Preference]]) -> tuple[Models, list[str]]:
    """Each model's preferences as arrays (seeds, situations), and the situations' ids.

    Raises:
        DataError: fewer than two situations have replies of both kinds.
    """
    kept = sorted(found["m1"][0].by_part[Part.reply])
    if len(kept) < 2:
        raise DataError(
            f"only {len(kept)} held-out situations have a reply that ends with a question and one "
            "that does not; raise the candidates of SETS in benchmarks/prove_settings.py"
        )
    return {
        name: {
            part: np.array([[one.by_part[part][each] for each in kept] for one in seeds])
            for part in Part
        }
        for name, seeds in found.items()
    }, kept


def row(claim: Claim, models: Models) -> tuple[str, str, str, str, str, bool]:
    """A claim as a row of the table."""
    after, before = (
        f"{models[name][claim.part].mean():+.2f}" for name in (claim.after, claim.before)
    )
    return (claim.what, after, f"{before} ({claim.before})", str(claim.difference), claim.target,
            claim.met)  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
