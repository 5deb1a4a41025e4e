"""Asking one judge, as the steps that need verdicts do it."""

from collections.abc import Sequence
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
from sage_core.steps.base import Context, Model
from sage_core.steps.names import ANSWERS, JUDGEMENTS
from sage_core.storage import write_json, write_rows


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A judge in use: m0, unless its engine is a server of the user's.

    Attributes:
        question: the text that its prompt stands for, so that the key counts it wherever it is
            kept.
        model: the settings of m0.
    """

    settings: JudgeConfig
    question: str
    model: ModelConfig

    @property
    def engines(self) -> tuple[EngineConfig, ...]:
        return (self.settings.engine,)

    @property
    def named(self) -> tuple[Named, ...]:
        return PROMPTS.resolve(self.settings.prompt)

    def compare(
        self,
        names: tuple[str, str],
        first: Sequence[Trajectory],
        second: Sequence[Trajectory],
        context: Context,
        m0: Model,
        seed: int,
        title: str,
        folder: Path,
    ) -> list[Judgement]:
        """Verdicts on two models' conversations, written into ``folder`` with how many answers were
        read.

        Raises:
            AnswersError: hopelessly few answers were read.
        """
        engine = context.engine(self.settings.engine, m0, self.model)
        tally = Tally()
        with context.progress(title, 2 * len(first)) as advance:
            judgements = judge.judge_pair(
                *names, first, second, engine, self.settings, seed, advance, tally, self.question
            )
        tally.check_part(self.settings.max_unread_share, judge.UNREAD)
        write_json(folder / ANSWERS, tally.as_dict())
        write_rows(folder / JUDGEMENTS, judgements, Judgement)
        return judgements
