"""The stages of the pipeline, in the order of the paper.

Each loads what it was given, calls one function of ``sage_core`` and saves into its folder. The
modules named in ``@stage`` are those whose change makes the stage's cached results stale.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Literal

import pyarrow.parquet as pq
from pydantic import TypeAdapter

from sage_core import annotation, engines, labels, mixture
from sage_core.config import (
    AnnotationConfig,
    ConversationConfig,
    CorpusConfig,
    DPOConfig,
    EngineConfig,
    GatesConfig,
    JudgeConfig,
    LoraConfig,
    MixtureConfig,
    ModelConfig,
    PipelineConfig,
    ProfileConfig,
    QualityConfig,
    SearchConfig,
    SelfPlayConfig,
    SFTConfig,
    SituationsConfig,
    SteeringReportConfig,
    TrainingConfig,
)
from sage_core.corpus import build as corpus_build
from sage_core.corpus import ingest, readers
from sage_core.corpus.tables import rows_in
from sage_core.engines import loading
from sage_core.evaluation import judge
from sage_core.schema import (
    AnnotatedDialogue,
    Dialogue,
    Judgement,
    PreferencePair,
    ScoredDialogue,
    SearchNode,
    Showing,
    Situation,
    Split,
    TrainingDialogue,
    Trajectory,
)
from sage_core.search import selfplay
from sage_core.search import situations as situations_module
from sage_core.search.dialogue import Speaker
from sage_core.search.setup import strategy_of
from sage_core.search.strategies import Players
from sage_core.storage import (
    ArtifactRef,
    digest,
    read_json,
    read_rows,
    shards,
    write_json,
    write_rows,
)
from sage_core.training import data as training_data
from sage_core.training.dpo import train_dpo
from sage_core.training.job import Job, read_losses
from sage_core.training.sft import train_sft
from tasks.caching import stage
from tasks.engines import engine_for, selector_for, speaker
from tasks.home import store
from tasks.progress import progress

if TYPE_CHECKING:
    from sage_core.evaluation.quality import Measurements, Quality

DIALOGUES = corpus_build.DIALOGUES
SAC = "sac.parquet"
SCORES = "scores.parquet"
SITUATION_SCORES = "situation_scores.json"
ANNOTATION = "annotation.json"
SITUATIONS = "situations.parquet"
TRAJECTORIES = "trajectories.parquet"
SEARCH_TREE = "search_tree.parquet"
SHOWINGS = "selector_showings.parquet"
PREFERENCES = "preferences.parquet"
JUDGEMENTS = "judgements.parquet"
TRAINING = "training.parquet"
PROBE = "grammar_probe.json"
HEALTH = "health.json"
MEASUREMENTS = "measurements.json"
QUALITY = "quality.json"
_HASHED_BYTES = 2**30
STEERING = "steering.json"

_RECORDS = ("schema", "storage", "sac")
_READERS = tuple(
    f"corpus.readers.{path.stem}" for path in sorted(Path(readers.__file__).parent.glob("[!_]*.py"))
)
_INGEST = ("corpus.ingest", "corpus.lines", "corpus.readers", "corpus.records", "corpus.tables",
           *_READERS, *_RECORDS)  # fmt: skip
_FILTERS = ("corpus.build", "corpus.duplicates", "corpus.filters", "corpus.offensive",
            "corpus.records", "corpus.sentiment", "corpus.tables", "corpus.threads",
            "data/blocked_subreddits.txt", *_RECORDS)  # fmt: skip
_ENGINES = tuple(
    f"engines.{path.stem}" for path in sorted(Path(engines.__file__).parent.glob("[!_]*.py"))
)
_SEARCH = ("conversation", "search.dialogue", "search.likelihood", "search.saved", "search.scorers",
           "search.selector", "search.selfplay", "search.setup", "search.strategies")  # fmt: skip
_QUALITY = ("conversation", "evaluation.embedding", "evaluation.metrics", "evaluation.quality",
            "emotions", "corpus.sentiment", "search.likelihood", "search.dialogue")  # fmt: skip
_TRAINING = ("conversation", "training.chain", "training.data", "training.job", "training.launch",
             "training.packed", "training.tokens", "training.trainers", "engines.grammar",
             "engines.loading", "engines.marks", "engines.prompts", *_RECORDS)  # fmt: skip


# --- the base model and the corpus (section 4.1) -------------------------------------------------


@stage("engines.loading")
def base_model(folder: Path, model: ModelConfig) -> None:
    """m0: the base folder, dequantised or pointed to."""
    loading.prepare_base(folder, model)


@stage(*_INGEST)
def corpus_source(folder: Path, corpus: CorpusConfig, name: str, source: str) -> None:
    """The records of one source; ``source`` is the hash of its content."""
    (found,) = (found for found in readers.sources(corpus) if found.name == name)
    ingest.ingest(found, corpus, folder)


@stage(*_INGEST)
def sorted_posts(folder: Path, sources: list[ArtifactRef], memory_mb: int) -> None:
    """The posts of all sources, sorted by thread."""
    folders = [_folder(source) for source in sources]
    ingest.sort_posts(folders, folder / ingest.RECORDS, memory_mb)


@stage(*_FILTERS)
def corpus_partition(
    folder: Path, records: ArtifactRef, corpus: CorpusConfig, first: int, stop: int, phrases: str
) -> None:
    """One partition of the records as dialogues, filtered; ``phrases`` is the hash of the user's
    list of offensive ones."""
    path = _folder(records) / ingest.RECORDS
    with progress("filter corpus", min(rows_in(path), corpus.records_per_partition)) as advance:
        partition = ingest.Partition(0, first, stop)
        corpus_build.filter_partition(path, partition, corpus, folder, advance)


@stage(*_FILTERS, "corpus.card", "corpus.ingest")
def corpus(
    folder: Path, sources: list[ArtifactRef], parts: list[ArtifactRef], corpus: CorpusConfig
) -> None:
    """All kept and dropped dialogues, the funnel, the quarantine and the data card."""
    corpus_build.merge(
        [_folder(source) for source in sources],
        [_folder(part) for part in parts],
        corpus,
        folder,
    )


@stage(*_FILTERS, "mixture")
def training_dialogues(
    folder: Path, corpora: list[ArtifactRef], settings: list[CorpusConfig], seed: int
) -> None:
    """The kept dialogues of all corpora that training uses."""
    kept = [
        corpus_build.training_dialogues(_folder(corpus), config, seed)
        for corpus, config in zip(corpora, settings, strict=True)
    ]
    drawn = mixture.draw(kept, [config.weight for config in settings], seed)
    write_rows(folder / corpus_build.DIALOGUES, drawn, Dialogue)


# --- State-Action Chains (section 4.2) -----------------------------------------------------------


@stage("annotation", "labels", "topics", *_RECORDS, *_ENGINES, retries=1)
def annotate_shard(
    folder: Path,
    dialogues: ArtifactRef,
    base: ArtifactRef,
    settings: AnnotationConfig,
    model: ModelConfig,
    shard: int,
    seed: int,
) -> None:
    """States for the utterances of one shard of dialogues, or the scores of all listed values,
    among which only the whole corpus can choose."""
    rows = read_rows(_folder(dialogues) / corpus_build.DIALOGUES, Dialogue)
    part = shards(rows, settings.shard_size)[shard]
    engine = engine_for(settings.engine, base, model)
    with progress(f"annotate shard {shard + 1}", len(part)) as advance:
        if settings.method == "score":
            scored = labels.score(part, engine, settings, seed, advance)
            write_rows(folder / SCORES, scored, ScoredDialogue)
        else:
            annotated = annotation.annotate(part, engine, settings, seed, advance)
            write_rows(folder / SAC, annotated, AnnotatedDialogue)


@stage("annotation", "labels", *_RECORDS, *_ENGINES, retries=1)
def situation_scores(
    folder: Path,
    situations: ArtifactRef,
    base: ArtifactRef,
    settings: AnnotationConfig,
    model: ModelConfig,
    seed: int,
) -> None:
    """How likely each emotion is after each situation, whoever is annotated."""
    rows = read_rows(_folder(situations) / SITUATIONS, Situation)
    engine = engine_for(settings.engine, base, model)
    write_json(folder / SITUATION_SCORES, labels.score_situations(rows, engine, settings, seed))


@stage("labels", "topics", "corpus.sentiment", "evaluation.annotations", "evaluation.metrics",
       *_RECORDS)  # fmt: skip
def annotated_dialogues(
    folder: Path,
    parts: list[ArtifactRef],
    situations: ArtifactRef | None,
    settings: AnnotationConfig,
) -> None:
    """All annotated dialogues, and what can be said of their states; ``situations`` are scores."""
    if settings.method == "score":
        scored = _rows_of(parts, SCORES, ScoredDialogue)
        compared = read_json(_folder(situations) / SITUATION_SCORES) if situations else None
        write_annotated(folder, labels.pick(scored, settings, compared))
    else:
        write_annotated(folder, _rows_of(parts, SAC, AnnotatedDialogue))


def write_annotated(folder: Path, rows: Sequence[AnnotatedDialogue]) -> None:
    """The table of annotated dialogues and its figures."""
    from sage_core.evaluation.annotations import annotation_figures  # imports scipy

    write_rows(folder / SAC, rows, AnnotatedDialogue)
    write_json(folder / ANNOTATION, asdict(annotation_figures(rows)))


@stage("conversation", "mixture", "corpus.lines", *_READERS, *_RECORDS)
def chain_text(
    folder: Path,
    annotated: ArtifactRef,
    states: bool,
    settings: MixtureConfig,
    conversation: ConversationConfig,
    source: str,
    seed: int,
) -> None:
    """Training text: State-Action Chains for m1, the bare utterances for raw; ``source`` is the
    hash of the instruction data."""
    rows = read_rows(_folder(annotated) / SAC, AnnotatedDialogue)
    blended = mixture.blend(rows, settings.blend, seed)
    dialogues = mixture.training_text(blended, conversation, states=states)
    if settings.instructions:
        instructions = mixture.read_instructions(settings.instructions)
        dialogues = mixture.with_instructions(
            dialogues, instructions, settings.instructions.share, seed
        )
    write_rows(folder / TRAINING, dialogues, TrainingDialogue)


# --- training (sections 4.3, 4.4, 4.5) -----------------------------------------------------------


@stage("training.sft", *_TRAINING, resumable=True)
def sft(
    folder: Path,
    name: str,
    dialogues: ArtifactRef,
    base: ArtifactRef,
    parent: ArtifactRef | None,
    settings: SFTConfig,
    lora: LoraConfig,
    training: TrainingConfig,
    model: ModelConfig,
    seed: int,
    work: Path,
) -> None:
    """A LoRA checkpoint trained on dialogues; ``parent`` is None for a first one."""
    rows = read_rows(_folder(dialogues) / TRAINING, TrainingDialogue)
    job = Job(name, _folder(base), _folder(parent) if parent else None, model, lora, training, seed)
    with training_progress(f"train {name}") as on_step:
        train_sft(folder, job, rows, settings, work, on_step)


@stage("training.data", "conversation", *_RECORDS)
def selected_dialogues(folder: Path, trajectories: ArtifactRef, profile: ProfileConfig) -> None:
    """The trajectories that search selected, as training text."""
    rows = read_rows(_folder(trajectories) / TRAJECTORIES, Trajectory)
    selected = training_data.selected_dialogues(rows, profile)
    write_rows(folder / TRAINING, selected, TrainingDialogue)


@stage("training.data", "conversation", *_RECORDS)
def preferences(
    folder: Path,
    trajectories: list[ArtifactRef],
    profile: ProfileConfig,
    rejected: Literal["random", "lowest"],
    max_pairs: int,
    seed: int,
) -> None:
    """Chosen against rejected candidates of all rounds."""
    rows = [
        trajectory
        for ref in trajectories
        for trajectory in read_rows(_folder(ref) / TRAJECTORIES, Trajectory)
    ]
    pairs = training_data.preference_pairs(rows, profile, seed, rejected)
    if max_pairs and len(pairs) > max_pairs:
        pairs = Random(seed).sample(pairs, max_pairs)
    write_rows(folder / PREFERENCES, pairs, PreferencePair)


@stage("training.dpo", *_TRAINING, resumable=True)
def dpo(
    folder: Path,
    pairs: ArtifactRef,
    base: ArtifactRef,
    parent: ArtifactRef,
    settings: DPOConfig,
    lora: LoraConfig,
    training: TrainingConfig,
    model: ModelConfig,
    seed: int,
    work: Path,
) -> None:
    """The last refined model after preference learning."""
    rows = read_rows(_folder(pairs) / PREFERENCES, PreferencePair)
    job = Job("dpo", _folder(base), _folder(parent), model, lora, training, seed)
    with training_progress("train dpo") as on_step:
        train_dpo(folder, job, rows, settings, work, on_step)


# --- self-play (sections 4.4 and 4.6) ------------------------------------------------------------


@stage("search.situations", "corpus.readers.empathetic_dialogues", "schema", "storage")
def situations(
    folder: Path, settings: SituationsConfig, split: Split, limit: int, source: str
) -> None:
    """The situations of one half; ``source`` is the hash of the input."""
    write_rows(folder / SITUATIONS, situations_module.situations(settings, split, limit), Situation)


@stage(*_SEARCH, *_RECORDS, *_ENGINES, retries=1, resumable=True)
def search_shard(
    folder: Path,
    agent_name: str,
    agent: ArtifactRef,
    user: ArtifactRef,
    base: ArtifactRef,
    situations: ArtifactRef,
    settings: SearchConfig,
    conversation: ConversationConfig,
    model: ModelConfig,
    shard: int,
    seed: int,
    source: str,
    work: Path,
) -> None:
    """Self-play search from one shard of situations; ``source`` is the hash of what scores replies,
    where that is no LLM."""
    part = _situations(situations, settings.selfplay, shard)
    with progress(f"search {agent_name} shard {shard + 1}", turns(part, settings.selfplay)) as p:
        players = Players(
            _speaker(
                agent_name, agent, base, model, settings.selfplay.agent_engine, conversation.agent
            ),
            _speaker("m1", user, base, model, settings.selfplay.user_engine, conversation.user),
            settings.selfplay,
            seed,
            selector_for(settings.selector, _folder(base), model, seed),
        )
        found = selfplay.search(part, players, strategy_of(settings), work=work, on_progress=p)
    write_found(folder, found)


@stage(*_SEARCH, *_RECORDS, *_ENGINES, retries=1, resumable=True)
def rollout_shard(
    folder: Path,
    agent_name: str,
    agent: ArtifactRef | None,
    user: ArtifactRef,
    base: ArtifactRef,
    situations: ArtifactRef,
    settings: SelfPlayConfig,
    conversation: ConversationConfig,
    model: ModelConfig,
    shard: int,
    seed: int,
    work: Path,
) -> None:
    """Plain conversations of one model from one shard of held-out situations."""
    part = _situations(situations, settings, shard)
    with progress(f"rollout {agent_name} shard {shard + 1}", turns(part, settings)) as advance:
        players = Players(
            _speaker(agent_name, agent, base, model, settings.agent_engine, conversation.agent),
            _speaker("m1", user, base, model, settings.user_engine, conversation.user),
            settings,
            seed,
        )
        trajectories = selfplay.self_play(part, players, work=work, on_progress=advance)
    write_rows(folder / TRAJECTORIES, trajectories, Trajectory)


@stage(*_RECORDS)
def trajectories(folder: Path, parts: list[ArtifactRef]) -> None:
    """All trajectories of a model."""
    _concatenate(parts, TRAJECTORIES, Trajectory, folder)


@stage(*_RECORDS)
def searched(folder: Path, parts: list[ArtifactRef]) -> None:
    """All trajectories of a search, with its tree and what its selector was shown."""
    _concatenate(parts, TRAJECTORIES, Trajectory, folder)
    _concatenate(parts, SEARCH_TREE, SearchNode, folder)
    _concatenate(parts, SHOWINGS, Showing, folder)


@stage(*_SEARCH, "evaluation.metrics", *_RECORDS, *_ENGINES, retries=1)
def grammar_probe(
    folder: Path,
    agent: ArtifactRef,
    base: ArtifactRef,
    situations: ArtifactRef,
    settings: SearchConfig,
    profile: ProfileConfig,
    model: ModelConfig,
    seed: int,
) -> None:
    """How many of m1's first replies have malformed states, with and without the grammar."""
    from sage_core.evaluation.metrics import Rate  # imports scipy

    rows = read_rows(_folder(situations) / SITUATIONS, Situation)[: settings.grammar_probe]
    speaker = _speaker("m1", agent, base, model, settings.selfplay.agent_engine, profile)
    rates = {}
    for label, constrained in (("with grammar", True), ("without grammar", False)):
        rules = settings.selfplay.model_copy(update={"state_grammar": constrained})
        rates[label] = asdict(Rate.of(*selfplay.count_malformed(rows, speaker, rules, seed)))
    write_json(folder / PROBE, rates)


@stage(*_QUALITY, *_RECORDS, *_ENGINES, retries=1)
def measurements(
    folder: Path,
    agent_name: str,
    base: ArtifactRef,
    rollouts: ArtifactRef,
    settings: QualityConfig,
    engine: EngineConfig,
    model: ModelConfig,
    scorer: str,
    seed: int,
) -> None:
    """What a model's conversations say of it without a judge, by situation; ``engine`` is m0's,
    ``scorer`` the sentence embedder that is installed."""
    from sage_core.evaluation import quality  # imports scipy

    rows = read_rows(_folder(rollouts) / TRAJECTORIES, Trajectory)
    with progress(f"measure {agent_name}", quality.STEPS) as advance:
        measured = quality.measure(
            agent_name,
            rows,
            engine_for(engine, base, model),
            settings,
            seed,
            states=agent_name not in ("m0", "raw"),
            on_progress=advance,
        )
    write_json(folder / MEASUREMENTS, asdict(measured))


@stage("evaluation.collapse", *_QUALITY, *_RECORDS, *_ENGINES, retries=1)
def model_health(
    folder: Path,
    agent_name: str,
    agent: ArtifactRef,
    base: ArtifactRef,
    rollouts: ArtifactRef,
    measured: ArtifactRef,
    settings: GatesConfig,
    selfplay: SelfPlayConfig,
    profile: ProfileConfig,
    model: ModelConfig,
    seed: int,
) -> None:
    """Whether a refined model has collapsed, by its conversations."""
    from sage_core.evaluation import collapse  # imports scipy

    found = collapse.health(
        read_rows(_folder(rollouts) / TRAJECTORIES, Trajectory),
        _speaker(agent_name, agent, base, model, selfplay.agent_engine, profile),
        engine_for(selfplay.agent_engine, base, model),
        selfplay,
        settings.kl_replies,
        seed,
        read_measurements(measured),
    )
    failed = collapse.collapsed(found, settings)
    write_json(folder / HEALTH, {"figures": found.figures(), "collapsed": failed})


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


@stage(*_QUALITY, *_RECORDS)
def quality(folder: Path, measured: list[ArtifactRef], bootstrap_samples: int, seed: int) -> None:
    """All models' measurements, in the order of their making, the later ones against m1."""
    from sage_core.evaluation import quality  # imports scipy

    rows = [read_measurements(ref) for ref in measured]
    write_json(folder / QUALITY, asdict(quality.compare(rows, bootstrap_samples, seed)))


@stage("evaluation.steering", "evaluation.variance", *_QUALITY, *_RECORDS, *_ENGINES, retries=1)
def steering_evidence(
    folder: Path,
    agent_name: str,
    agent: ArtifactRef,
    base: ArtifactRef,
    situations: ArtifactRef,
    settings: SteeringReportConfig,
    selfplay: SelfPlayConfig,
    profile: ProfileConfig,
    model: ModelConfig,
    seed: int,
) -> None:
    """How far a model can be steered, on held-out situations (section 5.3, Tables 3 to 5)."""
    from sage_core.evaluation import embedding, steering  # import scipy

    rows = read_rows(_folder(situations) / SITUATIONS, Situation)
    speaker = _speaker(agent_name, agent, base, model, selfplay.agent_engine, profile)
    with progress(f"steer {agent_name}", steering.steps(settings)) as advance:
        evidence = steering.evidence(
            rows, speaker, settings, selfplay, seed, advance, embedding.embed
        )
    write_json(folder / STEERING, asdict(evidence))


@stage(
    "evaluation.report",
    "evaluation.annotations",
    "evaluation.winrate",
    "evaluation.metrics",
    "evaluation.steering",
    "evaluation.variance",
    "evaluation.quality",
    "evaluation.summary",
    "search.figures",
    "search.tree",
    "templates/report.html.jinja",
    "templates/macros.html.jinja",
    *_RECORDS,
)
def report(
    folder: Path,
    config: PipelineConfig,
    corpus: ArtifactRef,
    dialogues: ArtifactRef,
    annotated: ArtifactRef,
    probe: ArtifactRef,
    searches: dict[str, ArtifactRef],
    parents: dict[str, str],
    health: dict[str, ArtifactRef],
    checkpoints: dict[str, ArtifactRef],
    rollouts: dict[str, ArtifactRef],
    figures: ArtifactRef,
    quality: ArtifactRef,
    steering: ArtifactRef | None,
) -> None:
    """The self-contained HTML report; ``searches`` are by the model that searched."""
    from sage_core.evaluation import report, summary  # import matplotlib and scipy
    from sage_core.search.figures import search_figures

    def trajectories_of(ref: ArtifactRef) -> list[Trajectory]:
        return read_rows(_folder(ref) / TRAJECTORIES, Trajectory)

    data = summary.report_data(
        config,
        funnel=read_json(_folder(corpus) / corpus_build.FUNNEL),
        dialogues=count(dialogues, corpus_build.DIALOGUES),
        annotation=read_json(_folder(annotated) / ANNOTATION),
        probe=read_json(_folder(probe) / PROBE),
        searches=[
            search_figures(name, trajectories_of(ref), read_rows(_folder(ref) / SHOWINGS, Showing))
            for name, ref in searches.items()
        ],
        search_tree=first_tree(next(iter(searches.values()))),
        parents=parents,
        health={name: read_health(ref) for name, ref in health.items()},
        losses={name: read_losses(_folder(checkpoint)) for name, checkpoint in checkpoints.items()},
        rollouts={name: trajectories_of(ref) for name, ref in rollouts.items()},
        win_rates=read_json(_folder(figures) / WIN_RATES),
        metrics=read_json(_folder(figures) / METRICS),
        quality=read_quality(quality),
        steering=read_json(_folder(steering) / STEERING) if steering else None,
    )
    (folder / REPORT).write_text(report.render_report(data), encoding="utf-8")


# --- shared ---------------------------------------------------------------------------------------


def source_hash(path: Path | None) -> str:
    """SHA-256 of an input, so that a changed one is read again; '' for packaged data and for a
    name on a hub. Of a folder, and of a file too large to read twice, the names, sizes and times
    of change stand for the content.
    """
    if path is None or not path.exists():
        return ""
    if path.is_file() and path.stat().st_size <= _HASHED_BYTES:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return digest(
        [
            [file.relative_to(path).as_posix(), file.stat().st_size, file.stat().st_mtime_ns]
            for file in files
            if file.is_file()
        ]
    )


def count(ref: ArtifactRef, name: str) -> int:
    """The number of rows of an artefact's Parquet file."""
    return int(pq.read_metadata(_folder(ref) / name).num_rows)


def read_figures(figures: ArtifactRef) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The win rates (with position bias) and the models' figures, as :func:`figures` wrote them."""
    folder = _folder(figures)
    return read_json(folder / WIN_RATES), read_json(folder / METRICS)


def read_health(health: ArtifactRef) -> dict[str, Any]:
    """The figures of a model and the gates it did not pass, as :func:`model_health` wrote them."""
    record: dict[str, Any] = read_json(_folder(health) / HEALTH)
    return record


def read_measurements(measured: ArtifactRef) -> "Measurements":
    """A model's measurements, as :func:`measurements` wrote them."""
    from sage_core.evaluation.quality import Measurements  # imports scipy

    record = read_json(_folder(measured) / MEASUREMENTS)
    return TypeAdapter(Measurements).validate_python(record)


def read_quality(quality: ArtifactRef) -> "Quality":
    """All models' figures, as :func:`quality` wrote them."""
    from sage_core.evaluation.quality import Quality  # imports scipy

    return TypeAdapter(Quality).validate_python(read_json(_folder(quality) / QUALITY))


def improves(parts: Sequence[ArtifactRef], bootstrap_samples: int, seed: int) -> bool:
    """Whether the judges of one pair see its second model win, beyond chance."""
    from sage_core.evaluation import winrate  # imports scipy

    rows = [row for part in parts for row in read_rows(_folder(part) / JUDGEMENTS, Judgement)]
    return winrate.improves(winrate.summarise(rows, bootstrap_samples=bootstrap_samples, seed=seed))


def first_tree(searched: ArtifactRef) -> list[SearchNode]:
    """The search tree of the first dialogue."""
    nodes = read_rows(_folder(searched) / SEARCH_TREE, SearchNode)
    return [node for node in nodes if node.trajectory_id == nodes[0].trajectory_id]


def _folder(ref: ArtifactRef) -> Path:
    return store().folder(ref)


def _speaker(
    name: str,
    adapter: ArtifactRef | None,
    base: ArtifactRef,
    model: ModelConfig,
    settings: EngineConfig,
    profile: ProfileConfig,
) -> Speaker:
    folder = _folder(adapter) if adapter else None
    return speaker(name, settings, _folder(base), folder, model, profile)


def _situations(ref: ArtifactRef, settings: SelfPlayConfig, shard: int) -> list[Situation]:
    rows = read_rows(_folder(ref) / SITUATIONS, Situation)
    return list(shards(rows, settings.shard_size)[shard])


def write_found(folder: Path, found: Sequence[selfplay.Found]) -> None:
    """The tables of a search."""
    write_rows(folder / TRAJECTORIES, [each.trajectory for each in found], Trajectory)
    nodes = [node for each in found for node in each.nodes]
    write_rows(folder / SEARCH_TREE, nodes, SearchNode)
    showings = [showing for each in found for showing in each.showings]
    write_rows(folder / SHOWINGS, showings, Showing)


def turns(part: Sequence[Situation], settings: SelfPlayConfig) -> int:
    """Turns of the conversations, their openings not counted."""
    return len(part) * (settings.max_turns - 1)


def _concatenate(parts: list[ArtifactRef], name: str, row_type: type[Any], folder: Path) -> None:
    write_rows(folder / name, _rows_of(parts, name, row_type), row_type)


def _rows_of(parts: list[ArtifactRef], name: str, row_type: type[Any]) -> list[Any]:
    return [row for part in parts for row in read_rows(_folder(part) / name, row_type)]


@contextmanager
def training_progress(description: str) -> Iterator[Callable[[int, int], None]]:
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
