"""Which abilities a model has kept (section 5, Table 2)."""

from dataclasses import asdict, dataclass
from pathlib import Path

from sage_core.config.benchmarks import BenchmarksConfig
from sage_core.config.engine import EngineConfig
from sage_core.config.model import ModelConfig
from sage_core.evaluation.benchmarks import BENCHMARKS
from sage_core.named import Named
from sage_core.schema import BenchmarkDocument
from sage_core.steps.base import Context, Model, Step
from sage_core.steps.names import BENCHMARK, DOCUMENTS
from sage_core.storage import write_json, write_rows


@dataclass(frozen=True, kw_only=True)
class Benchmark(Step):
    """One model on one benchmark.

    Attributes:
        source: the hash of the benchmark's files; '' = from the hub.
        harness: the version of lm-eval.
    """

    name = "benchmark"
    retries = 1
    agent: Model
    task: str
    settings: BenchmarksConfig
    model: ModelConfig
    source: str
    harness: str

    @property
    def engines(self) -> tuple[EngineConfig, ...]:
        return (self.settings.engine,)

    @property
    def named(self) -> tuple[Named, ...]:
        return BENCHMARKS.resolve(self.task)

    def run(self, folder: Path, context: Context) -> None:
        from sage_core.evaluation.benchmarks import files, harness  # imports lm-eval
        from sage_core.evaluation.benchmarks.models import language_model

        settings, benchmark = self.settings, BENCHMARKS.load(self.task)
        prepared = None
        if settings.source == "local":
            located = files.locate(settings, self.task, benchmark, harness.parts(benchmark))
            prepared = files.prepare(benchmark, located, context.work / "data")
        engine = context.engine(settings.engine, self.agent, self.model)
        base = context.folder(self.agent.base)
        with (
            context.progress(f"benchmark {self.agent.name} {self.task}", 1) as advance,
            language_model(engine, base, settings.batch_size, self.model.max_context) as model,
        ):
            scores, documents = harness.evaluate(
                benchmark,
                prepared,
                model,
                self.agent.name,
                settings.limit,
                context.work / "tasks",
            )
            advance(1)
        write_rows(folder / DOCUMENTS, documents, BenchmarkDocument)
        write_json(
            folder / BENCHMARK,
            {
                "model": self.agent.name,
                "title": benchmark.title,
                "shown": benchmark.metric,
                "licence": benchmark.licence,
                "scores": [asdict(score) for score in scores],
                "notes": list(prepared.notes if prepared else ()),
            },
        )
