"""The code and the packaged files that a module can reach, and their hash.

The import graph is read from the source, nothing is imported for it: imports anywhere in a module
count, those under ``if TYPE_CHECKING`` do not. An imported module brings the ``__init__`` of its
packages. Edges lead to modules of ``sage_core`` and of the first module's own package.

What cannot change a result changes no hash: comments, formatting, docstrings, the declarations of
configuration fields, whose values are in the keys of the steps that are given them, and the tables
of registries: what a step takes from one is in its key (:attr:`sage_core.steps.base.Step.named`).
"""

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from sys import modules

from sage_core.errors import ConfigError
from sage_core.named import Named, search_here

_PACKAGE = "sage_core"
_SECTION = "Section"  # the last word of the base classes of the configuration's sections
_CONSTANT = "ClassVar"  # of a class, not a setting
_REGISTRY = "Registry"  # the class of the tables of names
_TEMPLATES = "templates/"
_READS_FILE, _READS_TEMPLATE = "packaged", "page_template"  # of sage_core.packaged


@dataclass(frozen=True)
class Source:
    """What one module or packaged file contributes: its normalised text, and where it leads."""

    text: str
    modules: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


def code_hash(*roots: str) -> str:
    """SHA-256 of all that the modules ``roots`` can reach, themselves included."""
    reached = reach(*roots)
    texts = (f"{name}\0{reached[name].text}" for name in sorted(reached))
    return sha256("\0".join(texts).encode()).hexdigest()


def own_code(named: Iterable[Named]) -> dict[str, str]:
    """What is the user's own of ``named``, with the hash of its code."""
    return {each.name: code_hash(each.module) for each in named if each.own}


def reach(*roots: str) -> dict[str, Source]:
    """The modules and packaged files that ``roots`` can reach, by name; a file's has its folder.

    Raises:
        ConfigError: there is no module of the name of a root.
        ValueError: a module names a packaged file by other than a literal.
    """
    packages = frozenset({_PACKAGE, *(root.partition(".")[0] for root in roots)})
    found: dict[str, Source] = {}
    open_ = list(roots)
    while open_:
        name = open_.pop()
        if name not in found:
            found[name] = _file(name) if "/" in name else _module(name, packages)
            open_ += [*found[name].modules, *found[name].files]
    return found


def read_source(path: Path) -> str:
    """The text of a source file; all that is hashed is read through here."""
    return path.read_text(encoding="utf-8")


def locate(module: str) -> Path | None:
    """The file of a module, found without importing it; None: there is none of that name."""
    top, *parts = module.split(".")
    root = _root(top)
    if root is None or root.name != "__init__.py":
        return root if not parts else None
    path = root.parent.joinpath(*parts)
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py")
                 if file.is_file()), None) if parts else root  # fmt: skip


@cache
def _root(top: str) -> Path | None:
    if top == "__main__":  # a script that has steps of its own
        return Path(str(modules[top].__file__))
    search_here()
    spec = find_spec(top)
    return Path(spec.origin) if spec and spec.origin and spec.has_location else None


@cache
def _module(name: str, packages: frozenset[str]) -> Source:
    path = locate(name)
    if path is None:
        raise ConfigError(
            f"there is no module '{name}'; its folder has to be on PYTHONPATH, or the working "
            "directory"
        )
    if path.suffix != ".py":  # compiled, of a user's own
        return Source(sha256(path.read_bytes()).hexdigest())
    tree = _Normalised().visit(ast.parse(read_source(path)))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = [
        each
        for node in ast.walk(tree)
        for each in _imported(node, package)
        if each.partition(".")[0] in packages
    ]
    known = {module for each in found if (module := _existing(each))}
    parents = {parent for module in {*known, name} for parent in _parents(module)}
    return Source(
        ast.unparse(tree),
        tuple(sorted((known | parents) - {name})),
        tuple(sorted({file for node in ast.walk(tree) for file in _files(node, name)})),
    )


@cache
def _file(name: str) -> Source:
    root = locate(_PACKAGE)
    assert root is not None
    text = read_source(root.parent / name)
    if not name.endswith(".html.jinja"):
        return Source(text)
    from jinja2 import Environment, meta

    included = meta.find_referenced_templates(Environment(autoescape=True).parse(text))
    return Source(text, files=tuple(sorted(f"{_TEMPLATES}{each}" for each in included if each)))


class _Normalised(ast.NodeTransformer):
    """Drops what cannot change a result."""

    def visit(self, node: ast.AST) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
            if isinstance(node, ast.ClassDef) and _is_section(node):
                body = [each for each in body if not _is_field(each)]
            node.body = body or [ast.Pass()]
        if isinstance(node, ast.Call) and ast.unparse(node.func) == _REGISTRY:
            node.args, node.keywords = [], []
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            node.body = [ast.Pass()]
        return node


def _is_section(node: ast.ClassDef) -> bool:
    return any(isinstance(base, ast.Name) and base.id.endswith(_SECTION) for base in node.bases)


def _is_field(node: ast.AST) -> bool:
    return isinstance(node, ast.AnnAssign) and not ast.unparse(node.annotation).startswith(
        _CONSTANT
    )


def _imported(node: ast.AST, package: str) -> Iterator[str]:
    """The names that a statement imports, which may be modules or what is in them."""
    if isinstance(node, ast.Import):
        yield from (each.name for each in node.names)
    elif isinstance(node, ast.ImportFrom):
        parts = package.split(".")[: 1 - node.level or None] if node.level else []
        source = ".".join([*parts, *filter(None, [node.module])])
        yield source
        yield from (f"{source}.{each.name}" for each in node.names)


def _existing(name: str) -> str | None:
    return name if locate(name) else None


def _parents(module: str) -> Iterator[str]:
    """The packages that a module is in."""
    while module := module.rpartition(".")[0]:
        yield module


def _files(node: ast.AST, module: str) -> Iterator[str]:
    """The packaged files that a call reads."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name | ast.Attribute):
        return
    called = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
    if called not in (_READS_FILE, _READS_TEMPLATE) or not node.args:
        return
    (name, *_) = node.args
    if not isinstance(name, ast.Constant) or not isinstance(name.value, str):
        raise ValueError(f"{module}: {called}() takes the name of its file as a literal")
    yield f"{_TEMPLATES}{name.value}" if called == _READS_TEMPLATE else name.value
