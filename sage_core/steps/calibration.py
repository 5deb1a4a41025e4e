"""Judges against the preferences of people."""

from dataclasses import asdict, dataclass
from pathlib import Path

from sage_core.answers.tally import Tally
from sage_core.config.engine import EngineConfig
from sage_core.config.evaluation import JudgeConfig
from sage_core.config.model import ModelConfig
from sage_core.evaluation import judge
from sage_core.evaluation.human import read_human
from sage_core.evaluation.prompts import PROMPTS
from sage_core.named import Named
from sage_core.schema import Judgement
from sage_core.steps.base import Context, Model, Step
from sage_core.steps.names import ANSWERS, CALIBRATION, JUDGEMENTS
from sage_core.storage import write_json, write_rows


@dataclass(frozen=True, kw_only=True)
class CalibrateJudge(Step):
    """One judge's verdicts on conversations that people compared, and its agreement with them.

    Attributes:
        source: the hash of the file's content.
        items: how many are judged; 0 = all.
        judge: m0, unless the judge is on a server of the user's.
    """

    name = "calibrate-judge"
    retries = 1
    path: Path
    source: str
    items: int
    judge: Model
    settings: JudgeConfig
    model: ModelConfig
    seed: int

    @property
    def engines(self) -> tuple[EngineConfig, ...]:
        return (self.settings.engine,)

    @property
    def named(self) -> tuple[Named, ...]:
        return PROMPTS.resolve(self.settings.prompt)

    def run(self, folder: Path, context: Context) -> None:
        from sage_core.evaluation.calibration import SIDES, calibration, drawn  # import scipy

        human = read_human(self.path)
        items = drawn(human, self.items, self.seed)
        engine = context.engine(self.settings.engine, self.judge, self.model)
        first, second = [item.a for item in items], [item.b for item in items]
        tally = Tally()
        with context.progress(f"calibrate {self.settings.name}", 2 * len(items)) as advance:
            judgements = judge.judge_pair(
                *SIDES, first, second, engine, self.settings, self.seed, advance, tally
            )
        tally.check_part(self.settings.max_unread_share, judge.UNREAD)
        write_json(folder / ANSWERS, tally.as_dict())
        write_rows(folder / JUDGEMENTS, judgements, Judgement)
        found = calibration(self.settings.name, human, items, judgements)
        write_json(folder / CALIBRATION, asdict(found))
