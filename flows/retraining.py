"""One round of retraining: a challenger from the champion, and the gate between them.

The champion is a version in MLflow's registry, and the settings are those of the run that made it.
A round that finds no new dialogues ends at once.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from flows import approval, described, pipeline
from flows.corpus import build_corpus
from flows.judges import judges, pinned
from flows.runners import Runner, held_by_flow, task_runner
from sage_core import preflight
from sage_core.config.loading import apply_override, validate_config
from sage_core.config.pipeline import PipelineConfig
from sage_core.corpus.records import DIALOGUES
from sage_core.errors import ConfigError, DataError
from sage_core.evaluation import gate
from sage_core.schema import Situation, Split
from sage_core.steps.base import Model
from sage_core.steps.corpus import Corpus
from sage_core.steps.dialogues import TrainingDialogues
from sage_core.steps.names import SITUATIONS
from sage_core.steps.reading import read_collapse
from sage_core.steps.retraining import NewDialogues, RoundDialogues
from sage_core.steps.round_situations import RoundSituations
from sage_core.storage import ArtifactRef, read_rows
from tasks import checkpoints, prompts
from tasks.caching import forget_remade, make
from tasks.decisions import PROMOTED, REFUSED, WAITING
from tasks.home import store
from tasks.inputs import count, source_hash
from tasks.lineage import ancestry
from tasks.registry import CHAMPION, Registry, Version
from tasks.tracking import Tracker, track

Confine = Callable[[PipelineConfig, PipelineConfig], PipelineConfig]
"""Checks the paths of settings, given those of the run that they change."""
CHALLENGER = "challenger"
_TRAINED_ON = (TrainingDialogues.name, RoundDialogues.name)


@dataclass(frozen=True)
class Champion:
    """The model to beat.

    Attributes:
        user: the model that plays the user in every conversation: m1 of its lineage.
        corpora: all corpora that it or an ancestor was made from.
        dialogues: all tables of dialogues that it or an ancestor was trained on.
    """

    version: Version
    model: Model
    user: Model
    corpora: tuple[ArtifactRef, ...]
    dialogues: tuple[ArtifactRef, ...]


def anywhere(config: PipelineConfig, before: PipelineConfig) -> PipelineConfig:
    """For whoever owns the machine: paths may lead anywhere."""
    return config


@flow(name="sage-retrain", task_runner=task_runner(Runner.threads))
def retrain_flow(name: str = "", overrides: Sequence[str] = ()) -> dict[str, Any]:
    """:func:`retrain` of whoever owns the machine."""
    with held_by_flow():
        record = retrain(name, overrides)
    described.outcome(record)
    return record


def retrain(
    name: str = "",
    overrides: Iterable[str] = (),
    confine: Confine = anywhere,
) -> dict[str, Any]:
    """Run one round; call it with the home held. Returns its record: ``outcome`` is ``nothing
    new``, or one of :mod:`tasks.decisions`. A flow run that has decided its round, and is started
    again, gets the record of that round.

    Args:
        name: the registered model; '' for the only one that there is.
        overrides: changes of the settings of the champion's run, as ``sage run --set``.
        confine: what checks the paths of the settings, given those of the champion's run.

    Raises:
        ConfigError: there is no champion, or its checkpoint is not in the home.
        DataError: too few situations are left for a decision.
    """
    registry = Registry(name)
    earlier = registry.decisions()
    this = str(flow_run.get_id() or "")
    for record in earlier if this else ():
        if record.get("flow_run") == this:
            return record
    approval.close(registry, earlier)
    champion = find_champion(registry.champion())
    number = len(earlier) + 1
    before = registry.config(champion.version)
    config = checked(settings(before, overrides, number), before, confine, preflight.check)

    # What is new: the dialogues that neither the champion nor an earlier challenger could have.
    tried = [ArtifactRef(**ref) for each in earlier for ref in each["corpora"]]
    corpora, new = new_dialogues(config, {*champion.corpora, *tried})
    found = count(new, DIALOGUES)
    if not found:
        return {"outcome": "nothing new", "champion": str(champion.version)}
    held_out = held_out_situations(config, earlier, number)

    with track(config, f"round {number}") as tracker:
        tracker.judges(prompts.registered(judges(config)))
        mixed = with_replay(config, champion, new)
        openings = search_situations(config, earlier)
        challenger = train(config, CHALLENGER, champion, mixed, openings, tracker)
        tracker.benchmarks(pipeline.benchmark(config, {CHALLENGER: challenger}, CHALLENGER))
        version = registry.find(str(tracker.versions[CHALLENGER].version))
        decision = compare(config, number, registry, champion, challenger, version, held_out)
        outcome = settle(registry, config, version, decision)
        record = {
            "round": number,
            "outcome": outcome,
            "reasons": decision.reasons,
            "error_rate": decision.error_rate,
            "champion": champion.version.version,
            "challenger": version.version,
            "champion_sha256": champion.version.sha256,
            "challenger_sha256": version.sha256,
            "new_dialogues": found,
            "replayed_dialogues": count(mixed, DIALOGUES) - found,
            "corpora": [asdict(ref) for ref in corpora],
            "search_situations": ids(openings),
            "held_out_situations": ids(held_out),
            "seed": config.seed,
            "checks": [asdict(check) for check in decision.checks],
            "flow_run": this,
            **({"waits_until": approval.deadline(config.retrain)} if outcome == WAITING else {}),
        }
        tracker.decision(record)
    return record


def find_champion(version: Version) -> Champion:
    """A version as the champion: its checkpoint in the home, and what it was made from.

    Raises:
        ConfigError: the home does not have it, or it was not made from m1.
    """
    folder = folder_of(version)
    made = ancestry(folder)
    user = user_of(made)
    if user is None:
        raise ConfigError(f"{version} was not made from m1, which plays the user")
    return Champion(
        version,
        checkpoints.of_artifact(folder, CHAMPION),
        user,
        of_stages(made, Corpus.name),
        of_stages(made, *_TRAINED_ON),
    )


def folder_of(version: Version) -> Path:
    """Where the home has a version's model.

    Raises:
        ConfigError: it has not.
    """
    folder = checkpoints.by_hash(version.sha256)
    if folder is None:
        raise ConfigError(
            f"the checkpoint of {version} (sha256 {version.sha256[:12]}) is not in "
            f"'{store().root}'; set SAGE_HOME to the home that made it, or name another version"
        )
    return folder


def user_of(made: Sequence[tuple[Path, dict[str, Any]]]) -> Model | None:
    """The m1 among what a model was made from, itself included."""
    for path, record in made:
        if (record["stage"], record["label"]) == ("sft", "m1"):
            return checkpoints.of_artifact(path, "m1")
    return None


def of_stages(made: Sequence[tuple[Path, dict[str, Any]]], *stages: str) -> tuple[ArtifactRef, ...]:
    """The artefacts of some stages."""
    refs = {ArtifactRef(**record["reference"]) for _, record in made if record["stage"] in stages}
    return in_order(refs)


def in_order(refs: Iterable[ArtifactRef]) -> tuple[ArtifactRef, ...]:
    """The same artefacts in the same order, whatever the order in which they were found."""
    return tuple(sorted(refs, key=lambda ref: ref.path))


def settings(before: PipelineConfig, overrides: Iterable[str], number: int = 0) -> PipelineConfig:
    """The settings of the run that made a model with changes, and a seed ``number`` later.

    Raises:
        ConfigError: an override is wrong, or names another registered model.
    """
    tree = before.model_dump(mode="json")
    for override in overrides:
        apply_override(tree, override)
    config = validate_config(tree)
    if config.name != before.name:
        raise ConfigError(
            f"name = '{config.name}' is not the registered model '{before.name}'; leave it out"
        )
    return config.model_copy(update={"seed": config.seed + number})


def checked(
    config: PipelineConfig,
    before: PipelineConfig,
    confine: Confine,
    check: Callable[[PipelineConfig], None],
) -> PipelineConfig:
    """The settings, found to work on this machine, before any work.

    Raises:
        ConfigError: they do not, or a path of theirs is not allowed.
    """
    config = confine(config, before)
    check(config)
    config = pinned(config)
    forget_remade()
    return config


def new_dialogues(
    config: PipelineConfig, known: Iterable[ArtifactRef]
) -> tuple[list[ArtifactRef], ArtifactRef]:
    """The corpora, and their dialogues that the corpora ``known`` do not have."""
    settings = (config.corpus, *config.mixture.corpora)
    corpora = [build_corpus(each) for each in settings]
    return corpora, make(
        NewDialogues(
            corpora=tuple(corpora),
            known=in_order(set(known)),
            settings=settings,
            seed=config.seed,
        )
    )


def with_replay(config: PipelineConfig, champion: Champion, new: ArtifactRef) -> ArtifactRef:
    """New dialogues with a share of those that the champion was trained on."""
    return make(
        RoundDialogues(
            new=new, old=champion.dialogues, replay=config.retrain.replay, seed=config.seed
        )
    )


def search_situations(config: PipelineConfig, earlier: Sequence[dict[str, Any]]) -> ArtifactRef:
    """Situations of the search half; used ones again where no others are left."""
    first = pipeline.situations(config, "search", config.search.situations)
    used = {*ids(first), *(each for record in earlier for each in record["search_situations"])}
    limit = config.search.situations
    return draw_situations(config, "search", limit, used, again=True)


def held_out_situations(
    config: PipelineConfig, earlier: Sequence[dict[str, Any]], number: int
) -> ArtifactRef:
    """Situations of the evaluation half that no decision has used.

    Raises:
        DataError: too few are left: even if the challenger won all of them, it would not pass.
    """
    used = {each for record in earlier for each in record["held_out_situations"]}
    ref = draw_situations(config, "evaluation", config.retrain.situations, used, again=False)
    left, needed = count(ref, SITUATIONS), gate.fewest(config.retrain.error_rate, number)
    if left < needed:
        raise DataError(
            f"decision {number} needs at least {needed} held-out situations that no decision has "
            f"used, and gets {left}; add some to situations.path, with the split 'evaluation', or "
            "raise retrain.situations"
        )
    return ref


def draw_situations(
    config: PipelineConfig, split: Split, limit: int, used: Iterable[str], *, again: bool
) -> ArtifactRef:
    step = RoundSituations(
        settings=config.situations,
        split=split,
        limit=limit,
        used=tuple(sorted(used)),
        again=again,
        source=source_hash(config.situations.path),
        seed=config.seed,
    )
    return make(step, split)


def ids(situations: ArtifactRef) -> list[str]:
    """The ids of the situations in an artefact."""
    rows = read_rows(store().folder(situations) / SITUATIONS, Situation)
    return [row.situation_id for row in rows]


def train(
    config: PipelineConfig,
    name: str,
    champion: Champion,
    dialogues: ArtifactRef,
    openings: ArtifactRef,
    tracker: Tracker,
) -> Model:
    """The model ``name``, registered: the champion after fine-tuning on the dialogues, a round of
    search and refinement, and preference learning."""
    m0 = champion.model.m0
    annotated = pipeline.annotate(config, dialogues, m0)
    text = pipeline.training_text(config, name, annotated, states=True)
    tuned = pipeline.fine_tune(config, f"{name}-sft", text, champion.model)
    searched, _, refined = pipeline.refine(
        config, tuned, f"{name}-refined", champion.user, openings
    )
    pairs, preferring = pipeline.prefer(config, [searched], refined, name)
    trained = Model(name, preferring.base, preferring.adapter)
    tracker.checkpoint(name, pipeline.reference(trained), parent=CHAMPION, data=pairs)
    return trained


def compare(
    config: PipelineConfig,
    number: int,
    registry: Registry,
    champion: Champion,
    challenger: Model,
    version: Version,
    held_out: ArtifactRef,
) -> gate.Decision:
    """Let both talk about the same situations, and put what is found before the gate."""
    from sage_core.evaluation import winrate  # imports scipy

    models = {CHAMPION: champion.model, CHALLENGER: challenger}
    rollouts = {
        name: pipeline.roll_out(config, model, champion.user, held_out)
        for name, model in models.items()
    }
    measured = pipeline.measure(config, challenger, rollouts[CHALLENGER])
    collapse = pipeline.measure_collapse(config, challenger, rollouts[CHALLENGER], measured)
    pair = [(CHAMPION, CHALLENGER)]
    parts = pipeline.judge_pairs(config, pair, rollouts, champion.model.m0)
    return gate.decide(
        config.retrain,
        number,
        winrate.summarise(pipeline.verdicts(parts)),
        config.judge_that_counts,
        registry.benchmarks(champion.version, version),
        read_collapse(store().folder(collapse))["collapsed"],
    )


def settle(
    registry: Registry, config: PipelineConfig, version: Version, decision: gate.Decision
) -> str:
    """Do what was decided; returns the outcome in words."""
    if not decision.passed:
        return REFUSED
    if config.retrain.approval:
        registry.offer(version)
        return WAITING
    registry.promote(version, f"passed the gate in round {decision.round}")
    return PROMOTED
