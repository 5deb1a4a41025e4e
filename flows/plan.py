"""``sage plan``: what a run will cost, before it is started and without its model."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from flows.options import AsJson, Overrides, Preset

if TYPE_CHECKING:
    from sage_core.config import PipelineConfig
    from sage_core.planning import StagePlan
    from tasks.usage import Used


_WIDTH = 110  # of the table with the longest names of stages


def plan(
    preset: Preset = "demo",
    overrides: Overrides = None,
    used: Annotated[
        bool,
        typer.Option("--used", help="Beside it, what the last finished run of SAGE_HOME used."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Tokens, GPU-hours, memory, disk and API prices of each stage, with their formulas.

    The model is neither loaded nor needed. What is assumed, such as lengths and the GPU, are the
    settings plan.*: --set plan.gpu=A100-80GB
    """
    from sage_core import planning
    from sage_core.config import load_config

    config = load_config(preset, overrides or ())
    stages = planning.plan(config)
    found: dict[tuple[str, str], Used] | None = None
    if used:
        from tasks.usage import last_run

        found = last_run()
    result = as_dict(config, stages, found)
    if as_json:
        print(json.dumps(result, indent=2, sort_keys=True))  # noqa: T201
        return
    out = Console()
    out.width = max(out.width, _WIDTH)
    out.print(_table(result, preset))
    for stage in result["stages"]:
        out.print(f"[bold]{_name(stage)}[/]", highlight=False)
        for what, formula in stage["formulas"].items():
            out.print(f"  {what}: {formula}", highlight=False, soft_wrap=True)


def as_dict(
    config: "PipelineConfig",
    stages: Sequence["StagePlan"],
    used: Mapping[tuple[str, str], "Used"] | None = None,
) -> dict[str, Any]:
    """The plan as JSON values, with its totals and what it assumes."""
    from sage_core.planning import model_size, parameters

    size, gpu = model_size(config.model, config.plan), config.plan.gpu
    rows = []
    for stage in stages:
        row = {**asdict(stage), "read": stage.read, "written": stage.written}
        row["uses"] = [
            {key: getattr(use, key) for key in ("role", "requests", "read", "written")}
            for use in stage.uses
        ]
        if used is not None:
            told = used.get((stage.stage, stage.label))
            row["used"] = asdict(told) if told else None
        rows.append(row)
    hours = sum(stage.gpu_hours for stage in stages)
    prices = [stage.api_usd for stage in stages]
    return {
        "model": {
            "base": config.model.base,
            "parameters": parameters(size),
            "active_parameters": parameters(size, active=True),
            **size.model_dump(),
        },
        "assumed": config.plan.model_dump(mode="json", exclude={"model"}),
        "stages": rows,
        "total": {
            **{
                key: sum(row[key] for row in rows)
                for key in ("read", "written", "trained", "disk_gb")
            },
            "gpu_hours": hours,
            "gpu_usd": hours * gpu.usd_per_hour if gpu.usd_per_hour else None,
            "memory_gb": max(stage.memory_gb for stage in stages),
            "api_usd": sum(price or 0.0 for price in prices),
            "api_usd_complete": all(price is not None for price in prices),
        },
    }


def _table(result: Mapping[str, Any], preset: str) -> Table:
    model, gpu, total = result["model"], result["assumed"]["gpu"], result["total"]
    size = f"{model['parameters'] / 1e9:.3g} billion parameters"
    if model["active_parameters"] != model["parameters"]:
        size += f", {model['active_parameters'] / 1e9:.3g} active"
    price = f"; {total['gpu_usd']:,.0f} USD of GPU-hours" if total["gpu_usd"] is not None else ""
    with_used = any("used" in stage for stage in result["stages"])
    headings = ["stage", "tokens read", "written"]
    headings += ["read by last run", "written"] if with_used else []
    headings += ["trained on", "GPU-hours", "GPUs x GB", "disk, GB", "API, USD"]
    table = Table(
        title=f"sage plan: {preset}, {model['base']} ({size}) on {gpu['name']}{price}",
        box=box.SIMPLE_HEAD,
        show_footer=True,
        collapse_padding=True,
        pad_edge=False,
    )
    footers = {
        "stage": "total",
        "tokens read": _count(total["read"]),
        "trained on": _count(total["trained"]),
        "GPU-hours": _number(total["gpu_hours"]),
        "disk, GB": _number(total["disk_gb"]),
        "API, USD": f"{total['api_usd']:,.2f}" + ("" if total["api_usd_complete"] else " + ?"),
    }
    for place, heading in enumerate(headings):
        footer = footers.get(heading, "")
        if place == 2:
            footer = _count(total["written"])
        table.add_column(heading, footer, justify="left" if place == 0 else "right", no_wrap=True)
    for stage in result["stages"]:
        cells = [_name(stage), _count(stage["read"]), _count(stage["written"])]
        if with_used:
            told = stage["used"] or {"read": 0, "written": 0}
            cells += [_count(told["read"]), _count(told["written"])]
        if stage["gpus"] is None:
            memory = f"[red]too few: {stage['memory_gb']:.0f}[/]"
        else:
            memory = f"{stage['gpus']} x {stage['memory_gb']:.1f}" if stage["gpus"] else ""
        cells += [
            _count(stage["trained"]),
            _number(stage["gpu_hours"]),
            memory,
            _number(stage["disk_gb"]),
            "?" if stage["api_usd"] is None else _number(stage["api_usd"]),
        ]
        table.add_row(*cells)
    return table


def _name(stage: Mapping[str, Any]) -> str:
    return f"{stage['stage']} {stage['label']}".strip()


def _count(value: float) -> str:
    """In full up to six digits, then in millions."""
    if value >= 1e6:
        return f"{value / 1e6:,.1f} M"
    return f"{value:,.0f}" if value else ""


def _number(value: float) -> str:
    if not value:
        return ""
    return f"{value:.2f}" if value >= 0.01 else "< 0.01"
