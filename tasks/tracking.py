"""MLflow: one parent run per pipeline run or round of retraining, one child run per model.

Everything logged is read from finished artefacts, so a run whose stages all came from the cache
is tracked like one that made them. A run that was killed is taken up again by the next one with
the same configuration. The checkpoint of a model is logged once, however many runs use it.
"""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.entities import Metric, Param, RunTag
from mlflow.entities.model_registry import ModelVersion, PromptVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.time import get_current_time_millis
from prefect.runtime import flow_run

from sage_core.config.differences import run_name
from sage_core.config.pipeline import PipelineConfig
from sage_core.evaluation.classifiers import key_figures as classifier_figures
from sage_core.evaluation.judge_evidence import judged_figures
from sage_core.evaluation.quality import key_figures as quality_figures
from sage_core.evaluation.steering import key_figures
from sage_core.evaluation.summary import lineage, read_steering
from sage_core.sac import utterance_of
from sage_core.schema import Trajectory
from sage_core.steps.names import ANNOTATION, PROBE, REPORT, STEERING, TRAJECTORIES
from sage_core.steps.reading import (
    read_benchmarks,
    read_classified,
    read_collapse,
    read_empathy,
    read_figures,
    read_judges,
    read_quality,
)
from sage_core.storage import ArtifactRef, digest, read_json, read_rows
from sage_core.training.job import read_log
from tasks import decisions, notices
from tasks.evaluations import ITERATION_TAG, benchmark_metrics
from tasks.home import home_id, store
from tasks.mlflow_views import SOURCE_TAG, experiment_tags
from tasks.tracked_dialogues import log_dialogues
from tasks.tracking_store import artifact_location, connect
from tasks.watching import watching

PARENT_TAG = "mlflow.parentRunId"
SHA256_TAG = "sage.sha256"
CONFIG = "config.json"
_CONFIG_HASH = "sage.config_hash"
_HOME = "sage.home"
_REPORT = "sage.report"  # the report's key, by which `sage compare` finds the run
_SAMPLE_DIALOGUES = 8


@contextmanager
def track(config: PipelineConfig, title: str = "") -> Iterator["Tracker"]:
    """Track one run; the parent run ends as FINISHED, or as FAILED after an error."""
    tracker = Tracker(config, title)
    try:
        with watching(tracker.run_id):
            yield tracker
    except BaseException as error:
        try:
            tracker.finish("FAILED")
        except Exception as second:  # the first one is what the reader has to know
            error.add_note(f"and MLflow was not told that the run failed: {second}")
        raise
    tracker.finish("FINISHED")


class Tracker:
    """Logs the models of one run.

    Args:
        title: the name of the parent run; '' = what differs from the nearest preset.
    """

    def __init__(self, config: PipelineConfig, title: str = "") -> None:
        self._client = connect()
        self._config = config
        self.experiment_id = self._experiment_id(config.name)
        self._children: dict[str, str] = {}
        self.versions: dict[str, ModelVersion] = {}
        self._steps: dict[str, int] = {}
        self._prompts: dict[str, str] = {}
        config_hash = digest(config.model_dump(mode="json"))
        self._title = title or run_name(config)
        self.run_id = self._unfinished(config_hash) or self._start(
            self._title,
            {
                _CONFIG_HASH: config_hash,
                _HOME: home_id(),
                "sage.flow_run_id": str(flow_run.get_id() or ""),
                "sage.flow_run": str(flow_run.ui_url or ""),
            },
        )
        self._client.log_dict(self.run_id, config.model_dump(mode="json"), CONFIG)
        self._client.log_batch(self.run_id, params=_params(_flat(config.model_dump(mode="json"))))
        judges = [judge.name for judge in config.evaluation.judges]
        there = self._client.get_experiment(self.experiment_id).tags
        for name, value in experiment_tags(self.experiment_id, judges, there).items():
            self._client.set_experiment_tag(self.experiment_id, name, value)

    def judges(self, prompts: Mapping[str, PromptVersion]) -> None:
        """Name the version of each judge's prompt: on this run, which MLflow links to it, on the
        runs of the models that are logged from now on, and in the table of win rates."""
        self._prompts = {judge: str(version.uri) for judge, version in prompts.items()}
        tags = [RunTag(name, value) for name, value in self._prompt_tags().items()]
        self._client.log_batch(self.run_id, tags=tags)
        for version in prompts.values():
            self._client.link_prompt_version_to_run(self.run_id, version)

    def _prompt_tags(self) -> dict[str, str]:
        return {f"sage.judge.{judge}.prompt": prompt for judge, prompt in self._prompts.items()}

    def base(self, base: ArtifactRef) -> None:
        """Log m0: an external model, since its weights are not ours to copy."""
        run_id = self._child("m0", base, parent="", data=None)
        self._register("m0", run_id, base, folder=None)

    def checkpoint(
        self, name: str, checkpoint: ArtifactRef, *, parent: str, data: ArtifactRef
    ) -> None:
        """Log a trained model: parameters, losses, data, lineage and the adapter."""
        run_id = self._child(name, checkpoint, parent=parent, data=data)
        log = read_log(store().folder(checkpoint))
        now = get_current_time_millis()
        metrics = [
            Metric(f"train.{key}", float(value), now, int(entry["step"]))
            for entry in log["history"]
            for key, value in entry.items()
            if key != "step" and isinstance(value, int | float)
        ]
        for start in range(0, len(metrics), 1000):  # MLflow's limit for one call
            self._client.log_batch(run_id, metrics=metrics[start : start + 1000])
        section = {
            "raw": self._config.sft,
            "m1": self._config.sft,
            "dpo": self._config.dpo,
            "challenger": self._config.dpo,
            "candidate": self._config.dpo,
        }.get(name, self._config.refine.sft)
        settings = {
            **section.model_dump(mode="json"),
            "lora": self._config.lora.model_dump(mode="json"),
            "training": self._config.training.model_dump(mode="json"),
        }
        self._client.log_batch(
            run_id,
            params=_params(_flat(settings))
            + _params(_flat({key: log[key] for key in ("examples", "left_out", "steps")})),
        )
        self._log_input(run_id, name, data)
        self._register(name, run_id, checkpoint, folder=store().folder(checkpoint))

    def evaluation(
        self,
        figures: ArtifactRef,
        quality: ArtifactRef,
        probe: ArtifactRef,
        report: ArtifactRef,
        rollouts: Mapping[str, ArtifactRef],
        steering: Mapping[str, ArtifactRef],
        annotated: ArtifactRef,
    ) -> None:
        """Log what compares the models, by step = iteration, and the report; ``probe`` is m1's."""
        win_rates, models = read_figures(store().folder(figures))
        compared: dict[str, dict[str, float]] = {entry["model"]: {} for entry in models}
        for entry in models:
            values = {
                "reply_words": entry["reply_words"]["value"],
                "question_rate": entry["questions"]["value"],
                "distinct_2": entry["distinct_2"],
                "emotion_accuracy": entry["emotion_accuracy"]["value"],
            }
            compared[entry["model"]] |= {k: v for k, v in values.items() if v is not None}
        for model in read_quality(store().folder(quality)).models:
            compared[model.model] |= quality_figures(model)
        malformed = read_json(store().folder(probe) / PROBE)["without grammar"]["value"]
        if malformed is not None:
            compared["m1"]["well_formed_without_grammar"] = 1 - malformed
        for pair in win_rates["pairs"]:
            if pair["n"]:
                name = f"win_rate.{pair['judge']}.vs_{pair['model_a']}"
                compared[pair["model_b"]][name] = pair["wins_b"] / pair["n"]
                difference = (pair["wins_b"] - pair["wins_a"]) / pair["n"]
                compared[pair["model_b"]][f"{name}.difference"] = difference
        for name, values in judged_figures(read_judges(store().folder(figures))).items():
            if name in compared:
                compared[name] |= values
        for name, ref in steering.items():
            evidence = read_steering(read_json(store().folder(ref) / STEERING))
            compared[name] |= key_figures(evidence)
        agreement = read_json(store().folder(annotated) / ANNOTATION)["sentiment_agreement"]
        if agreement["n"]:
            compared["m1"]["annotation_sentiment_agreement"] = agreement["value"]
        now = get_current_time_millis()
        for name, values in compared.items():
            metrics = [Metric(key, value, now, self._steps[name]) for key, value in values.items()]
            self._client.log_batch(self._children[name], metrics=metrics)
            if name != "raw":  # the curve of the parent run is that of m0, m1, m2, ..., dpo
                self._client.log_batch(self.run_id, metrics=metrics)
        self._client.log_artifact(self.run_id, str(store().folder(report) / REPORT))
        self._client.set_tag(self.run_id, _REPORT, Path(report.path).name)
        pairs = [
            {**pair, "prompt": self._prompts.get(pair["judge"], "")} for pair in win_rates["pairs"]
        ]
        self._log_table(pd.DataFrame(pairs), "win_rates.json")
        by_model = [{"model": name, **values} for name, values in compared.items()]
        self._log_table(pd.DataFrame(by_model), "models.json")
        sample = {
            name: read_rows(store().folder(ref) / TRAJECTORIES, Trajectory)[:_SAMPLE_DIALOGUES]
            for name, ref in rollouts.items()
        }
        self._log_table(_sample_dialogues(sample), "dialogues.json")
        log_dialogues(
            self.experiment_id,
            self.run_id,
            self._children,
            sample,
            f"{self._config.name} dialogues",
        )

    def benchmarks(self, benchmarks: ArtifactRef | None) -> None:
        """Log each model's benchmarks: every metric, and of the one that tables show its standard
        error, its relative change against m0 and Holm's p."""
        if benchmarks is None:
            return
        found = read_benchmarks(store().folder(benchmarks))
        self._log_by_step(benchmark_metrics(found))
        self._log_table(pd.DataFrame(found["scores"]), "benchmarks.json")

    def empathy(self, empathy: Mapping[str, ArtifactRef]) -> None:
        """Log how well each model finds emotions, and how often it says that it is human."""
        values: dict[str, dict[str, float | None]] = {}
        for name, ref in empathy.items():
            found = read_empathy(store().folder(ref))
            values[name] = {
                f"emotion_recognition.{each['way']}.{figure}": each[figure]["value"]
                for each in found["recognition"]
                for figure in ("exact", "top", "polarity")
            } | {
                f"claims_human.{kind}": rate["value"]
                for kind, rate in found["probe"]["claims_human"].items()
            }
        self._log_by_step(values)

    def classified(self, classified: Sequence[ArtifactRef]) -> None:
        """Log what each text classifier says of each model's replies, with intervals."""
        for ref in classified:
            self._log_by_step(classifier_figures(read_classified(store().folder(ref))))

    def _log_by_step(self, values: Mapping[str, Mapping[str, float | None]]) -> None:
        """Figures by model, on its child run at its iteration."""
        now = get_current_time_millis()
        for name, figures in values.items():
            metrics = [
                Metric(key, value, now, self._steps[name])
                for key, value in figures.items()
                if value is not None
            ]
            self._client.log_batch(self._children[name], metrics=metrics)

    def collapse(self, name: str, collapse: ArtifactRef) -> None:
        """Log the figures of the collapse gates, and how many did not pass, by iteration."""
        found = read_collapse(store().folder(collapse))
        values = {**found["figures"], "gates_failed": float(len(found["collapsed"]))}
        now = get_current_time_millis()
        metrics = [
            Metric(f"collapse.{key}", value, now, self._steps[name])
            for key, value in values.items()
        ]
        for run_id in (self._children[name], self.run_id):
            self._client.log_batch(run_id, metrics=metrics)
        if found["collapsed"]:
            notices.notice(notices.COLLAPSED, self._config.name, name, found["collapsed"])

    def decision(self, record: Mapping[str, Any]) -> None:
        """Log what became of a challenger: the whole record, and its checks as a table."""
        decisions.write(self._client, self.run_id, self._config.name, record, record["checks"])

    def finish(self, status: str) -> None:
        """End the parent run and the child runs that are still open."""
        for run_id in (*self._children.values(), self.run_id):
            self._client.set_terminated(run_id, status)

    def _experiment_id(self, name: str) -> str:
        experiment = self._client.get_experiment_by_name(name)
        if experiment is not None:
            return str(experiment.experiment_id)
        made = self._client.create_experiment(name, artifact_location=artifact_location(name))
        return str(made)

    def _unfinished(self, config_hash: str) -> str | None:
        """A parent run of this configuration and home that was killed or failed. It cannot be a
        live one: whoever tracks a run holds the home."""
        runs = self._client.search_runs(
            [self.experiment_id],
            f"tags.`{_CONFIG_HASH}` = '{config_hash}' and tags.`{_HOME}` = '{home_id()}' "
            "and attributes.status != 'FINISHED'",
            max_results=1,
        )
        if not runs:
            return None
        self._client.update_run(runs[0].info.run_id, status="RUNNING")
        return str(runs[0].info.run_id)

    def _start(self, name: str, tags: dict[str, str]) -> str:
        run = self._client.create_run(
            self.experiment_id, run_name=name, tags={**tags, "sage.git_commit": _git_commit()}
        )
        return str(run.info.run_id)

    def _child(
        self, name: str, checkpoint: ArtifactRef, *, parent: str, data: ArtifactRef | None
    ) -> str:
        """The child run of a model, named exactly as the model."""
        manifest = store().manifest(checkpoint)
        self._steps[name] = 0 if name in ("m0", "raw") else self._steps.get(parent, 0) + 1
        tags = {
            PARENT_TAG: self.run_id,
            SOURCE_TAG: self._title,
            SHA256_TAG: checkpoint.sha256,
            "sage.model": name,
            "sage.parent_model": parent,
            ITERATION_TAG: str(self._steps[name]),
            "sage.data_hash": data.sha256 if data else "",
            _CONFIG_HASH: manifest["config_hash"],
            "sage.code_hash": manifest["code_hash"],
            "mlflow.note.content": lineage(name, parent),
            **self._prompt_tags(),
        }
        found = self._client.search_runs(
            [self.experiment_id],
            f"tags.`{PARENT_TAG}` = '{self.run_id}' and attributes.run_name = '{name}'",
            max_results=1,
        )
        if found:
            run_id = str(found[0].info.run_id)
            self._client.update_run(run_id, status="RUNNING")
            self._client.log_batch(run_id, tags=[RunTag(k, v) for k, v in tags.items()])
        else:
            run_id = self._start(name, tags)
        self._children[name] = run_id
        return run_id

    def _register(
        self, name: str, run_id: str, checkpoint: ArtifactRef, folder: Path | None
    ) -> None:
        """A LoggedModel and a version of it in the registry, under the alias ``name``."""
        registered = self._config.name
        try:
            self._client.create_registered_model(registered)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        versions = self._client.search_model_versions(
            f"name = '{registered}' and tags.`{SHA256_TAG}` = '{checkpoint.sha256}'"
        )
        tags = {SHA256_TAG: checkpoint.sha256, "sage.model": name}
        if versions:
            version = versions[0]
        else:
            params = {"base": self._config.model.base}
            if folder is None:
                logged = mlflow.create_external_model(
                    name=name,
                    source_run_id=run_id,
                    tags=tags,
                    params=params,
                    experiment_id=self.experiment_id,
                )
            else:
                logged = mlflow.initialize_logged_model(
                    name=name,
                    source_run_id=run_id,
                    tags=tags,
                    params=params,
                    experiment_id=self.experiment_id,
                )
                self._client.log_model_artifacts(logged.model_id, str(folder))
                mlflow.finalize_logged_model(logged.model_id, "READY")
            version = self._client.create_model_version(
                registered,
                source=f"models:/{logged.model_id}",
                run_id=run_id,
                model_id=logged.model_id,
                tags=tags,
            )
        self._client.set_registered_model_alias(registered, name, version.version)
        self.versions[name] = version

    def _log_input(self, run_id: str, name: str, data: ArtifactRef) -> None:
        path = next(store().folder(data).glob("*.parquet"))
        dataset = mlflow.data.from_pandas(
            pd.read_parquet(path), name=f"{name}-training", digest=data.sha256[:8]
        )
        with mlflow.start_run(run_id=run_id):
            mlflow.log_input(dataset, context="training")

    def _log_table(self, table: pd.DataFrame, name: str) -> None:
        self._client.log_table(self.run_id, table, artifact_file=name)


def _sample_dialogues(dialogues: Mapping[str, Sequence[Trajectory]]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "situation": each.situation_id,
            "model": model,
            "turn": number,
            "role": turn.role,
            "utterance": utterance_of(turn.content) if turn.role == "assistant" else turn.content,
            "content": turn.content,
        }
        for model, trajectories in dialogues.items()
        for each in trajectories
        for number, turn in enumerate(each.turns)
    )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _params(values: Mapping[str, Any]) -> list[Param]:
    return [Param(key, str(value)[:6000]) for key, value in values.items()]


def _git_commit() -> str:
    """The commit of the code that runs, or '' outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
