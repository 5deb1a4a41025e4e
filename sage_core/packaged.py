"""The one way to read a file that is packaged with the library.

Names are literals, so that :mod:`sage_core.steps.code` finds in the source which files a step
reads, and a changed file changes the step's key.
"""

from collections.abc import Mapping
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Template


def packaged(name: str) -> str:
    """The text of a file below the package, such as ``packaged("data/situations.jsonl")``."""
    return resources.files("sage_core").joinpath(name).read_text(encoding="utf-8")


def page_template(
    name: str, filters: Mapping[str, object], shared: Mapping[str, object]
) -> "Template":
    """A packaged HTML template, such as ``page_template("report.html.jinja", …)``, with the
    templates that it includes. Its macros see ``shared`` too; all values are escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("sage_core", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    environment.globals |= shared
    return environment.get_template(name)
