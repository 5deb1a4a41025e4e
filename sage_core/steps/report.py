"""The report."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pyarrow.parquet as pq

from sage_core.config.pipeline import PipelineConfig
from sage_core.corpus.records import DIALOGUES, FUNNEL
from sage_core.schema import Showing, Trajectory
from sage_core.steps.base import Context, Step
from sage_core.steps.names import (
    ANNOTATION,
    ANSWERS,
    JUDGEMENTS,
    PROBE,
    REPORT,
    RUN,
    SHOWINGS,
    STEERING,
    TRAJECTORIES,
)
from sage_core.steps.reading import (
    first_tree,
    read_benchmarks,
    read_classified,
    read_collapse,
    read_empathy,
    read_figures,
    read_judges,
    read_measurements,
    read_quality,
)
from sage_core.storage import ArtifactRef, read_json, read_rows, write_json
from sage_core.training.job import read_losses


@dataclass(frozen=True, kw_only=True)
class Report(Step):
    """The self-contained HTML report, and the run as JSON: its settings, and where its figures and
    conversations are, from which runs are compared.

    Attributes:
        calibrations: of the judges, against people.
        measured: each model's measurements, in the order of ``rollouts``.
        searches: by the model that searched.
        parents: model -> the model that it was trained from.
    """

    name = "report"
    config: PipelineConfig
    corpus: ArtifactRef
    dialogues: ArtifactRef
    annotated: ArtifactRef
    probe: ArtifactRef
    searches: dict[str, ArtifactRef]
    parents: dict[str, str]
    collapse: dict[str, ArtifactRef]
    checkpoints: dict[str, ArtifactRef]
    rollouts: dict[str, ArtifactRef]
    judgements: ArtifactRef
    calibrations: tuple[ArtifactRef, ...]
    figures: ArtifactRef
    measured: tuple[ArtifactRef, ...]
    quality: ArtifactRef
    steering: ArtifactRef | None
    benchmarks: ArtifactRef | None = None
    empathy: dict[str, ArtifactRef] = field(default_factory=dict)
    classified: tuple[ArtifactRef, ...] = ()

    @property
    def _asked(self) -> tuple[ArtifactRef, ...]:
        """The artefacts that models were asked for, with how many answers were read."""
        played = (*self.searches.values(), *self.rollouts.values())
        return (self.annotated, *played, self.judgements, *self.calibrations)

    def run(self, folder: Path, context: Context) -> None:
        from sage_core.evaluation import report, rows, summary  # import matplotlib and scipy
        from sage_core.evaluation.winrate import read_judgements
        from sage_core.search.figures import search_figures

        at = context.folder

        def trajectories_of(ref: ArtifactRef) -> list[Trajectory]:
            return read_rows(at(ref) / TRAJECTORIES, Trajectory)

        win_rates, metrics = read_figures(at(self.figures))
        searched = {name: trajectories_of(ref) for name, ref in self.searches.items()}
        rollouts = {name: trajectories_of(ref) for name, ref in self.rollouts.items()}
        data = summary.report_data(
            self.config,
            funnel=read_json(at(self.corpus) / FUNNEL),
            dialogues=pq.read_metadata(at(self.dialogues) / DIALOGUES).num_rows,
            annotation=read_json(at(self.annotated) / ANNOTATION),
            probe=read_json(at(self.probe) / PROBE),
            searches=[
                search_figures(name, searched[name], read_rows(at(ref) / SHOWINGS, Showing))
                for name, ref in self.searches.items()
            ],
            search_tree=first_tree(at(next(iter(self.searches.values())))),
            parents=self.parents,
            collapse={name: read_collapse(at(ref)) for name, ref in self.collapse.items()},
            losses={name: read_losses(at(ref)) for name, ref in self.checkpoints.items()},
            rollouts=rollouts,
            win_rates=win_rates,
            judges=read_judges(at(self.figures)),
            answers=[read_json(at(ref) / ANSWERS) for ref in self._asked],
            metrics=metrics,
            quality=read_quality(at(self.quality)),
            steering=read_json(at(self.steering) / STEERING) if self.steering else None,
            benchmarks=read_benchmarks(at(self.benchmarks)) if self.benchmarks else None,
            empathy=[read_empathy(at(ref)) for ref in self.empathy.values()],
            classified=[read_classified(at(ref)) for ref in self.classified],
        )
        judgements = read_judgements(at(self.judgements) / JUDGEMENTS)
        measured = [read_measurements(at(ref)) for ref in self.measured]
        data = replace(data, rows=rows.of_run(data, judgements, rollouts, measured, searched))
        (folder / REPORT).write_text(report.render_report(data), encoding="utf-8")
        write_json(
            folder / RUN,
            {
                "config": self.config.model_dump(mode="json"),
                "models": list(self.rollouts),
                "judgements": asdict(self.judgements),
                "figures": asdict(self.figures),
                "quality": asdict(self.quality),
                "measured": [asdict(ref) for ref in self.measured],
                "rollouts": {name: asdict(ref) for name, ref in self.rollouts.items()},
            },
        )
