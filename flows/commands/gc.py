"""``sage gc``: removes what nobody needs any more."""

from typing import Annotated

import typer

from flows.commands.options import AsJson, Wait
from flows.commands.output import out, print_json


def gc(
    days: Annotated[float, typer.Option(min=0, help="Keep what was made in the last days.")] = 30,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it, not only show it.")] = False,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Show what no registered model or recent run needs; --yes removes it."""
    from flows import environment
    from tasks import home

    with home.held(wait=wait):
        environment.prepare(quiet=True)
        from tasks import garbage

        found = garbage.find(days)
        if not as_json:
            for each in found:
                out.print(
                    f"{each.bytes / 1e6:10.1f} MB  {each.path}  [dim]{each.why}[/]",
                    highlight=False, soft_wrap=True,
                )  # fmt: skip
        for each in found if yes else []:
            garbage.remove(each)
    total = sum(each.bytes for each in found)
    if as_json:
        rows = [{"path": str(e.path), "bytes": e.bytes, "why": e.why} for e in found]
        print_json({"removed": yes, "bytes": total, "found": rows})
    elif not found:
        out.print("nothing to remove")
    else:
        done = "removed" if yes else "to remove; `sage gc --yes` removes them"
        out.print(f"{len(found)} folders, {total / 1e6:.1f} MB {done}")
