"""What all benchmarks share: rows with targets, peak memory, the table, the exit code."""

import multiprocessing
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
_SAMPLE_S = 0.05


@dataclass(frozen=True)
class Row:
    """One measurement: what, its value and the baseline's, and whether the target is met."""

    what: str
    value: str
    baseline: str
    ratio: str
    target: str
    met: bool


@dataclass
class Benchmark:
    """Collects rows and ends with a table, one summary line and an exit code; ``note`` says below
    the table how to read it."""

    name: str
    note: str = ""
    rows: list[Row] = field(default_factory=list)
    console: Console = field(default_factory=lambda: Console(width=160))

    def add(self, what: str, value: str, baseline: str, ratio: str, target: str, met: bool) -> None:
        self.rows.append(Row(what, value, baseline, ratio, target, met))
        self.console.print(
            f"{'ok  ' if met else 'MISS'}  {what}: {value}  {ratio}", highlight=False
        )

    def finish(self) -> None:
        """Print the table, write it to ``benchmarks/results`` and exit: 0 if all targets are met,
        else 1."""
        headings = ("what", "value", "baseline", "ratio", "target", "met")
        table = Table(*headings, title=f"{self.name}: {machine()}")
        lines = [f"# {self.name}", "", f"{machine()}.", ""]
        lines += ["| " + " | ".join(headings) + " |", "| --- | ---: | ---: | ---: | ---: | --- |"]
        for row in self.rows:
            cells = (row.what, row.value, row.baseline, row.ratio, row.target, _met(row))
            table.add_row(*cells)
            lines.append("| " + " | ".join(cells) + " |")
        missed = [row.what for row in self.rows if not row.met]
        summary = f"{len(self.rows) - len(missed)} of {len(self.rows)} targets met"
        summary += f"; missed: {', '.join(missed)}" if missed else ""
        RESULTS.mkdir(exist_ok=True)
        notes = [self.note, ""] if self.note else []
        text = "\n".join([*lines, "", *notes, f"{summary}.", ""])
        (RESULTS / f"{self.name}.md").write_text(text, encoding="utf-8")
        self.console.print(table)
        if self.note:
            self.console.print(self.note, highlight=False)
        self.console.print(summary, highlight=False)
        sys.exit(1 if missed else 0)


def machine() -> str:
    """The machine in words: cores, memory, Python."""
    memory = psutil.virtual_memory().total / 2**30
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores, {memory:.0f} GiB, no GPU, Python {platform.python_version()}"


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a call in a fresh process, so that no measurement warms up the next."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """A list that holds, at the end, the most memory (MB, resident) that this process and its
    children held together; shared pages count in each."""
    peak = [0.0]
    done = threading.Event()

    def watch() -> None:
        me = psutil.Process()
        while not done.wait(_SAMPLE_S):
            total = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.Error:
                    continue
            peak[0] = max(peak[0], total / 1e6)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Seconds that a call took, and its result."""
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def _met(row: Row) -> str:
    return "yes" if row.met else "NO"
