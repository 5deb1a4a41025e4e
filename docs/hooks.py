"""MkDocs hooks: the pages that are made from the code, and links that work in both places.

The README, the contributing guide, the changelog and the benchmark tables become pages of the site.
Links between Markdown files are written for the repository; here they are translated. The markers
``<!-- generated: ... -->`` are replaced by references made from the code itself.
"""

import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from sage_core.named import Registry

ROOT = Path(__file__).parents[1]
_PLACES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
_LINK = re.compile(r"\]\((?P<target>[^)#:\s]+)(?P<anchor>#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are not in ``docs/``."""
    from mkdocs.structure.files import File

    for source in (*_PLACES, *_benchmarks()):
        files.append(
            File.generated(config, site_path(source), content=(ROOT / source).read_text("utf-8"))
        )
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Fill in the references and translate links."""
    for name, make in GENERATED.items():
        marker = f"<!-- generated: {name} -->"
        if marker in markdown:
            markdown = markdown.replace(marker, make())
    here = {site_path(source): source for source in (*_PLACES, *_benchmarks())}
    source = here.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return _LINK.sub(lambda link: translated(link, source), markdown)


def site_path(source: str) -> str:
    """Where a file of the repository is on the site; other files keep their path."""
    if source in _PLACES:
        return _PLACES[source]
    if source.startswith("benchmarks/results/"):
        return f"benchmarks/{posixpath.basename(source)}"
    return source.removeprefix("docs/")


def configuration() -> str:
    """Every key of the configuration, its values, its default and what it means."""
    from sage_core.config import PipelineConfig

    lines = []
    seen: dict[type[BaseModel], str] = {}
    for path, section in list(_sections(PipelineConfig, "", seen)):
        title = f"`{path}`" if path else "Top level"
        kind = f" of kind {_kind(section)}" if _kind(section) else ""
        lines += [
            f"## {title}{kind} {{#{_anchor(seen[section])}}}",
            "",
            _text(section.__doc__ or ""),
            "",
        ]
        lines += ["| key | values | default | meaning |", "| --- | --- | --- | --- |"]
        lines += [_row(path, name, field, seen) for name, field in section.model_fields.items()]
        lines.append("")
    return "\n".join(lines)


def command_line() -> str:
    """Every command with its options, from the commands' own help."""
    from typer.main import get_command

    from flows.cli import app

    lines = []
    for name, command in commands(get_command(app)):
        context = command.make_context(name, [], resilient_parsing=True)
        usage = command.collect_usage_pieces(context)
        lines += [f"## {name}", "", _text(command.help or ""), ""]
        lines += ["```", " ".join([name, *usage]), "```", ""]
        records = [param.get_help_record(context) for param in command.get_params(context)]
        lines += ["| option | meaning |", "| --- | --- |"]
        lines += [f"| `{about[0]}` | {_text(about[1])} |" for about in records if about]
        lines.append("")
    return "\n".join(lines)


def commands(command: Any, name: str = "sage") -> Iterator[tuple[str, Any]]:
    """The commands of a command line with their full names, in the order of its help."""
    if not hasattr(command, "commands"):
        yield name, command
        return
    for part, below in command.commands.items():
        yield from commands(below, f"{name} {part}")


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The configuration sections that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return list(dict.fromkeys(m for part in get_args(annotation) for m in models_in(part)))


GENERATED = {"configuration": configuration, "command line": command_line}


def _benchmarks() -> list[str]:
    return [f"benchmarks/results/{p.name}" for p in sorted((ROOT / "benchmarks/results").glob("*"))]


def translated(link: re.Match[str], source: str) -> str:
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link["target"]))
    here = posixpath.dirname(site_path(source)) or "."
    return f"]({posixpath.relpath(site_path(target), here)}{link['anchor'] or ''})"


def _sections(
    section: type[BaseModel], path: str, seen: dict[type[BaseModel], str]
) -> Iterator[tuple[str, type[BaseModel]]]:
    """The section and those below it, each once, with the path where it comes first; a section of
    a union has the path of the others, and its kind beside it in ``seen``."""
    seen[section] = f"{path} {_kind(section)}".strip()
    yield path, section
    for name, field in section.model_fields.items():
        for model in models_in(field.annotation):
            if model not in seen:
                yield from _sections(model, f"{path}.{name}".lstrip("."), seen)


def _kind(section: type[BaseModel]) -> str:
    """What tells a section of a union from the others."""
    kind = section.model_fields.get("kind")
    return _values(kind.annotation).replace("text", "your own") if kind else ""


def _row(path: str, name: str, field: Any, seen: dict[type[BaseModel], str]) -> str:
    below = models_in(field.annotation)
    links = " or ".join(
        f"[{_kind(model) or 'section'}](#{_anchor(seen[model])})" for model in below
    )
    names = (each.choices for each in field.metadata if isinstance(each, Registry))
    values = links or f"`{next(names, None) or _values(field.annotation)}`"
    bounds = [
        f"{sign} {value}"
        for bound in field.metadata
        for sign, key in ((">", "gt"), ("≥", "ge"), ("<", "lt"), ("≤", "le"))
        if (value := getattr(bound, key, None)) is not None
    ]
    default = "required" if field.is_required() else f"`{_shown(field.get_default())}`"
    if below and default == "`{}`":
        default = ""
    key = f"{path}.{name}".lstrip(".")
    meaning = _text(field.description or (below[0].__doc__ if len(below) == 1 else "") or "")
    return f"| `{key}` | {' '.join([values, *bounds])} | {default} | {meaning} |"


def _values(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(map(str, parts))
    if origin is tuple:
        return f"list of {_values(parts[0])}"
    if origin is Union or type(annotation).__name__ == "UnionType":
        return " or ".join(_values(part) for part in parts)
    if hasattr(annotation, "__metadata__"):
        return _values(parts[0])
    names = {
        "NoneType": "null",
        "str": "text",
        "Path": "path",
        "bool": "true, false",
        "dict": "mapping",
    }
    name = getattr(annotation, "__name__", str(annotation))
    return names.get(name, name)


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value or '""'
    return json.dumps(value, default=_plain, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_defaults=True)
    return str(value)


def _anchor(path: str) -> str:
    return re.sub(r"\W+", "-", path) or "top-level"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _text(text: str) -> str:
    """Plain text as Markdown: roles of the docstrings become code, and nothing is read as HTML."""
    plain = re.sub(r":\w+:`~?([^`]*)`", r"`\1`", " ".join(text.split())).replace("``", "`")
    return _cell(plain.replace("<", "&lt;").replace("*", "\\*").replace("[", "\\["))
