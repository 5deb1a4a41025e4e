"""The stages of `make prove`, each cached: models of four arms and their likelihoods."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from prefect import flow
from pydantic import TypeAdapter

from benchmarks import preference, properties
from benchmarks.preference import Preference, ReplyLikelihood
from benchmarks.prove_settings import Half, configs, halved, sets_config
from flows.pipeline import (
    annotate,
    fine_tune,
    human_dialogues,
    prefer,
    refine,
    search,
    situations,
    training_text,
)
from sage_core.config import ModelConfig, PipelineConfig, ProfileConfig, SelfPlayConfig
from sage_core.schema import PreferencePair, Situation, Trajectory
from sage_core.storage import ArtifactRef, read_json, read_rows, write_json, write_rows
from tasks import engines, stages
from tasks.caching import forget_remade, stage
from tasks.home import store
from tasks.lineage import ancestry
from tasks.stages import PREFERENCES, SITUATIONS, TRAJECTORIES

LIKELIHOODS = "likelihoods.json"
_RECORDS = ("schema", "storage", "sac")
_SCORING = ("conversation", "search.dialogue", "engines.base", "engines.in_process",
            "engines.loading", "engines.prompts", "engines.resident", "engines.shared_prefix",
            *_RECORDS)  # fmt: skip


@flow(name="sage-prove", validate_parameters=False)
def prove(
    half: Half,
    overrides: Sequence[str],
    seeds: Sequence[int],
) -> dict[str, list[ArtifactRef]]:
    """Train all arms; the likelihoods of the candidate sets under each model, one for each seed."""
    forget_remade()
    config = configs(overrides)["planted"]
    base = stages.base_model("m0", model=config.model)
    _, dialogues = human_dialogues(config)
    text = training_text(config, "m1", annotate(config, dialogues, base), states=True)
    m1 = fine_tune(config, "m1", text, base)
    openings = situations(config, "search", config.search.situations)
    held_out = held_out_half(
        str(half),
        situations=situations(config, "evaluation", config.evaluation.situations),
        half=str(half),
    )
    sets = search(sets_config(overrides), "m1", m1, m1, base, held_out)

    def measured(name: str, checkpoint: ArtifactRef) -> ArtifactRef:
        return likelihoods(
            name,
            agent_name=name,
            agent=checkpoint,
            base=base,
            sets=sets,
            selfplay=config.search.selfplay,
            profile=config.conversation.agent,
            model=config.model,
            source=stages.source_hash(Path(preference.__file__)),
        )

    found: dict[str, list[ArtifactRef]] = {"m1": [measured("m1", m1)] * len(seeds)}
    for seed in seeds:
        arms = {
            arm: each.model_copy(update={"seed": seed}) for arm, each in configs(overrides).items()
        }
        for name, checkpoint in one_seed(arms, m1, base, openings).items():
            found.setdefault(name, []).append(measured(name, checkpoint))
    return found


def one_seed(
    arms: Mapping[str, PipelineConfig], m1: ArtifactRef, base: ArtifactRef, openings: ArtifactRef
) -> dict[str, ArtifactRef]:
    """The checkpoints of all arms after m1, with the seed of their configurations."""
    config = arms["planted"]
    searched: dict[str, ArtifactRef] = {}
    searched["m1"], _, m2 = refine(config, "m1", "m2", m1, m1, base, openings)
    searched["m2"], _, m3 = refine(config, "m2", "m3", m2, m1, base, openings)
    if config.dpo.pairs_from == "last":
        searched = {"m3": search(config, "m3", m3, m1, base, openings)}
    pairs, preferred = prefer(config, list(searched.values()), m3, base)
    swapped = stages.dpo(
        "swapped",
        pairs=swapped_pairs(pairs=pairs),
        base=base,
        parent=m3,
        settings=config.dpo,
        lora=config.lora,
        training=config.training,
        model=config.model,
        seed=config.seed,
    )
    others = {
        f"m2 {arm}": refine(arms[arm], "m1", "m2", m1, m1, base, openings)[2]
        for arm in ("turned around", "at random")
    }
    return {"m2": m2, "m3": m3, "dpo": preferred, "dpo swapped": swapped, **others}


@stage(*_RECORDS)
def held_out_half(folder: Path, situations: ArtifactRef, half: str) -> None:
    """The situations of one half, as :func:`halved` parts them."""
    rows = read_rows(store().folder(situations) / SITUATIONS, Situation)
    write_rows(folder / SITUATIONS, halved(rows)[Half(half)], Situation)


@stage(*_RECORDS)
def swapped_pairs(folder: Path, pairs: ArtifactRef) -> None:
    """Preference pairs with chosen and rejected exchanged."""
    rows = read_rows(store().folder(pairs) / PREFERENCES, PreferencePair)
    write_rows(folder / PREFERENCES, [swapped(pair) for pair in rows], PreferencePair)


@stage(*_SCORING, retries=1)
def likelihoods(
    folder: Path,
    agent_name: str,
    agent: ArtifactRef,
    base: ArtifactRef,
    sets: ArtifactRef,
    selfplay: SelfPlayConfig,
    profile: ProfileConfig,
    model: ModelConfig,
    source: str,
) -> None:
    """The candidate sets under one model; ``source`` is the hash of the code that measures."""
    rows = read_rows(store().folder(sets) / TRAJECTORIES, Trajectory)
    speaker = engines.speaker(
        agent_name,
        selfplay.agent_engine,
        store().folder(base),
        store().folder(agent),
        model,
        profile,
    )
    found = preference.likelihoods(rows, speaker, selfplay, seed=0)
    write_json(folder / LIKELIHOODS, [asdict(row) for row in found])


def swapped(pair: PreferencePair) -> PreferencePair:
    """The pair that prefers the other reply."""
    return replace(
        pair,
        chosen=pair.rejected,
        rejected=pair.chosen,
        chosen_cut=pair.rejected_cut,
        rejected_cut=pair.chosen_cut,
    )


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
