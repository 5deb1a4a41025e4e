"""One stage of the method on files: `sage annotate`, `sage train`, `sage search`, `sage judge run`.

They call what the pipeline's stages call, without Prefect and without the cache; only m0 comes
from the artefact store of the home.
"""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import pyarrow.parquet as pq

from flows.folders import new_folder
from sage_core import annotation, labels, mixture
from sage_core.config import PipelineConfig, SearchConfig
from sage_core.errors import ConfigError, DataError
from sage_core.evaluation import judge
from sage_core.schema import (
    AnnotatedDialogue,
    Dialogue,
    Judgement,
    PreferencePair,
    TrainingDialogue,
    Trajectory,
)
from sage_core.search import scorers, selfplay
from sage_core.search.setup import strategy_of
from sage_core.search.situations import situations
from sage_core.search.strategies import Players
from sage_core.storage import ArtifactRef, Row, digest, read_rows, write_json, write_rows
from sage_core.training import data
from sage_core.training.dpo import train_dpo as train_on_pairs
from sage_core.training.job import Job
from sage_core.training.sft import train_sft as train_on_dialogues
from tasks import checkpoints, engines, stages
from tasks.home import store
from tasks.progress import console, progress

if TYPE_CHECKING:
    from sage_core.search.comparison import StrategyRow

STRATEGIES = "strategies.json"


def annotate(config: PipelineConfig, dialogues: Path, output: Path, split: str = "train") -> Path:
    """States for the utterances of the dialogues of one ``split`` ('all' = every one); the path of
    the table made."""
    rows = _of_split(read_rows(dialogues, Dialogue), dialogues, split)
    settings = config.annotation
    engine = engines.engine_for(settings.engine, _base(config), config.model)
    labels.check(settings)
    with progress("annotate", len(rows)) as advance:
        if settings.method == "score":
            scored = labels.score(rows, engine, settings, config.seed, advance)
            compared = None
            if settings.compares_situations:
                openings = situations(config.situations, "search", labels.REFERENCE)
                compared = labels.score_situations(openings, engine, settings, config.seed)
            annotated = labels.pick(scored, settings, compared)
        else:
            annotated = annotation.annotate(rows, engine, settings, config.seed, advance)
    stages.write_annotated(_made(output), annotated)
    return output / stages.SAC


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
    dialogues = _of_split(_training_dialogues(config, rows, states=states), rows, split)
    settings = config.refine.sft if parent else config.sft
    job, work = _job(config, output, parent, rows, ["sft", states])
    with new_folder(output) as folder, stages.training_progress("train") as on_step:
        train_on_dialogues(folder, job, dialogues, settings, work, on_step)
    shutil.rmtree(work, ignore_errors=True)
    return output


def train_dpo(config: PipelineConfig, rows: Path, output: Path, parent: Path) -> Path:
    """A checkpoint trained on preference pairs, or on the pairs of trajectories."""
    if _has(rows, "chosen"):
        pairs = read_rows(rows, PreferencePair)
    else:
        found = read_rows(rows, Trajectory)
        pairs = data.preference_pairs(
            found, config.conversation.agent, config.seed, config.dpo.rejected
        )
    job, work = _job(config, output, parent, rows, ["dpo"])
    with new_folder(output) as folder, stages.training_progress("train dpo") as on_step:
        train_on_pairs(folder, job, pairs, config.dpo, work, on_step)
    shutil.rmtree(work, ignore_errors=True)
    return output


def _job(
    config: PipelineConfig, output: Path, parent: Path | None, rows: Path, kind: list[object]
) -> tuple[Job, Path]:
    """What is trained, and the folder in which a training with these settings and files is saved,
    so that one that was killed goes on from there."""
    base = store().folder(_base(config))
    job = Job(output.name, base, parent, config.model, config.lora, config.training, config.seed)
    inputs = [config.model_dump(mode="json"), kind, *map(stages.source_hash, (rows, parent))]
    return job, output.with_name(f".{output.name}.{digest(inputs)[:20]}")


def search(config: PipelineConfig, agent: str, user: str, output: Path) -> Path:
    """Self-play search on the search half; agent and user are names of models or folders of
    checkpoints. One that was killed goes on at its last turn."""
    openings = situations(config.situations, "search", config.search.situations)
    players, work = _players(config, agent, user, output)
    with progress("search", stages.turns(openings, config.search.selfplay)) as advance:
        found = selfplay.search(
            openings, players, strategy_of(config.search), work=work, on_progress=advance
        )
    stages.write_found(_made(output), found)
    shutil.rmtree(work, ignore_errors=True)
    return output / stages.TRAJECTORIES


def compare_strategies(
    config: PipelineConfig, agent: str, user: str, output: Path
) -> list["StrategyRow"]:
    """All strategies at the same number of tokens: the table, and the tables of each one's search
    in a folder of its name. The first judge compares each with greedy on the situations that both
    have."""
    from sage_core.evaluation.winrate import summarise  # these import scipy
    from sage_core.search.comparison import BASELINE, play_strategies, strategy_rows

    openings = situations(config.situations, "search", config.search.situations)
    players, work = _players(config, agent, user, output)
    choices = get_args(SearchConfig.model_fields["strategy"].annotation)
    strategies = {
        each: strategy_of(config.search.model_copy(update={"strategy": each}))
        for each in choices
        if players.agent.states or each != "tree"  # a search among states
    }
    total = len(strategies) * stages.turns(openings, config.search.selfplay)
    with progress("compare strategies", total) as advance:
        found = play_strategies(
            openings,
            players,
            strategies,
            config.search.selfplay.shard_size,
            work=work,
            on_progress=advance,
        )
    judging = config.evaluation.judges[0]
    engine = engines.engine_for(judging.engine, _base(config), config.model)
    verdicts = {}
    for each, played in found.items():
        stages.write_found(_made(output / each), played)
        if each == BASELINE:
            continue
        shared = min(len(played), len(found[BASELINE]))
        first, second = (
            [one.trajectory for one in some[:shared]] for some in (found[BASELINE], played)
        )
        judged = judge.judge_pair(BASELINE, each, first, second, engine, judging, config.seed)
        (verdicts[each],) = summarise(
            judged, bootstrap_samples=config.evaluation.bootstrap_samples, seed=config.seed
        )
    rows = strategy_rows(found, verdicts, states=players.agent.states)
    write_json(output / STRATEGIES, [asdict(row) for row in rows])
    shutil.rmtree(work, ignore_errors=True)
    return rows


def _players(config: PipelineConfig, agent: str, user: str, output: Path) -> tuple[Players, Path]:
    """Who plays, and the folder in which a search with these settings and files is saved."""
    settings = config.search
    roles = settings.selfplay
    found = [checkpoints.find(each, config.model) for each in (agent, user)]
    bases = [each.base for each in found]
    if bases[0] != bases[1] and roles.agent_engine.kind == roles.user_engine.kind == "vllm":
        raise ConfigError(
            f"'{agent}' and '{user}' were trained on two copies of the base, '{bases[0]}' and "
            f"'{bases[1]}', and a vLLM server holds one; take models of one run, or set "
            "search.selfplay.user_engine.kind=transformers"
        )
    profiles = config.conversation
    speaking, playing = (
        engines.speaker(each.name, engine, each.base, each.adapter, config.model, profile)
        for each, engine, profile in zip(
            found,
            (roles.agent_engine, roles.user_engine),
            (profiles.agent, profiles.user),
            strict=True,
        )
    )
    # m0 is the agent's own: the preset's settings may name another copy of it.
    selector = engines.selector_for(settings.selector, bases[0], config.model, config.seed)
    players = Players(speaking, playing, roles, config.seed, selector)
    inputs = [config.model_dump(mode="json"), speaking.name, playing.name]
    files = [stages.source_hash(each.adapter) for each in found]
    searched = digest([inputs, files, scorers.fingerprint(settings.selector)])
    return players, output / f".search-{searched[:20]}"


def judge_run(
    config: PipelineConfig, rollouts: tuple[Path, Path], names: tuple[str, str], output: Path
) -> Path:
    """The verdicts of all configured judges on two models' trajectories, in both orders."""
    base = _base(config)
    first, second = (read_rows(path, Trajectory) for path in rollouts)
    judgements: list[Judgement] = []
    for settings in config.evaluation.judges:
        engine = engines.engine_for(settings.engine, base, config.model)
        with progress(f"judge {settings.name}", 2 * len(first)) as advance:
            judgements += judge.judge_pair(
                *names, first, second, engine, settings, config.seed, advance
            )
    target = _made(output) / stages.JUDGEMENTS
    write_rows(target, judgements, Judgement)
    return target


def _base(config: PipelineConfig) -> ArtifactRef:
    return stages.base_model.local("m0", model=config.model)


def _training_dialogues(
    config: PipelineConfig, rows: Path, *, states: bool
) -> list[TrainingDialogue]:
    if _has(rows, "trajectory_id"):
        return data.selected_dialogues(read_rows(rows, Trajectory), config.conversation.agent)
    if _has(rows, "loss"):
        return read_rows(rows, TrainingDialogue)
    if _has(rows, "messages"):
        return [
            mixture.plain_text(dialogue, config.conversation)
            for dialogue in read_rows(rows, Dialogue)
        ]
    annotated = read_rows(rows, AnnotatedDialogue)
    return mixture.training_text(annotated, config.conversation, states=states)


def _of_split(rows: list[Row], path: Path, split: str) -> list[Row]:
    """Those of the table's rows that are in ``split``; all where it has no such column.

    Raises:
        DataError: none is.
    """
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if split == "all" or not all(_has(file, "split") for file in files):
        return rows
    splits = [
        each for file in files for each in pq.read_table(file, columns=["split"])[0].to_pylist()
    ]
    found = [row for row, each in zip(rows, splits, strict=True) if each == split]
    if rows and not found:
        there = ", ".join(sorted(set(splits)))
        raise DataError(f"'{path}' has no dialogue in the split '{split}'; --split {there}, or all")
    if len(found) < len(rows):
        console.print(f"{len(found)} of {len(rows)} dialogues: those of the split '{split}'")
    return found


def _has(path: Path, column: str) -> bool:
    if not path.is_file():
        raise DataError(f"'{path}' does not exist; give the path of a Parquet file")
    return column in pq.read_schema(path).names


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
