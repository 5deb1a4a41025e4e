"""The flow of `make prove`: models of four arms and their likelihoods, each step cached."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from prefect import flow
from pydantic import TypeAdapter

from benchmarks import preference, properties
from benchmarks.preference import Preference, ReplyLikelihood
from benchmarks.prove_settings import Half, configs, sets_config
from benchmarks.prove_steps import LIKELIHOODS, HeldOutHalf, Likelihoods, SwappedPairs
from flows.pipeline import (
    annotate,
    base_model,
    fine_tune,
    human_dialogues,
    prefer,
    prefer_chosen,
    refine,
    search,
    situations,
    training_text,
)
from sage_core.config.pipeline import PipelineConfig
from sage_core.steps.base import Model
from sage_core.storage import ArtifactRef, read_json
from tasks.caching import forget_remade, make
from tasks.home import store
from tasks.lineage import ancestry


@flow(name="sage-prove", validate_parameters=False)
def prove(
    half: Half,
    overrides: Sequence[str],
    seeds: Sequence[int],
) -> dict[str, list[ArtifactRef]]:
    """Train all arms; the likelihoods of the candidate sets under each model, one for each seed."""
    forget_remade()
    config = configs(overrides)["planted"]
    m0 = base_model(config)
    _, dialogues = human_dialogues(config)
    text = training_text(config, "m1", annotate(config, dialogues, m0), states=True)
    m1 = fine_tune(config, "m1", text, m0)
    openings = situations(config, "search", config.search.situations)
    evaluation = situations(config, "evaluation", config.evaluation.situations)
    held_out = make(HeldOutHalf(situations=evaluation, half=str(half)), str(half))
    sets = search(sets_config(overrides), m1, m1, held_out)

    def measured(name: str, model: Model) -> ArtifactRef:
        step = Likelihoods(
            agent=Model(name, model.base, model.adapter),
            sets=sets,
            selfplay=config.search.selfplay,
            profile=config.conversation.agent,
            model=config.model,
        )
        return make(step, name)

    found: dict[str, list[ArtifactRef]] = {"m1": [measured("m1", m1)] * len(seeds)}
    for seed in seeds:
        arms = {
            arm: each.model_copy(update={"seed": seed}) for arm, each in configs(overrides).items()
        }
        for name, model in one_seed(arms, m1, openings).items():
            found.setdefault(name, []).append(measured(name, model))
    return found


def one_seed(
    arms: Mapping[str, PipelineConfig], m1: Model, openings: ArtifactRef
) -> dict[str, Model]:
    """The models of all arms after m1, with the seed of their configurations."""
    config = arms["planted"]
    searched: dict[str, ArtifactRef] = {}
    searched["m1"], _, m2 = refine(config, m1, "m2", m1, openings)
    searched["m2"], _, m3 = refine(config, m2, "m3", m1, openings)
    if config.dpo.pairs_from == "last":
        searched = {"m3": search(config, m3, m1, openings)}
    pairs, preferred = prefer(config, list(searched.values()), m3)
    swapped = prefer_chosen(config, make(SwappedPairs(pairs=pairs)), m3, "swapped")
    others = {
        f"m2 {arm}": refine(arms[arm], m1, "m2", m1, openings)[2]
        for arm in ("turned around", "at random")
    }
    return {"m2": m2, "m3": m3, "dpo": preferred, "dpo swapped": swapped, **others}


def read_preference(ref: ArtifactRef) -> Preference:
    """What :func:`likelihoods` found of the planted property."""
    record = read_json(store().folder(ref) / LIKELIHOODS)
    rows = TypeAdapter(list[ReplyLikelihood]).validate_python(record)
    return preference.preference(rows, properties.question)


def seconds(refs: Iterable[ArtifactRef]) -> float:
    """Of all stages that the artefacts were made from, each counted once."""
    took: dict[Path, float] = {}
    for ref in refs:
        took |= {
            folder: record["cost"]["seconds"] for folder, record in ancestry(store().folder(ref))
        }
    return sum(took.values())
