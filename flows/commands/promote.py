"""``sage promote`` and ``sage rollback``: which registered model is the champion."""

from typing import Annotated

import typer

from flows.commands.options import AsJson, Wait
from flows.commands.output import out, print_json

Name = Annotated[str, typer.Option(help="The registered model; by default the only one.")]


def promote(
    model: Annotated[
        str, typer.Argument(help="An alias (candidate, dpo, m2, ...) or a version's number.")
    ] = "candidate",
    name: Name = "",
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Make a registered model the champion: the one that retraining starts from."""
    from flows import environment
    from tasks import home

    with home.held(wait=wait):
        environment.prepare(quiet=True)
        from tasks.registry import Registry

        registry = Registry(name)
        version = registry.find(model)
        before = registry.promote(version, "sage promote")
    if as_json:
        old = before.version if before else None
        print_json({"name": version.registered, "champion": version.version, "before": old})
    else:
        out.print(f"{version} is the champion{f'; before: {before}' if before else ''}")


def rollback(name: Name = "", wait: Wait = True, as_json: AsJson = False) -> None:
    """Make the champion before this one the champion again."""
    from flows import environment
    from tasks import home

    with home.held(wait=wait):
        environment.prepare(quiet=True)
        from tasks.registry import Registry

        back, withdrawn = Registry(name).rollback()
    if as_json:
        print_json(
            {"name": back.registered, "champion": back.version, "withdrawn": withdrawn.version}
        )
    else:
        out.print(f"{back} is the champion again; taken back: {withdrawn}")
