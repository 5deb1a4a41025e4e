"""Judges against the preferences of people."""

from dataclasses import asdict, dataclass
from pathlib import Path

from sage_core.config.engine import EngineConfig
from sage_core.evaluation.human import read_human
from sage_core.named import Named
from sage_core.steps.base import Context, Model, Step
from sage_core.steps.judged import Judge
from sage_core.steps.names import CALIBRATION
from sage_core.storage import write_json


@dataclass(frozen=True, kw_only=True)
class CalibrateJudge(Step):
    """One judge's verdicts on conversations that people compared, and its agreement with them.

    Attributes:
        source: the hash of the file's content.
        items: how many are judged; 0 = all.
    """

    name = "calibrate-judge"
    retries = 1
    path: Path
    source: str
    items: int
    m0: Model
    judge: Judge
    seed: int

    @property
    def engines(self) -> tuple[EngineConfig, ...]:
        return self.judge.engines

    @property
    def named(self) -> tuple[Named, ...]:
        return self.judge.named

    def run(self, folder: Path, context: Context) -> None:
        from sage_core.evaluation.calibration import SIDES, calibration, drawn  # import scipy

        human = read_human(self.path)
        items = drawn(human, self.items, self.seed)
        first, second = [item.a for item in items], [item.b for item in items]
        name = self.judge.settings.name
        judgements = self.judge.compare(
            SIDES, first, second, context, self.m0, self.seed, f"calibrate {name}", folder
        )
        write_json(folder / CALIBRATION, asdict(calibration(name, human, items, judgements)))
