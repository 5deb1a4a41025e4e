"""Win rates and the models' figures (section 4.6)."""

from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from sage_core.schema import Trajectory
from sage_core.steps.base import Context, Step, writes_states
from sage_core.steps.names import CALIBRATION, JUDGEMENTS, JUDGES, METRICS, TRAJECTORIES, WIN_RATES
from sage_core.storage import ArtifactRef, read_json, read_rows, write_json


@dataclass(frozen=True, kw_only=True)
class Figures(Step):
    """The win-rate table, what is known of the judges, and each model's figures, as JSON.

    Attributes:
        families: judge -> the family of its model; ``selector``: that of the selector.
        pairs: which pairs of models were to be judged, and the width of interval to be reached.
        calibrations: of the judges, against people.
    """

    name = "figures"
    judgements: ArtifactRef
    rollouts: dict[str, ArtifactRef]
    calibrations: tuple[ArtifactRef, ...]
    families: dict[str, str]
    selector: str
    pairs: str
    interval_width: float
    seed: int

    def run(self, folder: Path, context: Context) -> None:
        from sage_core.evaluation import (  # import scipy
            judge_evidence,
            metrics,
            tournament,
            winrate,
        )
        from sage_core.evaluation.calibration import Calibration
        from sage_core.evaluation.styles import styles_of

        rows = winrate.read_judgements(context.folder(self.judgements) / JUDGEMENTS)
        table = winrate.summarise(rows)
        bias = winrate.position_bias(rows)
        rollouts = {
            name: read_rows(context.folder(ref) / TRAJECTORIES, Trajectory)
            for name, ref in self.rollouts.items()
        }
        judged = list(dict.fromkeys((row.model_a, row.model_b) for row in table))
        situations = len({row.item_id for row in rows})
        design = tournament.design(
            self.pairs, self.interval_width, list(rollouts), judged, situations
        )
        write_json(
            folder / WIN_RATES,
            {
                "pairs": [asdict(row) for row in table],
                "position_bias": {name: asdict(rate) for name, rate in bias.items()},
                "design": asdict(design),
            },
        )
        calibrations = [
            TypeAdapter(Calibration).validate_python(read_json(context.folder(ref) / CALIBRATION))
            for ref in self.calibrations
        ]
        evidence = judge_evidence.judge_evidence(
            rows,
            table,
            {name: styles_of(played) for name, played in rollouts.items()},
            families=self.families,
            selector=self.selector,
            calibrations=calibrations,
            seed=self.seed,
        )
        write_json(folder / JUDGES, asdict(evidence))
        models = [
            metrics.model_metrics(name, played, states=writes_states(name))
            for name, played in rollouts.items()
        ]
        write_json(folder / METRICS, [asdict(model) for model in models])
