"""Reading back what steps wrote as JSON."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from sage_core.schema import BenchmarkDocument, SearchNode
from sage_core.steps.names import (
    BENCHMARK,
    BENCHMARKS,
    CLASSIFIED,
    COLLAPSE,
    DOCUMENTS,
    EMPATHY,
    JUDGES,
    MEASUREMENTS,
    METRICS,
    QUALITY,
    SEARCH_TREE,
    WIN_RATES,
)
from sage_core.storage import read_json, read_rows

if TYPE_CHECKING:
    from sage_core.evaluation.benchmarks.compare import Scored
    from sage_core.evaluation.classifiers import ClassifierFigures
    from sage_core.evaluation.judge_evidence import JudgeEvidence
    from sage_core.evaluation.quality import Measurements, Quality


def read_figures(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The win rates (with position bias) and the models' figures, as
    :class:`~sage_core.steps.figures.Figures` wrote them."""
    return read_json(folder / WIN_RATES), read_json(folder / METRICS)


def read_judges(folder: Path) -> "JudgeEvidence":
    """What is known of the judges, as :class:`~sage_core.steps.figures.Figures` wrote it."""
    from sage_core.evaluation.judge_evidence import read_evidence  # imports scipy

    return read_evidence(read_json(folder / JUDGES))


def read_collapse(folder: Path) -> dict[str, Any]:
    """The figures of a model and the gates it did not pass, as
    :class:`~sage_core.steps.collapse.CollapseMetrics` wrote them."""
    record: dict[str, Any] = read_json(folder / COLLAPSE)
    return record


def read_benchmark(folder: Path) -> "Scored":
    """One model on one benchmark, as :class:`~sage_core.steps.benchmark.Benchmark` wrote it."""
    from sage_core.evaluation.benchmarks.compare import Scored  # imports scipy

    record = read_json(folder / BENCHMARK)
    documents = read_rows(folder / DOCUMENTS, BenchmarkDocument)
    return TypeAdapter(Scored).validate_python({**record, "documents": documents})


def read_benchmarks(folder: Path) -> dict[str, Any]:
    """All models' benchmarks, as :class:`~sage_core.steps.benchmarks.Benchmarks` wrote them."""
    record: dict[str, Any] = read_json(folder / BENCHMARKS)
    return record


def read_empathy(folder: Path) -> dict[str, Any]:
    """What a model makes of emotions, as :class:`~sage_core.steps.empathy.Empathy` wrote it."""
    record: dict[str, Any] = read_json(folder / EMPATHY)
    return record


def read_classified(folder: Path) -> "ClassifierFigures":
    """What a classifier says of all models, as :class:`~sage_core.steps.classifying.Classify` wrote
    it."""
    from sage_core.evaluation.classifiers import ClassifierFigures  # imports scipy

    return TypeAdapter(ClassifierFigures).validate_python(read_json(folder / CLASSIFIED))


def read_measurements(folder: Path) -> "Measurements":
    """A model's measurements, as :class:`~sage_core.steps.measurements.Measurements` wrote them."""
    from sage_core.evaluation.quality import Measurements  # imports scipy

    return TypeAdapter(Measurements).validate_python(read_json(folder / MEASUREMENTS))


def read_quality(folder: Path) -> "Quality":
    """All models' figures, as :class:`~sage_core.steps.measurements.Quality` wrote them."""
    from sage_core.evaluation.quality import Quality  # imports scipy

    return TypeAdapter(Quality).validate_python(read_json(folder / QUALITY))


def first_tree(folder: Path) -> list[SearchNode]:
    """The search tree of a search's first dialogue."""
    nodes = read_rows(folder / SEARCH_TREE, SearchNode)
    return [node for node in nodes if node.trajectory_id == nodes[0].trajectory_id]
