"""``sage plan``: what a run will cost, before it is started and without its model."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table

from flows.commands.options import AsJson, Overrides, Preset
from flows.commands.output import print_json

if TYPE_CHECKING:
    from sage_core.config.pipeline import PipelineConfig
    from sage_core.planning import StagePlan
    from tasks.usage import Used


_WIDTH = 110  # of the table with the longest names of stages


def plan(
    preset: Preset = "demo",
    overrides: Overrides = None,
    used: Annotated[
        bool,
        typer.Option("--used", help="Also show what the last finished run of SAGE_HOME used."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Estimate tokens, GPU-hours, memory, disk and API prices of each stage, with formulas.

    The model is neither loaded nor needed. Assumptions, such as lengths and the GPU, are settings:
    --set plan.gpu=A100-80GB
    """
    from sage_core import planning
    from sage_core.config.loading import load_config

    config = load_config(preset, overrides or ())
    stages = planning.plan(config)
    found: dict[tuple[str, str], Used] | None = None
    if used:
        from tasks.usage import last_run

        found = last_run()
    result = as_dict(config, stages, found)
    if as_json:
        print_json(result)
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
    from sage_core.planning.sizes import model_size, parameters

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
    told_of = [row["used"] for row in rows if row.get("used")]
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
            **(
                {"used": {key: sum(each[key] for each in told_of) for key in ("read", "written")}}
                if used is not None
                else {}
            ),
        },
    }


def _table(result: Mapping[str, Any], preset: str) -> Table:
    model, gpu, total = result["model"], result["assumed"]["gpu"], result["total"]
    size = f"{model['parameters'] / 1e9:.3g} billion parameters"
    if model["active_parameters"] != model["parameters"]:
        size += f", {model['active_parameters'] / 1e9:.3g} active"
    price = f"; {total['gpu_usd']:,.0f} USD of GPU-hours" if total["gpu_usd"] is not None else ""
    table = Table(
        title=f"sage plan: {preset}, {model['base']} ({size}) on {gpu['name']}{price}",
        box=box.SIMPLE_HEAD,
        show_footer=True,
        collapse_padding=True,
        pad_edge=False,
    )
    more = "" if total["api_usd_complete"] else " + ?"
    columns = {
        "stage": ("total", _name),
        "tokens\nread": (_count(total["read"]), lambda stage: _count(stage["read"])),
        "tokens\nwritten": (_count(total["written"]), lambda stage: _count(stage["written"])),
        "tokens\ntrained": (_count(total["trained"]), lambda stage: _count(stage["trained"])),
        "GPU-\nhours": (_number(total["gpu_hours"]), lambda stage: _number(stage["gpu_hours"])),
        "GPUs\nx GB": ("", _memory),
        "disk,\nGB": (_number(total["disk_gb"]), lambda stage: _number(stage["disk_gb"])),
        "API,\nUSD": (f"{total['api_usd']:,.2f}{more}", _price),
    }
    if "used" in total:
        columns |= {
            f"last run\n{key}": (_count(total["used"][key]), partial(_used, key=key))
            for key in ("read", "written")
        }
    for heading, (footer, _) in columns.items():
        justify: JustifyMethod = "left" if heading == "stage" else "right"
        table.add_column(heading, footer, justify=justify, no_wrap=True)
    for stage in result["stages"]:
        table.add_row(*(cell(stage) for _, cell in columns.values()))
    return table


def _memory(stage: Mapping[str, Any]) -> str:
    if stage["gpus"] is None:
        return f"[red]too few: {stage['memory_gb']:.0f}[/]"
    return f"{stage['gpus']} x {stage['memory_gb']:.1f}" if stage["gpus"] else ""


def _price(stage: Mapping[str, Any]) -> str:
    return "?" if stage["api_usd"] is None else _number(stage["api_usd"])


def _used(stage: Mapping[str, Any], key: str) -> str:
    return _count(stage["used"][key]) if stage["used"] else ""


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
