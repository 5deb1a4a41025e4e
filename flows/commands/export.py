"""``sage export``: a model as a folder for transformers and vLLM, and onto a hub."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from flows.commands.options import AsJson, Overrides, Preset
from flows.commands.output import out, print_json

if TYPE_CHECKING:
    from sage_core.config.pipeline import PipelineConfig
    from sage_core.export import Exported
    from tasks.checkpoints import Checkpoint


def export(
    model: Annotated[
        str, typer.Argument(help="A model of the SAGE home (m0, raw, m1, ..., dpo) or its folder.")
    ],
    output: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    merged: Annotated[
        bool, typer.Option("--merged", help="Write the whole model instead of the adapter.")
    ] = False,
    push: Annotated[
        str | None, typer.Option(metavar="ORG/NAME", help="Also upload it to a private repository.")
    ] = None,
    preset: Preset = "demo",
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Write a model with its card to a folder that transformers, peft and vLLM load."""
    from flows import environment
    from flows.commands.folders import check_new, new_folder
    from sage_core.config.loading import load_config

    config = load_config(preset, overrides or ())
    environment.prepare(quiet=True)

    from sage_core import export as exporting
    from tasks import checkpoints

    check_new(output)
    token = exporting.check_push(push) if push else ""
    found = checkpoints.find(model, config.model)
    told = tell(found, config, merged=merged or found.adapter is None)
    with Console(stderr=True).status(f"exporting {found.name}"), new_folder(output) as folder:
        exporting.export(folder, found.base, found.adapter, config.model, told)
    address = exporting.push(output, push, token) if push else None
    result: dict[str, Any] = {
        "model": found.name,
        "folder": str(output),
        "merged": told.merged,
        "files": sorted(path.name for path in output.iterdir()),
        "pushed_to": address,
    }
    if as_json:
        print_json(result)
        return
    form = "whole model" if told.merged else f"adapter over {exporting.base_name(told.base)}"
    out.print(f"{found.name}, {form}: {output}", soft_wrap=True, highlight=False)
    if address:
        out.print(f"pushed to {address}", soft_wrap=True, highlight=False)


def tell(found: "Checkpoint", config: "PipelineConfig", *, merged: bool) -> "Exported":
    """What the home knows of a model: where it comes from, and how it did in the newest run that
    has judged it."""
    from sage_core.corpus.card import CARD as CORPUS_CARD
    from sage_core.export import Exported, Step
    from sage_core.steps.names import METRICS, WIN_RATES
    from sage_core.storage import read_json
    from tasks.lineage import ancestry, newest

    model = found.adapter or found.base
    steps, cards = [], []
    for folder, record in ancestry(model):
        hashes = [str(record.get(key, "")) for key in ("config_hash", "code_hash")]
        steps.append(
            Step(record["stage"], record["label"], hashes[0], hashes[1], record.get("seed"))
        )
        if record["stage"] == "corpus":
            cards.append((folder / CORPUS_CARD).read_text("utf-8"))
    figures, pairs = [], []
    for folder in newest("figures"):
        if any(path == model for path, _ in ancestry(folder)):
            figures = read_json(folder / METRICS)
            pairs = [
                pair
                for pair in read_json(folder / WIN_RATES)["pairs"]
                if found.name in (pair["model_a"], pair["model_b"])
            ]
            break
    return Exported(
        name=found.name,
        base=config.model.base,
        states=found.states,
        merged=merged,
        profile=config.conversation.agent,
        data_card=cards[0] if cards else "",
        lineage=tuple(steps),
        figures=figures,
        win_rates=pairs,
    )
