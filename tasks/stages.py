"""The stages of the pipeline, in the order of the paper.

Each loads what it was given, calls one function of ``sage_core`` and saves into its folder. The
modules named in ``@stage`` are those whose change makes the stage's cached results stale.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import pyarrow.parquet as pq

from sage_core import annotation
from sage_core.config import (
    AnnotationConfig,
    CorpusConfig,
    DPOConfig,
    EngineConfig,
    JudgeConfig,
    LoraConfig,
    ModelConfig,
    PipelineConfig,
    SearchConfig,
    SelfPlayConfig,
    SFTConfig,
    SituationsConfig,
)
from sage_core.corpus import build as corpus_build
from sage_core.corpus import readers
from sage_core.engines import loading
from sage_core.engines.base import Engine
from sage_core.errors import DataError
from sage_core.evaluation import judge
from sage_core.schema import (
    AnnotatedDialogue,
    Dialogue,
    Judgement,
    PreferencePair,
    Situation,
    Split,
    TrainingDialogue,
    Trajectory,
)
from sage_core.search import selfplay
from sage_core.search import situations as situations_module
from sage_core.storage import ArtifactRef, read_json, read_rows, shards, write_json, write_rows
from sage_core.training import data as training_data
from sage_core.training import lora as training
from tasks.caching import stage
from tasks.home import store
from tasks.progress import progress

DIALOGUES = corpus_build.DIALOGUES
SAC = "sac.parquet"
SITUATIONS = "situations.parquet"
TRAJECTORIES = "trajectories.parquet"
PREFERENCES = "preferences.parquet"
JUDGEMENTS = "judgements.parquet"
TRAINING = "training.parquet"
PROBE = "grammar_probe.json"

_RECORDS = ("schema", "storage", "sac")
_CORPUS = ("corpus.build", "corpus.filters", "corpus.readers", "corpus.sentiment", *_RECORDS)
_TRANSFORMERS = ("drawing", "in_process", "loading", "resident", "shared_prefix")
_ENGINES = tuple(f"engines.{name}" for name in ("base", "grammar", "openai_http", *_TRANSFORMERS))
_TRAINING = ("training.lora", "training.data", "engines.loading", *_RECORDS)


# --- the base model and the corpus (section 4.1) -------------------------------------------------


@stage("engines.loading")
def base_model(folder: Path, model: ModelConfig) -> None:
    """m0: the base folder, dequantised or pointed to."""
    loading.prepare_base(folder, model)


@stage(*_CORPUS)
def corpus_shard(folder: Path, corpus: CorpusConfig, shard: int, source: str) -> None:
    """One part of the raw conversations, filtered; ``source`` is the hash of the input."""
    dialogues = [
        dialogue
        for number, dialogue in enumerate(readers.read(corpus))
        if number % corpus.shards == shard
    ]
    with progress(f"filter corpus {shard + 1}/{corpus.shards}", len(dialogues)) as advance:
        corpus_build.save(corpus_build.filter_dialogues(dialogues, corpus, advance), folder)


@stage(*_CORPUS)
def corpus(folder: Path, parts: list[ArtifactRef]) -> None:
    """All kept and dropped dialogues, and the funnel."""
    merged = corpus_build.merge([corpus_build.load(_folder(part)) for part in parts])
    corpus_build.save(merged, folder)


@stage(*_CORPUS)
def training_dialogues(
    folder: Path, corpus: ArtifactRef, settings: CorpusConfig, seed: int
) -> None:
    """The kept dialogues that training uses."""
    kept = corpus_build.training_dialogues(corpus_build.load(_folder(corpus)), settings, seed)
    write_rows(folder / corpus_build.DIALOGUES, kept, Dialogue)


# --- State-Action Chains (section 4.2) -----------------------------------------------------------


@stage("annotation", *_RECORDS, *_ENGINES, retries=1)
def annotate_shard(
    folder: Path,
    dialogues: ArtifactRef,
    base: ArtifactRef,
    settings: AnnotationConfig,
    model: ModelConfig,
    shard: int,
    seed: int,
) -> None:
    """States for the utterances of one shard of dialogues."""
    rows = read_rows(_folder(dialogues) / corpus_build.DIALOGUES, Dialogue)
    part = shards(rows, settings.shard_size)[shard]
    engine = engine_for(settings.engine, base, model)
    with progress(f"annotate shard {shard + 1}", len(part)) as advance:
        annotated = annotation.annotate(part, engine, settings, seed, advance)
    write_rows(folder / SAC, annotated, AnnotatedDialogue)


@stage(*_RECORDS)
def annotated_dialogues(folder: Path, parts: list[ArtifactRef]) -> None:
    """All annotated dialogues."""
    _concatenate(parts, SAC, AnnotatedDialogue, folder)


@stage("annotation", *_RECORDS)
def chain_text(folder: Path, annotated: ArtifactRef, states: bool) -> None:
    """Training text: State-Action Chains for m1, the bare utterances for raw."""
    rows = read_rows(_folder(annotated) / SAC, AnnotatedDialogue)
    as_text = annotation.chains if states else annotation.without_states
    write_rows(folder / TRAINING, [as_text(row) for row in rows], TrainingDialogue)


# --- training (sections 4.3, 4.4, 4.5) -----------------------------------------------------------


@stage(*_TRAINING)
def sft(
    folder: Path,
    name: str,
    dialogues: ArtifactRef,
    base: ArtifactRef,
    parent: ArtifactRef | None,
    settings: SFTConfig,
    lora: LoraConfig,
    model: ModelConfig,
    seed: int,
) -> None:
    """A LoRA checkpoint trained on dialogues; ``parent`` is None for a first one."""
    rows = read_rows(_folder(dialogues) / TRAINING, TrainingDialogue)
    _release_engines()
    with _training_progress(f"train {name}") as on_step:
        training.train_sft(
            folder,
            _folder(base),
            _folder(parent) if parent else None,
            rows,
            settings,
            lora,
            model,
            seed,
            on_step,
        )


@stage("training.data", *_RECORDS)
def selected_dialogues(folder: Path, trajectories: ArtifactRef) -> None:
    """The trajectories that search selected, as training text."""
    rows = read_rows(_folder(trajectories) / TRAJECTORIES, Trajectory)
    write_rows(folder / TRAINING, training_data.selected_dialogues(rows), TrainingDialogue)


@stage("training.data", *_RECORDS)
def preferences(folder: Path, trajectories: list[ArtifactRef], max_pairs: int, seed: int) -> None:
    """Chosen against rejected candidates of all rounds."""
    rows = [
        trajectory
        for ref in trajectories
        for trajectory in read_rows(_folder(ref) / TRAJECTORIES, Trajectory)
    ]
    pairs = training_data.preference_pairs(rows, seed)
    if max_pairs and len(pairs) > max_pairs:
        pairs = Random(seed).sample(pairs, max_pairs)
    write_rows(folder / PREFERENCES, pairs, PreferencePair)


@stage(*_TRAINING)
def dpo(
    folder: Path,
    pairs: ArtifactRef,
    base: ArtifactRef,
    parent: ArtifactRef,
    settings: DPOConfig,
    model: ModelConfig,
    seed: int,
) -> None:
    """The last refined model after preference learning."""
    rows = read_rows(_folder(pairs) / PREFERENCES, PreferencePair)
    _release_engines()
    with _training_progress("train dpo") as on_step:
        training.train_dpo(
            folder, _folder(base), _folder(parent), rows, settings, model, seed, on_step
        )


# --- self-play (sections 4.4 and 4.6) ------------------------------------------------------------


@stage("search.situations", "schema", "storage")
def situations(
    folder: Path, settings: SituationsConfig, split: Split, limit: int, source: str
) -> None:
    """The situations of one half; ``source`` is the hash of the input."""
    write_rows(folder / SITUATIONS, situations_module.situations(settings, split, limit), Situation)


@stage("search.selfplay", "search.selector", *_RECORDS, *_ENGINES, retries=1)
def search_shard(
    folder: Path,
    agent_name: str,
    agent: ArtifactRef,
    user: ArtifactRef,
    base: ArtifactRef,
    situations: ArtifactRef,
    settings: SearchConfig,
    model: ModelConfig,
    shard: int,
    seed: int,
) -> None:
    """Self-play search from one shard of situations."""
    part = _situations(situations, settings.selfplay, shard)
    with progress(f"search {agent_name} shard {shard + 1}", _turns(part, settings.selfplay)) as p:
        trajectories = selfplay.self_play(
            part,
            _speaker(agent_name, agent, base, model),
            _speaker("m1", user, base, model),
            settings.selfplay,
            seed,
            candidates=settings.candidates,
            selector=selfplay.Selector(
                engine_for(settings.selector.engine, base, model), settings.selector
            ),
            on_progress=p,
        )
    write_rows(folder / TRAJECTORIES, trajectories, Trajectory)


@stage("search.selfplay", *_RECORDS, *_ENGINES, retries=1)
def rollout_shard(
    folder: Path,
    agent_name: str,
    agent: ArtifactRef | None,
    user: ArtifactRef,
    base: ArtifactRef,
    situations: ArtifactRef,
    settings: SelfPlayConfig,
    model: ModelConfig,
    shard: int,
    seed: int,
) -> None:
    """Plain conversations of one model from one shard of held-out situations."""
    part = _situations(situations, settings, shard)
    with progress(f"rollout {agent_name} shard {shard + 1}", _turns(part, settings)) as advance:
        trajectories = selfplay.self_play(
            part,
            _speaker(agent_name, agent, base, model),
            _speaker("m1", user, base, model),
            settings,
            seed,
            on_progress=advance,
        )
    write_rows(folder / TRAJECTORIES, trajectories, Trajectory)


@stage(*_RECORDS)
def trajectories(folder: Path, parts: list[ArtifactRef]) -> None:
    """All trajectories of a model."""
    _concatenate(parts, TRAJECTORIES, Trajectory, folder)


@stage("search.selfplay", "evaluation.metrics", *_RECORDS, *_ENGINES, retries=1)
def grammar_probe(
    folder: Path,
    agent: ArtifactRef,
    base: ArtifactRef,
    situations: ArtifactRef,
    settings: SearchConfig,
    model: ModelConfig,
    seed: int,
) -> None:
    """How many of m1's first replies have malformed states, with and without the grammar."""
    from sage_core.evaluation.metrics import Rate  # imports scipy

    rows = read_rows(_folder(situations) / SITUATIONS, Situation)[: settings.grammar_probe]
    speaker = _speaker("m1", agent, base, model)
    rates = {}
    for label, constrained in (("with grammar", True), ("without grammar", False)):
        rules = settings.selfplay.model_copy(update={"state_grammar": constrained})
        rates[label] = asdict(Rate.of(*selfplay.count_malformed(rows, speaker, rules, seed)))
    write_json(folder / PROBE, rates)


# --- evaluation (section 4.6) --------------------------------------------------------------------


@stage("evaluation.judge", *_RECORDS, *_ENGINES, retries=1)
def judge_pair(
    folder: Path,
    model_a: str,
    model_b: str,
    rollouts_a: ArtifactRef,
    rollouts_b: ArtifactRef,
    base: ArtifactRef,
    settings: JudgeConfig,
    model: ModelConfig,
    seed: int,
) -> None:
    """One judge's verdicts on one pair of models, both orders."""
    first = read_rows(_folder(rollouts_a) / TRAJECTORIES, Trajectory)
    second = read_rows(_folder(rollouts_b) / TRAJECTORIES, Trajectory)
    engine = engine_for(settings.engine, base, model)
    with progress(f"judge {model_a}-{model_b}", 2 * len(first)) as advance:
        judgements = judge.judge_pair(
            model_a, model_b, first, second, engine, settings, seed, advance
        )
    write_rows(folder / JUDGEMENTS, judgements, Judgement)


@stage(*_RECORDS)
def judgements(folder: Path, parts: list[ArtifactRef]) -> None:
    """All verdicts."""
    _concatenate(parts, JUDGEMENTS, Judgement, folder)


WIN_RATES = "win_rates.json"
METRICS = "metrics.json"
REPORT = "report.html"


@stage("evaluation.winrate", "evaluation.metrics", *_RECORDS)
def figures(
    folder: Path,
    judgements: ArtifactRef,
    rollouts: dict[str, ArtifactRef],
    bootstrap_samples: int,
    seed: int,
) -> None:
    """The win-rate table and each model's figures, as JSON."""
    from sage_core.evaluation import metrics, winrate  # import scipy

    rows = winrate.read_judgements(_folder(judgements) / JUDGEMENTS)
    table = winrate.summarise(rows, bootstrap_samples=bootstrap_samples, seed=seed)
    bias = winrate.position_bias(rows)
    write_json(
        folder / WIN_RATES,
        {
            "pairs": [asdict(row) for row in table],
            "position_bias": {name: asdict(rate) for name, rate in bias.items()},
        },
    )
    write_json(
        folder / METRICS,
        [
            asdict(
                metrics.model_metrics(
                    name,
                    read_rows(_folder(ref) / TRAJECTORIES, Trajectory),
                    states=name not in ("m0", "raw"),
                )
            )
            for name, ref in rollouts.items()
        ],
    )


@stage("evaluation.report", "evaluation.winrate", "evaluation.metrics", *_RECORDS)
def report(
    folder: Path,
    config: PipelineConfig,
    corpus: ArtifactRef,
    dialogues: ArtifactRef,
    probe: ArtifactRef,
    search: ArtifactRef,
    checkpoints: dict[str, ArtifactRef],
    rollouts: dict[str, ArtifactRef],
    figures: ArtifactRef,
) -> None:
    """The self-contained HTML report."""
    from sage_core.evaluation import report, summary  # import matplotlib and scipy

    def trajectories_of(ref: ArtifactRef) -> list[Trajectory]:
        return read_rows(_folder(ref) / TRAJECTORIES, Trajectory)

    data = summary.report_data(
        config,
        funnel=read_json(_folder(corpus) / corpus_build.FUNNEL),
        dialogues=count(dialogues, corpus_build.DIALOGUES),
        probe=read_json(_folder(probe) / PROBE),
        search=trajectories_of(search),
        losses={
            name: training.read_losses(_folder(checkpoint))
            for name, checkpoint in checkpoints.items()
        },
        rollouts={name: trajectories_of(ref) for name, ref in rollouts.items()},
        win_rates=read_json(_folder(figures) / WIN_RATES),
        metrics=read_json(_folder(figures) / METRICS),
    )
    (folder / REPORT).write_text(report.render_report(data), encoding="utf-8")


# --- shared ---------------------------------------------------------------------------------------


def engine_for(settings: EngineConfig, base: ArtifactRef, model: ModelConfig) -> Engine:
    """The engine that a role's settings name: m0 in this process, or a server."""
    if settings.kind == "openai":
        from sage_core.engines.openai_http import OpenAIEngine

        return OpenAIEngine(settings)
    return _transformers(base, None, model)


def source_hash(path: Path | None) -> str:
    """SHA-256 of an input file, so that a changed file is read again; '' for packaged data.

    Raises:
        DataError: the file does not exist.
    """
    if path is None:
        return ""
    if not path.is_file():
        raise DataError(f"'{path}' does not exist; give the path of a file")
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def count(ref: ArtifactRef, name: str) -> int:
    """The number of rows of an artefact's Parquet file."""
    return int(pq.read_metadata(_folder(ref) / name).num_rows)


def read_figures(figures: ArtifactRef) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The win rates (with position bias) and the models' figures, as :func:`figures` wrote them."""
    folder = _folder(figures)
    return read_json(folder / WIN_RATES), read_json(folder / METRICS)


def _folder(ref: ArtifactRef) -> Path:
    return store().folder(ref)


def _transformers(base: ArtifactRef, adapter: ArtifactRef | None, model: ModelConfig) -> Engine:
    from sage_core.engines.in_process import TransformersEngine  # imports torch

    return TransformersEngine(_folder(base), _folder(adapter) if adapter else None, model)


def _release_engines() -> None:
    """Training has the machine to itself."""
    from sage_core.engines.resident import release

    release()


def _speaker(
    name: str, adapter: ArtifactRef | None, base: ArtifactRef, model: ModelConfig
) -> selfplay.Speaker:
    engine = _transformers(base, adapter, model)
    return selfplay.Speaker(name, engine, states=name not in ("m0", "raw"))


def _situations(ref: ArtifactRef, settings: SelfPlayConfig, shard: int) -> list[Situation]:
    rows = read_rows(_folder(ref) / SITUATIONS, Situation)
    return list(shards(rows, settings.shard_size)[shard])


def _turns(part: list[Situation], settings: SelfPlayConfig) -> int:
    return len(part) * (settings.max_turns - 1)


def _concatenate(parts: list[ArtifactRef], name: str, row_type: type[Any], folder: Path) -> None:
    rows: list[Any] = []
    for part in parts:
        rows += read_rows(_folder(part) / name, row_type)
    write_rows(folder / name, rows, row_type)


@contextmanager
def _training_progress(description: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for a trainer, which says only at its first step how many there are."""
    with ExitStack() as stack:
        advance: Callable[[int], None] | None = None
        done = 0

        def on_step(step: int, steps: int) -> None:
            nonlocal advance, done
            if advance is None:
                advance = stack.enter_context(progress(description, steps))
            advance(step - done)
            done = step

        yield on_step
