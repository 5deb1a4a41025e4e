"""The whole method, in the order of the paper.

Every step (:mod:`sage_core.steps`) makes one artefact, or finds it made. Kill this flow anywhere
and start it again: what was finished is not done twice.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prefect import flow, get_run_logger

from flows import described
from flows.corpus import build_corpus
from flows.judges import judges, pinned
from flows.runners import Runner, held_by_flow, task_runner
from sage_core import annotation, preflight
from sage_core.config.differences import run_name
from sage_core.config.pipeline import PipelineConfig
from sage_core.corpus.records import DIALOGUES
from sage_core.evaluation.benchmarks.ready import ready
from sage_core.evaluation.embedding import scorer_name
from sage_core.evaluation.judge import UNREAD
from sage_core.evaluation.tournament import design, judged_pairs
from sage_core.labels import REFERENCE
from sage_core.schema import Judgement, Split
from sage_core.search import unread
from sage_core.search.selectors.selector import files_of
from sage_core.steps import configured
from sage_core.steps.annotated import AnnotatedDialogues
from sage_core.steps.base import Model
from sage_core.steps.base_model import BaseModel
from sage_core.steps.dialogues import TrainingDialogues
from sage_core.steps.joined import Judgements, Searched, Trajectories
from sage_core.steps.names import JUDGEMENTS, SITUATIONS, TRAJECTORIES
from sage_core.steps.reading import read_collapse
from sage_core.steps.report import Report
from sage_core.storage import ArtifactRef, read_rows, shards
from tasks import tables
from tasks.answers import make_asking
from tasks.caching import forget_remade, make, make_all
from tasks.home import store
from tasks.inputs import count, source_hash

if TYPE_CHECKING:
    from tasks.tracking import Tracker


@flow(name="sage-pipeline", task_runner=task_runner(Runner.threads))
def pipeline(config: PipelineConfig) -> dict[str, Any]:
    """m0 → raw, m1 → m2 → m3 → … → dpo, judged pair by pair; returns the artefacts' references."""
    return tracked(config)


def tracked(config: PipelineConfig) -> dict[str, Any]:
    """:func:`run_method`, with the home held, tracked in MLflow and described in Prefect; call it
    within a flow."""
    from tasks import prompts  # these import MLflow, which single stages do not need
    from tasks.tracking import track

    preflight.check(config)
    title = run_name(config)
    described.name_run(title, described.tags(config))
    with held_by_flow():
        config = pinned(config)
        with track(config, title) as tracker:
            described.link_mlflow(tracker.experiment_id, tracker.run_id, report=True)
            tracker.judges(prompts.registered(judges(config)))
            forget_remade()
            return run_method(config, tracker)


def run_method(config: PipelineConfig, tracker: "Tracker") -> dict[str, Any]:
    m0 = base_model(config)
    make(configured.model_trial(config, m0))
    tracker.base(m0.base)

    # 4.1 Human dialogues, filtered.
    corpora, dialogues = human_dialogues(config)

    # 4.2 An LLM writes down every utterance's state; states move to the front of the replies.
    annotated = annotate(config, dialogues, m0)
    with_states = training_text(config, "m1", annotated, states=True)
    without_states = training_text(config, "raw", annotated, states=False)

    # 4.3 m1 learns to predict the user's state, its own action and the reply; raw only the reply.
    trained: dict[str, Model] = {}
    parents = {"raw": "m0", "m1": "m0"}
    for name, text in (("raw", without_states), ("m1", with_states)):
        trained[name] = fine_tune(config, name, text, m0)
        tracker.checkpoint(name, reference(trained[name]), parent="m0", data=text)
    user = trained["m1"]  # plays the user in every conversation
    openings = situations(config, "search", config.search.situations)
    probed = situations(config, "search", config.search.grammar_probe)
    probe = make(configured.grammar_probe(config, trained["m1"], probed))

    held_out = situations(config, "evaluation", config.evaluation.situations)
    rollouts = {"m1": roll_out(config, trained["m1"], user, held_out)}
    measured = {"m1": measure(config, trained["m1"], rollouts["m1"])}
    collapse = {"m1": measure_collapse(config, trained["m1"], rollouts["m1"], measured["m1"])}
    tracker.collapse("m1", collapse["m1"])

    # 4.4 Self-play search and refinement: the selected trajectories train the next model, until
    # the rounds are over, a model is no better than the one before, or it has collapsed.
    searched: dict[str, ArtifactRef] = {}
    last = "m1"
    for number in range(2, config.refine.most_rounds + 2):
        name = f"m{number}"
        searched[last], text, trained[name] = refine(config, trained[last], name, user, openings)
        parents[name] = last
        tracker.checkpoint(name, reference(trained[name]), parent=last, data=text)
        rollouts[name] = roll_out(config, trained[name], user, held_out)
        measured[name] = measure(config, trained[name], rollouts[name])
        collapse[name] = measure_collapse(config, trained[name], rollouts[name], measured[name])
        tracker.collapse(name, collapse[name])
        if has_collapsed(config, name, collapse[name]):
            break
        before, last = last, name
        if config.refine.stop == "saturation" and not improves(config, before, last, rollouts, m0):
            break

    # 4.5 Preference learning on chosen against rejected candidates: those of all rounds, or of one
    # more search with the model that it starts from.
    compared = list(searched.values())
    if config.dpo.pairs_from == "last":
        if last not in searched:
            searched[last] = search(config, trained[last], user, openings)
        compared = [searched[last]]
    pairs, trained["dpo"] = prefer(config, compared, trained[last])
    parents["dpo"] = last
    tracker.checkpoint("dpo", reference(trained["dpo"]), parent=last, data=pairs)

    # 4.6 Conversations on held-out situations, judged pair by pair in both orders; 5.3 steering.
    models = {"m0": m0, **trained}
    rollouts = {
        name: rollouts.get(name) or roll_out(config, model, user, held_out)
        for name, model in models.items()
    }
    measured = {
        name: measured.get(name) or measure(config, model, rollouts[name])
        for name, model in models.items()
    }
    quality = make(configured.quality(config, list(measured.values())))
    judgements = judge(config, rollouts, m0)
    steering = steer(config, trained["m1"])
    benchmarks = benchmark(config, models)  # section 5, Table 2
    empathy = measure_empathy(config, models)
    classified = classify(config, rollouts)
    calibrations = calibrate(config, m0)
    figures = make(configured.figures(config, judgements, rollouts, calibrations))
    checkpoints = {name: reference(model) for name, model in trained.items()}
    report = make(
        Report(
            config=config,
            corpus=corpora[0],
            dialogues=dialogues,
            annotated=annotated,
            probe=probe,
            searches=searched,
            parents=parents,
            collapse=collapse,
            checkpoints=checkpoints,
            rollouts=rollouts,
            judgements=judgements,
            calibrations=tuple(calibrations),
            figures=figures,
            measured=tuple(measured.values()),
            quality=quality,
            steering=steering,
            benchmarks=benchmarks,
            empathy=empathy,
            classified=classified,
        )
    )
    tables.publish(corpora, list(searched.values()), figures, quality)
    tracker.evaluation(
        figures, quality, probe, report, rollouts, {"m1": steering} if steering else {}, annotated
    )
    tracker.benchmarks(benchmarks)
    tracker.empathy(empathy)
    tracker.classified(classified)
    return {
        "corpus": corpora[0],
        "sac": annotated,
        "preferences": pairs,
        "trajectories": list(searched.values()),
        "checkpoints": checkpoints,
        "rollouts": rollouts,
        "judgements": judgements,
        "figures": figures,
        "quality": quality,
        "steering": steering,
        "benchmarks": benchmarks,
        "empathy": empathy,
        "classified": list(classified),
        "report": report,
    }


def base_model(config: PipelineConfig) -> Model:
    """m0."""
    return Model("m0", make(BaseModel(model=config.model), "m0"))


def reference(model: Model) -> ArtifactRef:
    """The checkpoint of a trained model."""
    assert model.adapter is not None
    return model.adapter


def human_dialogues(config: PipelineConfig) -> tuple[list[ArtifactRef], ArtifactRef]:
    """The corpora, and the dialogues of theirs that training uses."""
    settings = (config.corpus, *config.mixture.corpora)
    corpora = [build_corpus(corpus) for corpus in settings]
    dialogues = TrainingDialogues(corpora=tuple(corpora), settings=settings, seed=config.seed)
    return corpora, make(dialogues)


def annotate(config: PipelineConfig, dialogues: ArtifactRef, m0: Model) -> ArtifactRef:
    """States for all utterances."""
    numbers = shard_numbers(dialogues, DIALOGUES, config.annotation.shard_size)
    parts = make_asking(
        [configured.annotate_shard(config, dialogues, m0, number) for number in numbers],
        [], config.annotation, annotation.UNREAD, again=config.ask_again,
    )  # fmt: skip
    compared = None
    if config.annotation.compares_situations:
        reference = situations(config, "search", REFERENCE)
        compared = make(configured.situation_scores(config, reference, m0))
    joined = AnnotatedDialogues(parts=tuple(parts), situations=compared, settings=config.annotation)
    return make(joined)


def training_text(
    config: PipelineConfig, name: str, annotated: ArtifactRef, *, states: bool
) -> ArtifactRef:
    """What the model ``name`` trains on, with the mixture's instruction data."""
    instructions = config.mixture.instructions
    source = source_hash(instructions.input) if instructions else ""
    return make(configured.chain_text(config, annotated, source, states=states), name)


def fine_tune(config: PipelineConfig, name: str, text: ArtifactRef, parent: Model) -> Model:
    """The model ``name``: m0 trained on ``text``, or a model refined on it."""
    step = configured.sft(config, name, text, parent)
    return Model(name, parent.base, make(step, name))


def refine(
    config: PipelineConfig, last: Model, name: str, user: Model, openings: ArtifactRef
) -> tuple[ArtifactRef, ArtifactRef, Model]:
    """One round from the model ``last`` to ``name``: what its search found, the selected dialogues
    as training text, and the model."""
    searched = search(config, last, user, openings)
    text = make(configured.selected_dialogues(config, searched), last.name)
    return searched, text, fine_tune(config, name, text, last)


def prefer(
    config: PipelineConfig, searched: Sequence[ArtifactRef], parent: Model, label: str = ""
) -> tuple[ArtifactRef, Model]:
    """Chosen against rejected candidates of all rounds, and the model that learned from them."""
    pairs = make(configured.preferences(config, searched), label)
    return pairs, prefer_chosen(config, pairs, parent, label)


def prefer_chosen(
    config: PipelineConfig, pairs: ArtifactRef, parent: Model, label: str = ""
) -> Model:
    """``parent`` after preference learning."""
    step = configured.dpo(config, pairs, parent)
    return Model("dpo", parent.base, make(step, label))


def search(config: PipelineConfig, agent: Model, user: Model, openings: ArtifactRef) -> ArtifactRef:
    """One round of self-play search with ``agent``."""
    numbers = shard_numbers(openings, SITUATIONS, config.search.selfplay.shard_size)
    source = files_of(config.search.selector)
    steps = [
        configured.search_shard(config, agent, user, openings, number, source) for number in numbers
    ]
    parts = make_asking(
        steps, shard_labels(agent.name, numbers), config.search.selfplay, unread.SEARCH,
        again=config.ask_again,
    )  # fmt: skip
    return make(Searched(parts=tuple(parts)), agent.name)


def roll_out(
    config: PipelineConfig, agent: Model, user: Model, held_out: ArtifactRef
) -> ArtifactRef:
    """Plain conversations of ``agent`` on the held-out situations."""
    numbers = shard_numbers(held_out, SITUATIONS, config.evaluation.selfplay.shard_size)
    steps = [configured.rollout_shard(config, agent, user, held_out, number) for number in numbers]
    parts = make_asking(
        steps, shard_labels(agent.name, numbers), config.evaluation.selfplay, unread.ROLLOUTS,
        again=config.ask_again,
    )  # fmt: skip
    return make(Trajectories(parts=tuple(parts)), f"rollout {agent.name}")


def judge(config: PipelineConfig, rollouts: Mapping[str, ArtifactRef], m0: Model) -> ArtifactRef:
    """Every judge's verdicts on every pair."""
    situations_judged = config.evaluation.judged_of(count(rollouts["m1"], TRAJECTORIES))
    pairs = judged_pairs(config.evaluation, list(rollouts), situations_judged)
    if config.evaluation.pairs == "design":
        width = config.evaluation.interval_width
        found = design("design", width, list(rollouts), pairs, situations_judged)
        get_run_logger().warning(found.in_words)
    parts = judge_pairs(config, pairs, rollouts, m0, config.evaluation.judged_situations)
    return make(Judgements(parts=tuple(parts)))


def judge_pairs(
    config: PipelineConfig,
    pairs: Sequence[tuple[str, str]],
    rollouts: Mapping[str, ArtifactRef],
    m0: Model,
    situations: int = 0,
) -> list[ArtifactRef]:
    """Every judge's verdicts on some pairs, one artefact each, on the first ``situations``; 0 = on
    all."""
    parts = []
    for each in judges(config):
        steps = [
            configured.judge_pair(config, each, pair, rollouts, m0, situations) for pair in pairs
        ]
        labels = [f"{each.settings.name} {a}-{b}" for a, b in pairs]
        parts += make_asking(steps, labels, each.settings, UNREAD, again=config.ask_again)
    return parts


def verdicts(parts: Sequence[ArtifactRef]) -> list[Judgement]:
    """The rows of what :func:`judge_pairs` made."""
    return [
        row for part in parts for row in read_rows(store().folder(part) / JUDGEMENTS, Judgement)
    ]


def calibrate(config: PipelineConfig, m0: Model) -> list[ArtifactRef]:
    """Every judge against the preferences of people, if the configuration gives any."""
    human = config.evaluation.human
    if human is None:
        return []
    source = source_hash(human)
    parts = []
    for each in judges(config):
        step = configured.calibrate_judge(config, each, human, source, m0)
        label, again = each.settings.name, config.ask_again
        parts += make_asking([step], [label], each.settings, UNREAD, again=again)
    return parts


def measure(config: PipelineConfig, agent: Model, rollouts: ArtifactRef) -> ArtifactRef:
    """What a model's conversations say of it without a judge, by situation."""
    return make(configured.measurements(config, agent, rollouts, scorer_name()), agent.name)


def measure_collapse(
    config: PipelineConfig, agent: Model, rollouts: ArtifactRef, measured: ArtifactRef
) -> ArtifactRef:
    """The figures that tell whether a model has collapsed."""
    return make(configured.collapse_metrics(config, agent, rollouts, measured), agent.name)


def has_collapsed(config: PipelineConfig, name: str, collapse: ArtifactRef) -> bool:
    """Whether the rounds stop since a model did not pass the gates; says so in the run's log."""
    failed = read_collapse(store().folder(collapse))["collapsed"]
    if failed:
        get_run_logger().warning("%s may have collapsed: %s", name, "; ".join(failed))
    return bool(failed) and config.refine.gates.on_collapse == "stop"


def improves(
    config: PipelineConfig,
    before: str,
    after: str,
    rollouts: Mapping[str, ArtifactRef],
    m0: Model,
) -> bool:
    """Whether a judge sees ``after`` win against ``before``, beyond chance, corrected for the
    number of judges."""
    from sage_core.evaluation import winrate  # imports scipy

    situations = config.evaluation.judged_situations
    parts = judge_pairs(config, [(before, after)], rollouts, m0, situations)
    return winrate.improves(winrate.summarise(verdicts(parts)))


def steer(config: PipelineConfig, agent: Model) -> ArtifactRef | None:
    """How far a model can be steered, on held-out situations, if the configuration asks for it."""
    if not config.steering_report.enabled:
        return None
    held_out = situations(config, "evaluation", config.steering_report.situations)
    return make(configured.steering_evidence(config, agent, held_out), agent.name)


def benchmark(
    config: PipelineConfig, models: Mapping[str, Model], baseline: str = "m0"
) -> ArtifactRef | None:
    """Which abilities each model has kept of the model ``baseline``, on the benchmarks that the
    configuration names."""
    if not config.benchmarks.tasks:
        return None
    found = ready(config.benchmarks)
    asked = [(model, task) for model in models.values() for task in found.sources]
    parts = make_all(
        [
            configured.benchmark(config, model, task, found.sources[task], found.harness)
            for model, task in asked
        ],
        [f"{model.name} {task}" for model, task in asked],
    )
    return make(configured.benchmarks(config, parts, baseline, found.left_out))


def measure_empathy(config: PipelineConfig, models: Mapping[str, Model]) -> dict[str, ArtifactRef]:
    """What each model makes of the user's emotion, if the configuration asks for it."""
    if not config.empathy.enabled:
        return {}
    source = source_hash(config.empathy.path or config.situations.path)
    labelled = make(configured.labelled_situations(config, source), "labelled")
    return {
        name: make(configured.empathy(config, model, labelled), name)
        for name, model in models.items()
    }


def classify(config: PipelineConfig, rollouts: dict[str, ArtifactRef]) -> tuple[ArtifactRef, ...]:
    """What the classifiers of the configuration say of all models' replies."""
    return tuple(
        make(configured.classify(config, each, source_hash(each.path), rollouts), each.name)
        for each in config.evaluation.classifiers
    )


def situations(config: PipelineConfig, split: Split, limit: int) -> ArtifactRef:
    """The situations of one half."""
    source = source_hash(config.situations.path)
    return make(configured.situations(config, split, limit, source), split)


def shard_numbers(ref: ArtifactRef, table: str, size: int) -> range:
    """The shards of ``size`` rows of an artefact's table, from 0."""
    return range(len(shards(range(count(ref, table)), size)))


def shard_labels(prefix: str, numbers: range) -> list[str]:
    """What the shards of ``prefix`` are called in the UI."""
    return [f"{prefix} {number + 1}/{len(numbers)}" for number in numbers]
