"""The whole method, in the order of the paper.

Every call below is a cached stage (:mod:`tasks.stages`): it makes one artefact, or finds it made.
Kill this flow anywhere and start it again: what was finished is not done twice.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from prefect import flow, get_run_logger

from flows.corpus import build_corpus
from flows.runners import Runner, held_by_flow, task_runner
from sage_core import preflight
from sage_core.config import EngineConfig, PipelineConfig
from sage_core.evaluation.embedding import scorer_name
from sage_core.evaluation.judge import model_pairs
from sage_core.labels import REFERENCE
from sage_core.search import scorers
from sage_core.storage import ArtifactRef, shards
from tasks import stages, tables
from tasks.caching import Stage, forget_remade
from tasks.stages import DIALOGUES, SITUATIONS, count, source_hash
from tasks.tracking import Tracker, track


@flow(name="sage-pipeline", task_runner=task_runner(Runner.threads))
def pipeline(config: PipelineConfig) -> dict[str, Any]:
    """m0 → raw, m1 → m2 → m3 → … → dpo, judged pair by pair; returns the artefacts' references."""
    preflight.check(config)
    with held_by_flow(), track(config) as tracker:
        forget_remade()
        return _pipeline(config, tracker)


def _pipeline(config: PipelineConfig, tracker: Tracker) -> dict[str, Any]:
    common = {"model": config.model, "seed": config.seed}
    base = stages.base_model("m0", model=config.model)
    tracker.base(base)

    # 4.1 Human dialogues, filtered.
    corpora, dialogues = human_dialogues(config)

    # 4.2 An LLM writes down every utterance's state; states move to the front of the replies.
    annotated = annotate(config, dialogues, base)
    with_states = training_text(config, "m1", annotated, states=True)
    without_states = training_text(config, "raw", annotated, states=False)

    # 4.3 m1 learns to predict the user's state, its own action and the reply; raw only the reply.
    trained: dict[str, ArtifactRef] = {}
    parents = {"raw": "m0", "m1": "m0"}
    for name, text in (("raw", without_states), ("m1", with_states)):
        trained[name] = fine_tune(config, name, text, base)
        tracker.checkpoint(name, trained[name], parent="m0", data=text)
    user = trained["m1"]  # plays the user in every conversation
    openings = situations(config, "search", config.search.situations)
    probe = stages.grammar_probe(
        agent=trained["m1"],
        base=base,
        situations=openings,
        settings=config.search,
        profile=config.conversation.agent,
        **common,
    )

    held_out = situations(config, "evaluation", config.evaluation.situations)
    rollouts = {"m1": roll_out(config, "m1", trained["m1"], user, base, held_out)}
    measured = {"m1": measure(config, "m1", rollouts["m1"], base)}
    health = {"m1": check_health(config, "m1", trained["m1"], rollouts["m1"], measured["m1"], base)}
    tracker.health("m1", health["m1"])

    # 4.4 Self-play search and refinement: the selected trajectories train the next model, until
    # the rounds are over, a model is no better than the one before, or it has collapsed.
    searched: dict[str, ArtifactRef] = {}
    last = "m1"
    for number in range(2, config.refine.most_rounds + 2):
        name = f"m{number}"
        searched[last], text, trained[name] = refine(
            config, last, name, trained[last], user, base, openings
        )
        parents[name] = last
        tracker.checkpoint(name, trained[name], parent=last, data=text)
        rollouts[name] = roll_out(config, name, trained[name], user, base, held_out)
        measured[name] = measure(config, name, rollouts[name], base)
        health[name] = check_health(
            config, name, trained[name], rollouts[name], measured[name], base
        )
        tracker.health(name, health[name])
        if has_collapsed(config, name, health[name]):
            break
        before, last = last, name
        if config.refine.stop == "saturation" and not improves(
            config, before, last, rollouts, base
        ):
            break

    # 4.5 Preference learning on chosen against rejected candidates: those of all rounds, or of one
    # more search with the model that it starts from.
    compared = list(searched.values())
    if config.dpo.pairs_from == "last":
        if last not in searched:
            searched[last] = search(config, last, trained[last], user, base, openings)
        compared = [searched[last]]
    pairs, trained["dpo"] = prefer(config, compared, trained[last], base)
    parents["dpo"] = last
    tracker.checkpoint("dpo", trained["dpo"], parent=last, data=pairs)

    # 4.6 Conversations on held-out situations, judged pair by pair in both orders; 5.3 steering.
    models: dict[str, ArtifactRef | None] = {"m0": None, **trained}
    rollouts = {
        name: rollouts.get(name) or roll_out(config, name, checkpoint, user, base, held_out)
        for name, checkpoint in models.items()
    }
    quality = stages.quality(
        measured=[
            measured.get(name) or measure(config, name, rollouts[name], base) for name in models
        ],
        bootstrap_samples=config.evaluation.bootstrap_samples,
        seed=config.seed,
    )
    judgements = judge(config, rollouts, base)
    steering = steer(config, "m1", trained["m1"], base)
    figures = stages.figures(
        judgements=judgements,
        rollouts=rollouts,
        bootstrap_samples=config.evaluation.bootstrap_samples,
        seed=config.seed,
    )
    report = stages.report(
        config=config,
        corpus=corpora[0],
        dialogues=dialogues,
        annotated=annotated,
        probe=probe,
        searches=searched,
        parents=parents,
        health=health,
        checkpoints=trained,
        rollouts=rollouts,
        figures=figures,
        quality=quality,
        steering=steering,
    )
    tables.publish(corpora, list(searched.values()), figures, quality)
    tracker.evaluation(
        figures, quality, probe, report, rollouts, {"m1": steering} if steering else {}, annotated
    )
    return {
        "corpus": corpora[0],
        "sac": annotated,
        "preferences": pairs,
        "trajectories": list(searched.values()),
        "checkpoints": trained,
        "rollouts": rollouts,
        "judgements": judgements,
        "figures": figures,
        "quality": quality,
        "steering": steering,
        "report": report,
    }


def human_dialogues(config: PipelineConfig) -> tuple[list[ArtifactRef], ArtifactRef]:
    """The corpora, and the dialogues of theirs that training uses."""
    settings = [config.corpus, *config.mixture.corpora]
    corpora = [build_corpus(corpus) for corpus in settings]
    return corpora, stages.training_dialogues(corpora=corpora, settings=settings, seed=config.seed)


def annotate(config: PipelineConfig, dialogues: ArtifactRef, base: ArtifactRef) -> ArtifactRef:
    """States for all utterances."""
    parts = run_shards(
        stages.annotate_shard,
        count(dialogues, DIALOGUES),
        config.annotation.shard_size,
        side_by_side=_elsewhere(config.annotation.engine),
        dialogues=dialogues,
        base=base,
        settings=config.annotation,
        model=config.model,
        seed=config.seed,
    )
    compared = None
    if config.annotation.compares_situations:
        compared = stages.situation_scores(
            situations=situations(config, "search", REFERENCE),
            base=base,
            settings=config.annotation,
            model=config.model,
            seed=config.seed,
        )
    return stages.annotated_dialogues(parts=parts, situations=compared, settings=config.annotation)


def training_text(
    config: PipelineConfig, name: str, annotated: ArtifactRef, *, states: bool
) -> ArtifactRef:
    """What the model ``name`` trains on, with the mixture's instruction data."""
    instructions = config.mixture.instructions
    return stages.chain_text(
        name,
        annotated=annotated,
        states=states,
        settings=config.mixture,
        conversation=config.conversation,
        source=source_hash(instructions.input) if instructions else "",
        seed=config.seed,
    )


def fine_tune(
    config: PipelineConfig,
    name: str,
    text: ArtifactRef,
    base: ArtifactRef,
    parent: ArtifactRef | None = None,
) -> ArtifactRef:
    """The model ``name``: m0 trained on ``text``, or a model refined on it."""
    return stages.sft(
        name,
        name=name,
        dialogues=text,
        base=base,
        parent=parent,
        settings=config.refine.sft if parent else config.sft,
        lora=config.lora,
        training=config.training,
        model=config.model,
        seed=config.seed,
    )


def refine(
    config: PipelineConfig,
    last: str,
    name: str,
    agent: ArtifactRef,
    user: ArtifactRef,
    base: ArtifactRef,
    openings: ArtifactRef,
) -> tuple[ArtifactRef, ArtifactRef, ArtifactRef]:
    """One round from the model ``last`` to ``name``: what its search found, the selected dialogues
    as training text, and the checkpoint."""
    searched = search(config, last, agent, user, base, openings)
    text = stages.selected_dialogues(last, trajectories=searched, profile=config.conversation.agent)
    return searched, text, fine_tune(config, name, text, base, agent)


def prefer(
    config: PipelineConfig,
    searched: list[ArtifactRef],
    parent: ArtifactRef,
    base: ArtifactRef,
) -> tuple[ArtifactRef, ArtifactRef]:
    """Chosen against rejected candidates of all rounds, and the model that learned from them."""
    pairs = stages.preferences(
        trajectories=searched,
        profile=config.conversation.agent,
        rejected=config.dpo.rejected,
        max_pairs=config.dpo.max_pairs,
        seed=config.seed,
    )
    checkpoint = stages.dpo(
        pairs=pairs,
        base=base,
        parent=parent,
        settings=config.dpo,
        lora=config.lora,
        training=config.training,
        model=config.model,
        seed=config.seed,
    )
    return pairs, checkpoint


def search(
    config: PipelineConfig,
    agent_name: str,
    agent: ArtifactRef,
    user: ArtifactRef,
    base: ArtifactRef,
    openings: ArtifactRef,
) -> ArtifactRef:
    """One round of self-play search with ``agent_name``."""
    parts = run_shards(
        stages.search_shard,
        count(openings, SITUATIONS),
        config.search.selfplay.shard_size,
        prefix=agent_name,
        side_by_side=_elsewhere(
            config.search.selfplay.agent_engine,
            config.search.selfplay.user_engine,
            *([config.search.selector.engine] if config.search.selector.asks_engine else []),
        ),
        agent_name=agent_name,
        agent=agent,
        user=user,
        base=base,
        situations=openings,
        settings=config.search,
        conversation=config.conversation,
        model=config.model,
        seed=config.seed,
        source=scorers.fingerprint(config.search.selector),
    )
    return stages.searched(agent_name, parts=parts)


def roll_out(
    config: PipelineConfig,
    agent_name: str,
    agent: ArtifactRef | None,
    user: ArtifactRef,
    base: ArtifactRef,
    held_out: ArtifactRef,
) -> ArtifactRef:
    """Plain conversations of ``agent_name`` on the held-out situations."""
    parts = run_shards(
        stages.rollout_shard,
        count(held_out, SITUATIONS),
        config.evaluation.selfplay.shard_size,
        prefix=agent_name,
        side_by_side=_elsewhere(
            config.evaluation.selfplay.agent_engine, config.evaluation.selfplay.user_engine
        ),
        agent_name=agent_name,
        agent=agent,
        user=user,
        base=base,
        situations=held_out,
        settings=config.evaluation.selfplay,
        conversation=config.conversation,
        model=config.model,
        seed=config.seed,
    )
    return stages.trajectories(f"rollout {agent_name}", parts=parts)


def judge(
    config: PipelineConfig, rollouts: dict[str, ArtifactRef], base: ArtifactRef
) -> ArtifactRef:
    """Every judge's verdicts on every pair."""
    return stages.judgements(parts=judge_pairs(config, model_pairs(list(rollouts)), rollouts, base))


def judge_pairs(
    config: PipelineConfig,
    pairs: Sequence[tuple[str, str]],
    rollouts: dict[str, ArtifactRef],
    base: ArtifactRef,
) -> list[ArtifactRef]:
    """Every judge's verdicts on some pairs, one artefact each."""
    parts = []
    for settings in config.evaluation.judges:
        inputs = [
            {
                "model_a": a,
                "model_b": b,
                "rollouts_a": rollouts[a],
                "rollouts_b": rollouts[b],
                "base": base,
                "settings": settings,
                "model": config.model,
                "seed": config.seed,
            }
            for a, b in pairs
        ]
        labels = [f"{settings.name} {a}-{b}" for a, b in pairs]
        parts += run_all(
            stages.judge_pair, labels, inputs, side_by_side=_elsewhere(settings.engine)
        )
    return parts


def measure(
    config: PipelineConfig, agent_name: str, rollouts: ArtifactRef, base: ArtifactRef
) -> ArtifactRef:
    """What a model's conversations say of it without a judge, by situation."""
    return stages.measurements(
        agent_name,
        agent_name=agent_name,
        base=base,
        rollouts=rollouts,
        settings=config.evaluation.quality,
        engine=config.evaluation.selfplay.agent_engine,
        model=config.model,
        scorer=scorer_name(),
        seed=config.seed,
    )


def check_health(
    config: PipelineConfig,
    agent_name: str,
    agent: ArtifactRef,
    rollouts: ArtifactRef,
    measured: ArtifactRef,
    base: ArtifactRef,
) -> ArtifactRef:
    """The figures that tell whether a model has collapsed."""
    return stages.model_health(
        agent_name,
        agent_name=agent_name,
        agent=agent,
        base=base,
        rollouts=rollouts,
        measured=measured,
        settings=config.refine.gates,
        selfplay=config.evaluation.selfplay,
        profile=config.conversation.agent,
        model=config.model,
        seed=config.seed,
    )


def has_collapsed(config: PipelineConfig, name: str, health: ArtifactRef) -> bool:
    """Whether the rounds stop since a model did not pass the gates; says so in the run's log."""
    failed = stages.read_health(health)["collapsed"]
    if failed:
        get_run_logger().warning("%s may have collapsed: %s", name, "; ".join(failed))
    return bool(failed) and config.refine.gates.on_collapse == "stop"


def improves(
    config: PipelineConfig,
    before: str,
    after: str,
    rollouts: dict[str, ArtifactRef],
    base: ArtifactRef,
) -> bool:
    """Whether a judge sees ``after`` win against ``before``, beyond chance."""
    parts = judge_pairs(config, [(before, after)], rollouts, base)
    return stages.improves(parts, config.evaluation.bootstrap_samples, config.seed)


def steer(
    config: PipelineConfig, agent_name: str, agent: ArtifactRef, base: ArtifactRef
) -> ArtifactRef | None:
    """How far a model can be steered, on held-out situations, if the configuration asks for it."""
    settings = config.steering_report
    if not settings.enabled:
        return None
    return stages.steering_evidence(
        agent_name,
        agent_name=agent_name,
        agent=agent,
        base=base,
        situations=situations(config, "evaluation", settings.situations),
        settings=settings,
        selfplay=config.evaluation.selfplay,
        profile=config.conversation.agent,
        model=config.model,
        seed=config.seed,
    )


def situations(config: PipelineConfig, split: str, limit: int) -> ArtifactRef:
    """The situations of one half."""
    return stages.situations(
        split,
        settings=config.situations,
        split=split,
        limit=limit,
        source=source_hash(config.situations.path),
    )


def run_shards(
    stage: Stage,
    rows: int,
    shard_size: int,
    *,
    prefix: str = "",
    side_by_side: bool = False,
    **inputs: Any,
) -> list[ArtifactRef]:
    """A stage on each shard of ``rows`` rows."""
    numbers = range(len(shards(range(rows), shard_size)))
    return run_all(
        stage,
        [f"{prefix} {number + 1}/{len(numbers)}".strip() for number in numbers],
        [{**inputs, "shard": number} for number in numbers],
        side_by_side=side_by_side,
    )


def run_all(
    stage: Stage, labels: Iterable[str], inputs: Iterable[dict[str, Any]], *, side_by_side: bool
) -> list[ArtifactRef]:
    """A stage on many inputs. A model in this process, or on a server of its own, takes one at a
    time, since its parallelism is the batch; servers elsewhere are asked side by side."""
    if side_by_side:
        return stage.map(inputs, labels)
    return [stage(label, **arguments) for label, arguments in zip(labels, inputs, strict=True)]


def _elsewhere(*engines: EngineConfig) -> bool:
    """Whether all of ``engines`` are servers that no process of ours starts."""
    return all(engine.kind == "openai" for engine in engines)
