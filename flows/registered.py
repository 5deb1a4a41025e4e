"""What can be done with the registered models: refine one on new data, evaluate two against each
other, ask one the benchmarks. Each is a deployment of its own (:mod:`flows.deployed`).

The settings are those of the run that made the first model. What is found is in MLflow: a new
version under the alias ``candidate``, a run with the evaluation's tables, metrics of the model.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from flows import pipeline
from flows.judges import judges
from flows.retraining import (
    Confine,
    anywhere,
    checked,
    find_champion,
    folder_of,
    new_dialogues,
    settings,
    train,
    user_of,
    with_replay,
)  # fmt: skip
from sage_core import preflight
from sage_core.config.pipeline import PipelineConfig
from sage_core.corpus.records import DIALOGUES
from sage_core.errors import ConfigError
from sage_core.steps.base import Model, writes_states
from sage_core.steps.reading import read_benchmarks, read_measurements
from sage_core.storage import ArtifactRef
from tasks import checkpoints, evaluations, prompts
from tasks.decisions import WAITING
from tasks.home import store
from tasks.inputs import count
from tasks.lineage import ancestry
from tasks.registry import CANDIDATE, Registry, Version
from tasks.tracking import track

_FIGURES = ("wins_a", "ties", "wins_b", "unparsed", "p_value", "p_holm", "ci_low", "ci_high")


def refine(
    reference: str = "",
    name: str = "",
    overrides: Iterable[str] = (),
    confine: Confine = anywhere,
) -> dict[str, Any]:
    """Train a model further on dialogues that it has not seen, as a round of retraining does, and
    register it as ``candidate``. No gate decides: `sage promote` is a person's word. Call it with
    the home held; returns the record.

    Args:
        reference: the alias or number of the version to refine; '' = the champion.
        name: the registered model; '' for the only one that there is.
        overrides: changes of the settings of the version's run, as ``sage run --set``.
        confine: what checks the paths of the settings.

    Raises:
        ConfigError: there is no such version or checkpoint, or a candidate waits for a person.
    """
    registry = Registry(name)
    parent = find_champion(registry.find(reference) if reference else registry.champion())
    if any(record["outcome"] == WAITING for record in registry.decisions()):
        raise ConfigError(
            f"a candidate of '{registry.name}' waits for a person; approve or refuse it first, "
            "since this run would take its alias"
        )
    before = registry.config(parent.version)
    number = int(parent.version.version)  # another seed than the run that made it
    config = checked(settings(before, overrides, number), before, confine, preflight.check)
    _, new = new_dialogues(config, parent.corpora)
    found = count(new, DIALOGUES)
    record = {"refined": parent.version.version, "new_dialogues": found}
    if not found:
        return {**record, "outcome": "nothing new"}
    with track(config, f"version {number} refined") as tracker:
        openings = pipeline.situations(config, "search", config.search.situations)
        train(config, CANDIDATE, parent, with_replay(config, parent, new), openings, tracker)
        version = str(tracker.versions[CANDIDATE].version)
    return {**record, "outcome": "candidate", "candidate": version}


def evaluate(
    first: str,
    second: str,
    name: str = "",
    other: str = "",
    overrides: Iterable[str] = (),
    confine: Confine = anywhere,
) -> dict[str, Any]:
    """Let two models talk about the same held-out situations, judge them in both orders and measure
    them without a judge. Call it with the home held; returns the record.

    Args:
        first, second: aliases or numbers of versions.
        name: the registered model of both; '' for the only one that there is.
        other: that of the second, if it is another one.
        overrides: changes of the settings of the first one's run, as ``sage run --set``.
        confine: what checks the paths of the settings.

    Raises:
        ConfigError: a version is not there, both are one model, or they need other settings of the
            model, such as another base.
    """
    registries = Registry(name), Registry(other or name)
    versions = [each.find(ref) for each, ref in zip(registries, (first, second), strict=True)]
    if versions[0].sha256 == versions[1].sha256:
        raise ConfigError(f"{versions[0]} and {versions[1]} are the same model")
    before, beside = (
        each.config(version) for each, version in zip(registries, versions, strict=True)
    )
    if before.model != beside.model:
        raise ConfigError(
            f"{versions[0]} and {versions[1]} have other settings 'model'; judge what both said "
            "in their runs with `sage compare RUN RUN --judge MODEL`"
        )
    config = checked(settings(before, overrides), before, confine, preflight.check_evaluation)
    models = {each.name: each for each in named(versions)}
    user = _user(versions, registries[0])
    held_out = pipeline.situations(config, "evaluation", config.evaluation.situations)
    rollouts = {
        each: pipeline.roll_out(config, model, user, held_out) for each, model in models.items()
    }
    measured = [pipeline.measure(config, models[each], rollouts[each]) for each in models]
    prompts.registered(judges(config))
    a, b = models
    judged = pipeline.judge_pairs(
        config, [(a, b)], rollouts, user.m0, config.evaluation.judged_situations
    )
    win_rates, measures = _win_rates(judged), _measures(config, measured)
    shown = {each: str(version) for each, version in zip(models, versions, strict=True)}
    metrics = {
        f"evaluation.{row['judge']}.{figure}": row[figure]
        for row in win_rates
        for figure in ("difference", "ci_low", "ci_high", "p_holm")
    }
    ids = evaluations.log_evaluation(
        registries[0].name,
        f"{b} against {a}",
        {"sage.evaluated": " and ".join(shown.values())},
        metrics,
        {"win_rates.json": win_rates, "measures.json": measures},
    )
    return {
        "models": shown,
        "win_rates": win_rates,
        "measures": measures,
        "experiment": ids[0],
        "run": ids[1],
    }


def benchmark(
    reference: str = "",
    against: str = "m0",
    name: str = "",
    overrides: Iterable[str] = (),
    confine: Confine = anywhere,
) -> dict[str, Any]:
    """Ask two models the benchmarks that ``benchmarks.tasks`` names, and log them as metrics of
    their runs, which the gate of retraining reads. Call it with the home held; returns the table of
    all figures.

    Args:
        reference: the alias or number of a version; '' = the champion.
        against: that of the baseline.
        name: the registered model; '' for the only one that there is.
        overrides: changes of the settings of the version's run, as ``sage run --set``.
        confine: what checks the paths of the settings.

    Raises:
        ConfigError: a version is not there, both are one, or no benchmark can be asked.
    """
    registry = Registry(name)
    version = registry.find(reference) if reference else registry.champion()
    versions = [registry.find(against), version]
    if versions[0].sha256 == versions[1].sha256:
        raise ConfigError(f"{versions[0]} and {versions[1]} are the same model")
    before = registry.config(version)
    changes = [*overrides, "benchmarks.if_missing=error"]
    config = checked(settings(before, changes), before, confine, preflight.check_evaluation)
    models = named(versions)
    made = pipeline.benchmark(config, {each.name: each for each in models}, models[0].name)
    if made is None:
        raise ConfigError("no benchmark is named; choose some, or set benchmarks.tasks")
    found = read_benchmarks(store().folder(made))
    metrics = evaluations.benchmark_metrics(found)
    for model, each in zip(models, versions, strict=True):
        evaluations.log_metrics(each.run_id, metrics[model.name])
    return found


def named(versions: Sequence[Version]) -> list[Model]:
    """The models of two versions, under the names that their runs gave them, or where these are the
    same, with their registered models and numbers.

    Raises:
        ConfigError: the home does not have one, or both are called m0 or raw, which say by their
            name that they write no states.
    """
    names = [version.model for version in versions]
    if names[0] == names[1]:
        if not writes_states(names[0]):
            raise ConfigError(
                f"both versions are called {names[0]}, and are not told apart; judge what they "
                "said in their runs with `sage compare RUN RUN --judge MODEL`"
            )
        names = [f"{each.registered}.{each.version}" for each in versions]
    return [
        checkpoints.of_artifact(folder_of(version), name)
        for version, name in zip(versions, names, strict=True)
    ]


def _user(versions: Sequence[Version], registry: Registry) -> Model:
    """Who plays the person: the m1 that the first model was made from, else that of the second,
    else the last m1."""
    users = (user_of(ancestry(folder_of(version))) for version in versions)
    found = next(filter(None, users), None)
    return found or checkpoints.of_artifact(folder_of(registry.find("m1")), "m1")


def _win_rates(judged: Sequence[ArtifactRef]) -> list[dict[str, Any]]:
    """What each judge says."""
    from sage_core.evaluation import winrate  # imports scipy

    return [
        {
            "judge": each.judge,
            "model_a": each.model_a,
            "model_b": each.model_b,
            "n": each.n,
            **{key: getattr(each, key) for key in _FIGURES},
            "difference": (each.wins_b - each.wins_a) / each.n if each.n else None,
        }
        for each in winrate.summarise(pipeline.verdicts(judged))
    ]


def _measures(config: PipelineConfig, measured: Sequence[ArtifactRef]) -> list[dict[str, Any]]:
    """Each measure without a judge of both models, and the second's difference from the first over
    the same situations, with its interval."""
    from sage_core.evaluation import quality  # imports scipy

    first, second = (read_measurements(store().folder(ref)) for ref in measured)
    samples, seed = config.evaluation.bootstrap_samples, config.seed
    shown = [each.figures for each in quality.compare([first, second], samples, seed).models]
    rows = []
    for measure in quality.MEASURES:
        if all(measure.name in figures for figures in shown):
            difference = quality.paired_difference(
                first.values[measure.name], second.values[measure.name], samples, seed
            )
            rows.append(
                {
                    "measure": measure.title,
                    first.model: shown[0][measure.name].value,
                    second.model: shown[1][measure.name].value,
                    "n": difference.n,
                    "difference": difference.value,
                    "ci_low": difference.ci_low,
                    "ci_high": difference.ci_high,
                }
            )
    return rows
