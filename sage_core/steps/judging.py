"""Pairwise judging (section 4.6)."""

from dataclasses import dataclass
from pathlib import Path

from sage_core.answers.tally import Tally
from sage_core.config.engine import EngineConfig
from sage_core.config.evaluation import JudgeConfig
from sage_core.config.model import ModelConfig
from sage_core.evaluation import judge
from sage_core.evaluation.prompts import PROMPTS
from sage_core.named import Named
from sage_core.schema import Judgement, Trajectory
from sage_core.steps.base import Context, Model, Step
from sage_core.steps.names import ANSWERS, JUDGEMENTS, TRAJECTORIES
from sage_core.storage import ArtifactRef, read_rows, write_json, write_rows


@dataclass(frozen=True, kw_only=True)
class JudgePair(Step):
    """One judge's verdicts on one pair of models, both orders, and how many answers were read.

    Attributes:
        judge: m0, unless the judge is on a server of the user's.
    """

    name = "judge-pair"
    retries = 1
    model_a: str
    model_b: str
    rollouts_a: ArtifactRef
    rollouts_b: ArtifactRef
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
        first = read_rows(context.folder(self.rollouts_a) / TRAJECTORIES, Trajectory)
        second = read_rows(context.folder(self.rollouts_b) / TRAJECTORIES, Trajectory)
        tally = Tally()
        engine = context.engine(self.settings.engine, self.judge, self.model)
        title = f"judge {self.model_a}-{self.model_b}"
        with context.progress(title, 2 * len(first)) as advance:
            judgements = judge.judge_pair(
                self.model_a, self.model_b, first, second, engine, self.settings, self.seed,
                advance, tally,
            )  # fmt: skip
        tally.check_part(self.settings.max_unread_share, judge.UNREAD)
        write_json(folder / ANSWERS, tally.as_dict())
        write_rows(folder / JUDGEMENTS, judgements, Judgement)
