"""One stage of the method on files: `sage annotate`, `sage train`, `sage search`, `sage judge run`.

The pipeline's own functions, on artefacts that the given files are made into; so a stage does here
what it does there, is found again when it is repeated, and goes on where it was killed.
"""

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
from pydantic import TypeAdapter

from flows import judges, pipeline
from flows.commands.folders import check_new, new_folder
from sage_core import labels
from sage_core.answers.tally import Tally
from sage_core.config.pipeline import PipelineConfig
from sage_core.corpus.records import DIALOGUES
from sage_core.errors import ConfigError, DataError
from sage_core.evaluation import judge
from sage_core.evaluation.benchmarks import ready
from sage_core.schema import Judgement
from sage_core.search.checks import check_search
from sage_core.search.selectors.selector import files_of
from sage_core.search.situations import situations
from sage_core.steps import configured
from sage_core.steps.base import Model
from sage_core.steps.code import own_code
from sage_core.steps.given import GivenTable, Unannotated
from sage_core.steps.joined import Judgements
from sage_core.steps.key import identity
from sage_core.steps.names import (
    ANNOTATION,
    ANSWERS,
    CALIBRATION,
    JUDGEMENTS,
    PREFERENCES,
    SAC,
    TRAINING,
    TRAJECTORIES,
)
from sage_core.steps.reading import read_benchmarks
from sage_core.steps.search import engines_of, named_in, players_of, write_found
from sage_core.steps.selected import DrawnPairs
from sage_core.steps.speaking import turns
from sage_core.storage import (
    MANIFEST,
    ArtifactRef,
    digest,
    read_json,
    read_rows,
    write_json,
    write_rows,
)
from tasks import checkpoints
from tasks.caching import make
from tasks.home import store
from tasks.inputs import count, source_hash
from tasks.making import HomeContext
from tasks.progress import console, progress

if TYPE_CHECKING:
    from sage_core.evaluation.calibration import Calibration
    from sage_core.search.comparison import StrategyRow

STRATEGIES = "strategies.json"


def annotate(config: PipelineConfig, dialogues: Path, output: Path, split: str = "train") -> Path:
    """States for the utterances of the dialogues of one ``split`` ('all' = every one); the path of
    the table made."""
    labels.check(config.annotation)
    rows = as_given(dialogues, DIALOGUES, split)
    ref = pipeline.annotate(config, rows, pipeline.base_model(config))
    if left_out := read_json(store().folder(ref) / ANNOTATION)["left_out"]:
        console.print(
            f"{left_out} of {count(rows, DIALOGUES)} dialogues are left out: an utterance is "
            "longer than the annotator's context (model.max_context, or its server's)"
        )
    return _copied(ref, output) / SAC


def train_sft(
    config: PipelineConfig,
    rows: Path,
    output: Path,
    parent: Path | None,
    split: str = "train",
    *,
    states: bool,
) -> Path:
    """A checkpoint trained on annotated dialogues, trajectories, training text, or the dialogues
    of one ``split`` as they are."""
    check_new(output)
    text = text_for(config, rows, split, states=states)
    return _checkpoint(
        pipeline.fine_tune(config, output.name, text, _parent(config, parent)), output
    )


def train_dpo(config: PipelineConfig, rows: Path, output: Path, parent: Path) -> Path:
    """A checkpoint trained on preference pairs, or on the pairs of trajectories; of at most
    ``dpo.max_pairs``."""
    check_new(output)
    start = _parent(config, parent)
    if not _has(rows, "chosen"):
        _, model = pipeline.prefer(config, [as_given(rows, TRAJECTORIES)], start)
        return _checkpoint(model, output)
    given = as_given(rows, PREFERENCES)
    drawn = DrawnPairs(pairs=given, max_pairs=config.dpo.max_pairs, seed=config.seed)
    return _checkpoint(pipeline.prefer_chosen(config, make(drawn), start), output)


def search(config: PipelineConfig, agent: str, user: str, output: Path) -> Path:
    """Self-play search on the search half; agent and user are names of models or folders of
    checkpoints. One that was killed goes on at its last turn."""
    check_search(config.search)
    models = models_to_play(config, agent, user)
    openings = pipeline.situations(config, "search", config.search.situations)
    return _copied(pipeline.search(config, *models, openings), output) / TRAJECTORIES


def compare_strategies(
    config: PipelineConfig, agent: str, user: str, output: Path
) -> list["StrategyRow"]:
    """All strategies at the same number of tokens: the table, and the tables of each one's search
    in a folder of its name. The first judge compares each with greedy on the situations that both
    have."""
    from sage_core.evaluation.winrate import summarise  # these import scipy
    from sage_core.search.comparison import (
        BASELINE,
        all_strategies,
        play_strategies,
        strategy_rows,
    )

    openings = situations(config.situations, "search", config.search.situations)
    models = models_to_play(config, agent, user)
    judging = config.evaluation.judges[0]
    check_search(config.search)
    asked = judges.judge(config, judging).question
    context = _comparing(config, models, output)
    players = players_of(
        context, *models, config.search, config.conversation, config.model, config.seed
    )
    strategies = all_strategies(config.search, states=players.agent.states)
    total = len(strategies) * turns(openings, config.search.selfplay)
    with progress("compare strategies", total) as advance:
        found = play_strategies(
            openings,
            players,
            strategies,
            config.search.selfplay.shard_size,
            work=context.work,
            on_progress=advance,
        )
    engine = context.engine(judging.engine, pipeline.base_model(config), config.model)
    verdicts = {}
    tally = Tally()
    for each, played in found.items():
        write_found(_made(output / each), played)
        if each == BASELINE:
            continue
        shared = min(len(played), len(found[BASELINE]))
        first, second = (
            [one.trajectory for one in some[:shared]] for some in (found[BASELINE], played)
        )
        judged = judge.judge_pair(
            BASELINE, each, first, second, engine, judging, config.seed, tally=tally, asked=asked
        )
        (verdicts[each],) = summarise(judged)
    tally.check(judging.max_unread_share, judge.UNREAD)
    write_json(output / ANSWERS, tally.as_dict())
    rows = strategy_rows(found, verdicts, states=players.agent.states)
    write_json(output / STRATEGIES, [asdict(row) for row in rows])
    shutil.rmtree(context.work, ignore_errors=True)
    return rows


def judge_run(
    config: PipelineConfig, rollouts: tuple[Path, Path], names: tuple[str, str], output: Path
) -> Path:
    """The verdicts of all configured judges on two models' trajectories, in both orders."""
    if names[0] == names[1]:
        raise ConfigError(f"both models are called '{names[0]}'; set --model-a or --model-b")
    judges.judges(config)  # an error here, not after the base is there
    given = {name: as_given(path, TRAJECTORIES) for name, path in zip(names, rollouts, strict=True)}
    parts = pipeline.judge_pairs(config, [names], given, pipeline.base_model(config))
    return _copied(make(Judgements(parts=tuple(parts))), output) / JUDGEMENTS


def judge_calibrate(config: PipelineConfig, output: Path) -> list["Calibration"]:
    """The agreement of all configured judges with the people of ``evaluation.human``, written with
    their verdicts."""
    from sage_core.evaluation.calibration import Calibration  # imports scipy

    judges.judges(config)  # an error here, not after the base is there
    check_new(output)
    parts = pipeline.calibrate(config, pipeline.base_model(config))
    folders = [store().folder(part) for part in parts]
    records = [read_json(folder / CALIBRATION) for folder in folders]
    with new_folder(output) as folder:
        write_json(folder / CALIBRATION, records)
        rows = [row for each in folders for row in read_rows(each / JUDGEMENTS, Judgement)]
        write_rows(folder / JUDGEMENTS, rows, Judgement)
    return TypeAdapter(list[Calibration]).validate_python(records)


def benchmark(
    config: PipelineConfig, reference: str, against: str | None, output: Path
) -> dict[str, Any]:
    """The configured benchmarks of a model, and of another one before it, whose changes against
    each other are those against m0 of a run; the table, which is also in ``output`` with each
    model's documents."""
    ready.check(config.benchmarks)
    if not config.benchmarks.tasks:
        raise ConfigError("no benchmark is named; give --tasks paper, or set benchmarks.tasks")
    models = {
        each: replace(checkpoints.model_of(checkpoints.find(each, config.model)), name=each)
        for each in (against, reference)
        if each is not None
    }
    made = pipeline.benchmark(config, models, against or reference)
    assert made is not None
    _copied(made, _made(output))
    return read_benchmarks(store().folder(made))


def models_to_play(config: PipelineConfig, agent: str, user: str) -> tuple[Model, Model]:
    """Who plays.

    Raises:
        ConfigError: one of them is not there, or they do not fit on one server.
    """
    roles = config.search.selfplay
    models = (
        checkpoints.model_of(checkpoints.find(agent, config.model)),
        checkpoints.model_of(checkpoints.find(user, config.model)),
    )
    bases = [str(store().folder(model.base)) for model in models]
    if bases[0] != bases[1] and roles.agent_engine.shares_server(roles.user_engine):
        raise ConfigError(
            f"'{agent}' and '{user}' were trained on two copies of the base, '{bases[0]}' and "
            f"'{bases[1]}', and a vLLM server holds one; take models of one run, or set "
            "search.selfplay.user_engine.kind=transformers"
        )
    return models


def _comparing(config: PipelineConfig, models: tuple[Model, Model], output: Path) -> HomeContext:
    """What a comparison of strategies asks, and the folder in which one with these settings and
    files is saved."""
    searched = digest(
        [
            identity(config),
            identity(models),
            files_of(config.search.selector),
            own_code(named_in(config.search)),
        ]
    )
    engines = (*engines_of(config.search), config.evaluation.judges[0].engine)
    return HomeContext(engines, output / f".search-{searched[:20]}")


def text_for(config: PipelineConfig, rows: Path, split: str, *, states: bool) -> ArtifactRef:
    """What the rows say, as text to train on."""
    if _has(rows, "trajectory_id"):
        found = as_given(rows, TRAJECTORIES)
        return make(configured.selected_dialogues(config, found))
    if _has(rows, "loss"):
        return as_given(rows, TRAINING, split)
    if _has(rows, "messages"):
        annotated = make(Unannotated(dialogues=as_given(rows, DIALOGUES, split)))
        return pipeline.training_text(config, "", annotated, states=False)
    return pipeline.training_text(config, "", as_given(rows, SAC, split), states=states)


def _parent(config: PipelineConfig, folder: Path | None) -> Model:
    """The model that training starts from."""
    m0 = pipeline.base_model(config)
    if folder is None:
        return m0
    return Model(folder.resolve().name, m0.base, checkpoints.reference(folder))


def as_given(path: Path, table: str, split: str = "all") -> ArtifactRef:
    """A table of the user's as an artefact."""
    ref = make(GivenTable(path=path, source=source_hash(path), table=table, split=split))
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    kept, total = count(ref, table), sum(pq.read_metadata(file).num_rows for file in files)
    if kept < total:
        console.print(f"{kept} of {total} dialogues: those of the split '{split}'")
    return ref


def _has(path: Path, column: str) -> bool:
    if not path.is_file():
        raise DataError(f"'{path}' does not exist; give the path of a Parquet file")
    return column in pq.read_schema(path).names


def _checkpoint(model: Model, output: Path) -> Path:
    """Copy a checkpoint into a new folder."""
    with new_folder(output) as folder:
        _copied(pipeline.reference(model), folder)
    return output


def _copied(ref: ArtifactRef, folder: Path) -> Path:
    """Copy an artefact's files."""
    ignored = shutil.ignore_patterns(MANIFEST)
    shutil.copytree(store().folder(ref), folder, ignore=ignored, dirs_exist_ok=True)
    return folder


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
