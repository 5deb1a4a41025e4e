"""The registered models: which version is the champion, what became of every challenger.

The alias ``champion`` is the model in use. The registered model's tag ``sage.champions`` has all
champions in order, so that one can be taken back. Decisions are in :mod:`tasks.decisions`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

from sage_core.config.loading import validate_config
from sage_core.config.pipeline import PipelineConfig
from sage_core.errors import ConfigError
from tasks import decisions
from tasks.tracking import CONFIG, PARENT_TAG, SHA256_TAG
from tasks.tracking_store import connect, tracking_uri

CHAMPION = "champion"
CANDIDATE = "candidate"
_HISTORY = "sage.champions"
_KEPT = 100  # champions that the history names; MLflow limits the length of a tag
_BENCHMARK = "benchmark."  # how the metrics of benchmarks are named


@dataclass(frozen=True)
class Version:
    """A version of a registered model.

    Attributes:
        sha256: the hash of its artefact in the SAGE home.
        run_id: the MLflow run of the model.
        model: what its run called it: m0, raw, m1, ..., dpo, challenger, candidate.
    """

    registered: str
    version: str
    sha256: str
    run_id: str
    model: str

    def __str__(self) -> str:
        return f"version {self.version} of {self.registered}"


class Registry:
    """The versions of one registered model; call its methods with the home held.

    Args:
        name: the registered model; '' for the only one that there is.

    Raises:
        ConfigError: there is none of that name, or several and no name is given.
    """

    def __init__(self, name: str = "") -> None:
        self._client = connect()
        names = sorted(model.name for model in self._client.search_registered_models())
        if (name and name not in names) or (not name and len(names) != 1):
            found = ", ".join(names) or "none yet; `sage run` registers its models"
            which = f"'{name}' is not a registered model" if name else "name the registered model"
            raise ConfigError(f"{which} of {tracking_uri()}; models there are: {found}")
        self.name = name or names[0]

    def find(self, reference: str) -> Version:
        """The version that an alias (dpo, candidate, champion, ...) or a number names.

        Raises:
            ConfigError: there is none.
        """
        aliases = self._aliases()
        number = aliases.get(reference, reference)
        try:
            found = self._client.get_model_version(self.name, number)
        except MlflowException as error:
            if error.error_code not in (
                ErrorCode.Name(RESOURCE_DOES_NOT_EXIST), "INVALID_PARAMETER_VALUE",
            ):  # fmt: skip
                raise
            raise ConfigError(
                f"'{reference}' is not a version or alias of '{self.name}'; aliases there are: "
                f"{', '.join(sorted(aliases)) or 'none'}"
            ) from None
        tags = found.tags
        return Version(
            self.name, str(found.version), tags[SHA256_TAG], found.run_id, tags["sage.model"]
        )

    def champion(self) -> Version:
        """
        Raises:
            ConfigError: no version is the champion.
        """
        if CHAMPION not in self._aliases():
            raise ConfigError(
                f"'{self.name}' has no champion yet; make one of its models the first with "
                "`sage promote dpo`"
            )
        return self.find(CHAMPION)

    def promote(self, version: Version, reason: str) -> Version | None:
        """Make a version the champion; returns the champion before, if there was another."""
        before = self.champions()
        if before and before[-1] == version.version:
            return None
        self._crown(version, [*before, version.version])
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._client.set_model_version_tag(
            self.name, version.version, "sage.promoted", f"{now}: {reason}"
        )
        self.withdraw(version.version)
        return self.find(before[-1]) if before else None

    def rollback(self) -> tuple[Version, Version]:
        """Make the champion before the champion again; returns it and the one that was taken back.

        Raises:
            ConfigError: there was no other one before.
        """
        champions = self.champions()
        if len(champions) < 2:
            raise ConfigError(f"'{self.name}' has had no other champion; nothing can be taken back")
        back, withdrawn = self.find(champions[-2]), self.find(champions[-1])
        self._crown(back, champions[:-1])
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._client.set_model_version_tag(
            self.name, withdrawn.version, "sage.rolled_back", f"{now}: to version {back.version}"
        )
        return back, withdrawn

    def offer(self, version: Version) -> None:
        """Give a version that passed the gate the alias ``candidate``, for a person to decide."""
        self._client.set_registered_model_alias(self.name, CANDIDATE, version.version)

    def withdraw(self, version: str) -> None:
        """Take the alias ``candidate`` from a version, by its number, if it has it."""
        if self._aliases().get(CANDIDATE) == version:
            self._client.delete_registered_model_alias(self.name, CANDIDATE)

    def config(self, version: Version) -> PipelineConfig:
        """The configuration of the run that made a version.

        Raises:
            ConfigError: its run recorded none.
        """
        run = self._client.get_run(version.run_id)
        parent = run.data.tags.get(PARENT_TAG, version.run_id)
        try:
            tree: dict[str, Any] = json.loads(self._text(parent, CONFIG))
        except MlflowException:
            raise ConfigError(
                f"the run of {version} has no {CONFIG}: it is older than retraining. Run the "
                "pipeline once more with the same settings, and promote its model"
            ) from None
        return validate_config(tree)

    def benchmarks(self, champion: Version, challenger: Version) -> dict[str, tuple[float, float]]:
        """The scores of both in each benchmark that was run for both: the metrics
        ``benchmark.TASK`` of their runs, without those of a longer name, such as standard errors.
        """
        one, two = (
            {
                name.removeprefix(_BENCHMARK): value
                for name, value in self._client.get_run(each.run_id).data.metrics.items()
                if name.startswith(_BENCHMARK) and name.count(".") == 1
            }
            for each in (champion, challenger)
        )
        return {name: (one[name], two[name]) for name in sorted(one.keys() & two.keys())}

    def decisions(self) -> list[dict[str, Any]]:
        """The records of all decisions, in order."""
        return sorted((record for _, record in self._decisions()), key=lambda each: each["round"])

    def decide_again(self, record: Mapping[str, Any], check: Mapping[str, Any]) -> None:
        """Replace the record of a round by one with a new outcome and one more check."""
        (run_id,) = [run for run, each in self._decisions() if each["round"] == record["round"]]
        decisions.write(self._client, run_id, self.name, record, [check])

    def _decisions(self) -> list[tuple[str, dict[str, Any]]]:
        experiment = self._client.get_experiment_by_name(self.name)
        if experiment is None:
            return []
        return list(decisions.read(self._client, experiment.experiment_id))

    def hashes(self) -> set[str]:
        """The artefacts of all versions."""
        versions = self._client.search_model_versions(f"name = '{self.name}'")
        return {version.tags[SHA256_TAG] for version in versions if SHA256_TAG in version.tags}

    def _crown(self, version: Version, champions: list[str]) -> None:
        self._client.set_registered_model_alias(self.name, CHAMPION, version.version)
        self._client.set_registered_model_tag(self.name, _HISTORY, json.dumps(champions[-_KEPT:]))

    def champions(self) -> list[str]:
        """The versions of all champions in order; the last one is the champion, whoever gave it the
        alias."""
        model = self._client.get_registered_model(self.name)
        history: list[str] = json.loads(model.tags.get(_HISTORY, "[]"))
        current = self._aliases().get(CHAMPION)
        return history if current is None or history[-1:] == [current] else [*history, current]

    def _aliases(self) -> Mapping[str, str]:
        aliases = self._client.get_registered_model(self.name).aliases
        return {name: str(version) for name, version in dict(aliases).items()}

    def _text(self, run_id: str, name: str) -> str:
        return str(mlflow.artifacts.load_text(f"runs:/{run_id}/{name}"))


def registered_models() -> list[str]:
    """The names of all registered models."""
    return sorted(model.name for model in connect().search_registered_models())
