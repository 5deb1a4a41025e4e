"""The annotated dialogues of all shards (section 4.2)."""

from dataclasses import asdict, dataclass
from pathlib import Path

from sage_core import labels
from sage_core.config.annotation import AnnotationConfig
from sage_core.schema import AnnotatedDialogue, ScoredDialogue
from sage_core.steps.base import Context, Step
from sage_core.steps.names import ANNOTATION, SAC, SCORES, SITUATION_SCORES
from sage_core.steps.tables import join_answers, rows_of
from sage_core.storage import ArtifactRef, read_json, write_json, write_rows


@dataclass(frozen=True, kw_only=True)
class AnnotatedDialogues(Step):
    """All annotated dialogues, and what can be said of their states.

    Attributes:
        situations: the scores of the situations, where the emotions are compared with those.
    """

    name = "annotated-dialogues"
    parts: tuple[ArtifactRef, ...]
    situations: ArtifactRef | None
    settings: AnnotationConfig

    def run(self, folder: Path, context: Context) -> None:
        from sage_core.evaluation.annotations import annotation_figures  # imports scipy

        if self.settings.method == "score":
            scored = rows_of(context, self.parts, SCORES, ScoredDialogue)
            compared = None
            if self.situations:
                compared = read_json(context.folder(self.situations) / SITUATION_SCORES)
            rows = labels.pick(scored, self.settings, compared)
        else:
            rows = rows_of(context, self.parts, SAC, AnnotatedDialogue)
        annotated = [row for row in rows if row.turns]
        figures = annotation_figures(annotated, left_out=len(rows) - len(annotated))
        write_rows(folder / SAC, annotated, AnnotatedDialogue)
        join_answers(context, self.parts, folder)
        write_json(folder / ANNOTATION, asdict(figures))
