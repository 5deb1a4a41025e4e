"""Finished runs: finding their reports, and reading back what is compared of them."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from sage_core.config.loading import validate_config
from sage_core.config.pipeline import PipelineConfig
from sage_core.errors import ConfigError
from sage_core.steps.names import REPORT, RUN
from sage_core.steps.reading import read_figures, read_measurements, read_quality
from sage_core.storage import ArtifactRef, ArtifactStore, read_json
from tasks import usage
from tasks.home import store
from tasks.lineage import newest

if TYPE_CHECKING:
    from sage_core.evaluation.comparison import FinishedRun

_STAGE = "report"
_KEY = re.compile(r"[0-9a-f]{4,}")


@dataclass(frozen=True)
class RecordedRun:
    """A finished run: the folder of its report, and what it recorded of itself."""

    folder: Path
    record: dict[str, Any]

    @property
    def store(self) -> ArtifactStore:
        """The store that its artefacts are in."""
        return ArtifactStore(self.folder.parents[1])

    @property
    def config(self) -> PipelineConfig:
        return validate_config(self.record["config"])

    @property
    def models(self) -> list[str]:
        """Its models, in the order of their making."""
        return list(self.record["models"])

    def artifact(self, name: str) -> Path:
        """The folder of one of its artefacts, such as ``figures``."""
        return self.store.folder(ArtifactRef(**self.record[name]))

    def rollouts(self, model: str) -> ArtifactRef:
        """The evaluation conversations of a model, as an artefact that any home can refer to.

        Raises:
            ConfigError: the run has no such model.
        """
        found = self.record["rollouts"]
        if model not in found:
            raise ConfigError(
                f"the run '{self.folder}' has no model '{model}'; its models are {', '.join(found)}"
            )
        ref = ArtifactRef(**found[model])
        if self.store.root == store().root:
            return ref
        return ArtifactRef(str(self.store.folder(ref)), ref.sha256, ref.bytes)


def finished() -> list[RecordedRun]:
    """The finished runs of the home that can be compared, the last one first."""
    return [
        RecordedRun(folder, read_json(folder / RUN))
        for folder in newest(_STAGE)
        if (folder / RUN).is_file()
    ]


def find(reference: str) -> RecordedRun:
    """The run ``reference``: the start of its report's key, ``last``, the folder of a report, or
    another home, whose last run it is.

    Raises:
        ConfigError: there is no such run, several, or one that recorded too little.
    """
    path = Path(reference)
    if path.name == REPORT:
        path = path.parent
    if (path / REPORT).is_file():
        return _recorded(path.resolve())
    if (path / "artifacts").is_dir():
        reports = sorted(
            (path / "artifacts" / _STAGE).glob(f"*/{REPORT}"), key=lambda each: each.stat().st_mtime
        )
        if not reports:
            raise ConfigError(f"the home '{reference}' has no finished run; run `sage run` there")
        return _recorded(reports[-1].parent.resolve())
    keys = {folder.name: folder for folder in newest(_STAGE)}
    if reference == "last" and keys:
        return _recorded(next(iter(keys.values())))
    found = [key for key in keys if _KEY.fullmatch(reference) and key.startswith(reference)]
    if len(found) == 1:
        return _recorded(keys[found[0]])
    problem = f"is the start of {len(found)} keys" if found else "is not a run"
    raise ConfigError(
        f"'{reference}' {problem} of '{store().root.parent}', and no folder of a report; runs "
        f"there are: {', '.join(keys) or 'none yet, see `sage run`'}. Give one of these (four "
        "characters or more), 'last', the folder of a report, or another SAGE home"
    )


def _recorded(folder: Path) -> RecordedRun:
    if not (folder / RUN).is_file():
        raise ConfigError(
            f"the report '{folder}' has no {RUN}: a version of SAGE made it that could not compare "
            "runs; start `sage run` with its settings again, which makes the report anew and keeps "
            "the stages that are finished"
        )
    return RecordedRun(folder, read_json(folder / RUN))


def read(run: RecordedRun, name: str) -> "FinishedRun":
    """What is compared of a run that is called ``name``."""
    from sage_core.config.differences import run_name
    from sage_core.evaluation.comparison import Cost, FinishedRun  # import scipy
    from sage_core.evaluation.winrate import PairSummary

    win_rates, _ = read_figures(run.artifact("figures"))
    costs: dict[str, Cost] = {}
    for (stage, _), used in usage.of_run(run.folder).items():
        before = costs.get(stage, Cost(0.0, 0, 0))
        costs[stage] = Cost(
            before.seconds + used.seconds, before.read + used.read, before.written + used.written
        )
    return FinishedRun(
        name=name,
        title=run_name(run.config),
        place=str(run.folder),
        config=run.config,
        summaries=tuple(TypeAdapter(list[PairSummary]).validate_python(win_rates["pairs"])),
        quality=read_quality(run.artifact("quality")),
        measured=tuple(
            read_measurements(run.store.folder(ArtifactRef(**ref)))
            for ref in run.record["measured"]
        ),
        costs=costs,
    )
