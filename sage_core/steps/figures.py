"""Win rates and the models' figures (section 4.6)."""

from dataclasses import asdict, dataclass
from pathlib import Path

from sage_core.schema import Trajectory
from sage_core.steps.base import Context, Step, writes_states
from sage_core.steps.names import JUDGEMENTS, METRICS, TRAJECTORIES, WIN_RATES
from sage_core.storage import ArtifactRef, read_rows, write_json


@dataclass(frozen=True, kw_only=True)
class Figures(Step):
    """The win-rate table and each model's figures, as JSON."""

    name = "figures"
    judgements: ArtifactRef
    rollouts: dict[str, ArtifactRef]
    bootstrap_samples: int
    seed: int

    def run(self, folder: Path, context: Context) -> None:
        from sage_core.evaluation import metrics, winrate  # import scipy

        rows = winrate.read_judgements(context.folder(self.judgements) / JUDGEMENTS)
        table = winrate.summarise(rows, bootstrap_samples=self.bootstrap_samples, seed=self.seed)
        bias = winrate.position_bias(rows)
        write_json(
            folder / WIN_RATES,
            {
                "pairs": [asdict(row) for row in table],
                "position_bias": {name: asdict(rate) for name, rate in bias.items()},
            },
        )
        models = [
            metrics.model_metrics(
                name,
                read_rows(context.folder(ref) / TRAJECTORIES, Trajectory),
                states=writes_states(name),
            )
            for name, ref in self.rollouts.items()
        ]
        write_json(folder / METRICS, [asdict(model) for model in models])
