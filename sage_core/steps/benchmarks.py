"""All models' benchmarks in one table (Table 2)."""

from dataclasses import asdict, dataclass
from pathlib import Path

from sage_core.schema import BenchmarkDocument
from sage_core.steps.base import Context, Step
from sage_core.steps.names import BENCHMARKS, DOCUMENTS
from sage_core.steps.reading import read_benchmark
from sage_core.storage import ArtifactRef, write_json, write_rows


@dataclass(frozen=True, kw_only=True)
class Benchmarks(Step):
    """The figures of all models, in the order of their making, with the changes against
    ``baseline``, and all documents' values.

    Attributes:
        parts: of each model and benchmark.
        limit: documents of each benchmark that were asked; 0 = all.
        left_out: benchmark -> why it was not run.
    """

    name = "benchmarks"
    parts: tuple[ArtifactRef, ...]
    baseline: str
    limit: int
    left_out: dict[str, str]

    def run(self, folder: Path, context: Context) -> None:
        from sage_core.evaluation.benchmarks.compare import changes  # imports scipy

        scored = [read_benchmark(context.folder(ref)) for ref in self.parts]
        first = {each.title: each for each in reversed(scored)}
        documents = [row for each in scored for row in each.documents]
        write_rows(folder / DOCUMENTS, documents, BenchmarkDocument)
        write_json(
            folder / BENCHMARKS,
            {
                "baseline": self.baseline,
                "limit": self.limit,
                "left_out": self.left_out,
                "models": list(dict.fromkeys(each.model for each in scored)),
                "tasks": [
                    {
                        "task": each.scores[0].task,
                        "title": each.title,
                        "shown": each.shown,
                        "licence": each.licence,
                        "notes": each.notes,
                    }
                    for each in (first[title] for title in dict.fromkeys(e.title for e in scored))
                ],
                "scores": [
                    {"model": each.model, **asdict(score)}
                    for each in scored
                    for score in each.scores
                ],
                "changes": [asdict(each) for each in changes(scored, self.baseline)],
            },
        )
