"""States for the utterances, by a model (section 4.2)."""

from dataclasses import dataclass
from pathlib import Path

from sage_core import annotation, labels
from sage_core.answers.tally import Tally
from sage_core.config.annotation import AnnotationConfig
from sage_core.config.engine import EngineConfig
from sage_core.config.model import ModelConfig
from sage_core.corpus.records import DIALOGUES
from sage_core.engines.base import Engine
from sage_core.schema import AnnotatedDialogue, Dialogue, ScoredDialogue, Situation
from sage_core.steps.base import Context, Model, Step
from sage_core.steps.names import ANSWERS, SAC, SCORES, SITUATION_SCORES, SITUATIONS
from sage_core.storage import ArtifactRef, read_rows, shards, write_json, write_rows


@dataclass(frozen=True, kw_only=True)
class _AnnotatorStep(Step):
    """What asks the annotator.

    Attributes:
        annotator: m0, unless the annotator is on a server of the user's.
    """

    retries = 1
    annotator: Model
    settings: AnnotationConfig
    model: ModelConfig
    seed: int

    @property
    def engines(self) -> tuple[EngineConfig, ...]:
        return (self.settings.engine,)

    def engine(self, context: Context) -> Engine:
        """The annotator's engine."""
        return context.engine(self.settings.engine, self.annotator, self.model)


@dataclass(frozen=True, kw_only=True)
class AnnotateShard(_AnnotatorStep):
    """States for the utterances of one shard of dialogues, or the scores of all listed values,
    among which only the whole corpus can choose."""

    name = "annotate-shard"
    dialogues: ArtifactRef
    shard: int

    def run(self, folder: Path, context: Context) -> None:
        settings, seed = self.settings, self.seed
        rows = read_rows(context.folder(self.dialogues) / DIALOGUES, Dialogue)
        part = shards(rows, settings.shard_size)[self.shard]
        tally = Tally()
        engine = self.engine(context)
        with context.progress(f"annotate shard {self.shard + 1}", len(part)) as advance:
            if settings.method == "score":
                scored = labels.score(part, engine, settings, seed, advance, tally)
                write_rows(folder / SCORES, scored, ScoredDialogue)
            else:
                annotated = annotation.annotate(part, engine, settings, seed, advance, tally)
                write_rows(folder / SAC, annotated, AnnotatedDialogue)
        tally.check_part(settings.max_unread_share, annotation.UNREAD)
        write_json(folder / ANSWERS, tally.as_dict())


@dataclass(frozen=True, kw_only=True)
class SituationScores(_AnnotatorStep):
    """How likely each emotion is after each situation, whoever is annotated."""

    name = "situation-scores"
    situations: ArtifactRef

    def run(self, folder: Path, context: Context) -> None:
        rows = read_rows(context.folder(self.situations) / SITUATIONS, Situation)
        scores = labels.score_situations(rows, self.engine(context), self.settings, self.seed)
        write_json(folder / SITUATION_SCORES, scores)
