"""What one process of a training does: all of it, or its part among those of `accelerate launch`.

    python -m sage_core.training.worker TASK.json

A :class:`Task` is what a launched process is told, as JSON and Parquet in the work folder.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sage_core.engines.loading import load_tokenizer
from sage_core.errors import SageError
from sage_core.execution import note
from sage_core.named import load, path_of
from sage_core.storage import read_json, read_rows, write_json, write_rows
from sage_core.training import adapters, processes
from sage_core.training.job import Job, Progress
from sage_core.training.method import Example, Given, Method, Training
from sage_core.training.tokens import Encoder

TASK = "task.json"
STEP = "@sage-step"  # opens the lines that report a step
_EXAMPLES = "examples.parquet"
_ERROR = "error-{}.json"  # of each process


def train_here(
    method: Method[Example, Given],
    folder: Path,
    job: Job,
    examples: Sequence[Example],
    settings: Given,
    work: Path | None,
    on_step: Progress,
) -> None:
    """Train in this process; see :func:`sage_core.training.launch.train`."""
    tokenizer: Any = load_tokenizer(job.base)
    encoder = Encoder(tokenizer)
    usable = method.fitting(examples, settings, encoder.length)
    with TemporaryDirectory() as scratch:
        kept = work or Path(scratch)
        from sage_core.training.self_test import passes_of
        from sage_core.training.trainers import trainer_of  # imports TRL, which takes seconds

        training = Training.of(method, usable, settings, encoder)
        model = adapters.start(job)
        passes = passes_of(model.get_base_model(), tokenizer, job.training)
        trainer = trainer_of(
            method, training, model, tokenizer, job, kept, on_step, packed=passes.packed
        )
        note("training", str(passes))
        trainer.fit(kept)
        trainer.finish(folder, kept, usable, str(passes))
    if processes.is_main():
        adapters.write_lineage(folder, job, method.name, examples)


@dataclass(frozen=True)
class Task:
    """A training as all its processes are told it.

    Attributes:
        folder: to be filled with the checkpoint.
        work: keeps checkpoints, and the files of this task.
    """

    method: Method[Any, Any]
    folder: Path
    job: Job
    examples: Sequence[Any]
    settings: Any
    work: Path

    def write(self) -> Path:
        """Write it into its work folder; returns the file to start processes on.

        Raises:
            ConfigError: another process cannot import the method.
        """
        write_rows(self.work / _EXAMPLES, self.examples, self.method.example)
        spec = {
            "method": path_of(type(self.method)),
            "folder": str(self.folder.resolve()),
            "settings": self.settings.model_dump(mode="json"),
            "job": self.job.as_json(),
        }
        write_json(self.work / TASK, spec)
        for old in self.work.glob(_ERROR.format("*")):
            old.unlink()
        return self.work / TASK

    @classmethod
    def read(cls, path: Path) -> "Task":
        """The task that :meth:`write` wrote."""
        spec, work = read_json(path), path.parent
        method: Method[Any, Any] = load(spec["method"])()
        return cls(
            method,
            Path(spec["folder"]),
            Job.of_json(spec["job"]),
            read_rows(work / _EXAMPLES, method.example),
            method.settings.model_validate(spec["settings"]),
            work,
        )


def errors_in(work: Path) -> list[dict[str, str]]:
    """``type`` and ``message`` of what processes raised on purpose, by their rank."""
    return [read_json(path) for path in sorted(work.glob(_ERROR.format("*")))]


def main(path: Path) -> None:
    """Take part in the training that ``path`` describes."""
    try:
        task = Task.read(path)
        train_here(
            task.method, task.folder, task.job, task.examples, task.settings, task.work, _say
        )
    except SageError as error:
        record = {"type": type(error).__name__, "message": str(error)}
        write_json(path.parent / _ERROR.format(processes.rank()), record)
        sys.exit(2)


def _say(step: int, steps: int) -> None:
    print(STEP, step, steps, flush=True)  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]))
