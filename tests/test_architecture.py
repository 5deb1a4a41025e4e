"""The import rules: the library knows neither the orchestrator nor the tracker."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports anywhere, inside functions and type checks too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            yield node.module or ""
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in ("__import__", "import_module", "importlib.import_module")
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            yield str(node.args[0].value)


def importers(package: str, *forbidden: str) -> dict[str, set[str]]:
    """File -> those of ``forbidden`` that it imports."""
    paths = sorted((ROOT / package).rglob("*.py"))
    assert paths, f"{package} has no modules"
    found = {
        path.relative_to(ROOT).as_posix(): {name.split(".")[0] for name in imports(path)}
        & set(forbidden)
        for path in paths
    }
    return {path: names for path, names in found.items() if names}


def modules() -> dict[str, Path]:
    """The modules of the library by name."""
    found = {}
    for path in (ROOT / "sage_core").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported_when_run(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(module, name in it or '') of all imports but those for type checks."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from ((name.name, "") for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", name.name) for name in node.names)
        yield from imported_when_run(node)


def test_imports_are_acyclic() -> None:
    """Those within functions too; a package counts where something is imported from it that is not
    one of its modules."""
    known = modules()
    graph: dict[str, set[str]] = {}
    for name, path in known.items():
        found = imported_when_run(ast.parse(path.read_text(encoding="utf-8")))
        targets = {f"{m}.{n}" if f"{m}.{n}" in known else m for m, n in found}
        graph[name] = targets & set(known)
    assert set(TopologicalSorter(graph).static_order()) == set(known)  # CycleError names a cycle


def test_the_library_imports_nothing_above_it() -> None:
    assert importers("sage_core", "prefect", "mlflow", "tasks", "flows") == {}


def test_tracking_and_registry_are_the_only_importers_of_mlflow() -> None:
    files = (
        "tasks/corpora.py",
        "tasks/decisions.py",
        "tasks/evaluations.py",
        "tasks/prompts.py",
        "tasks/registry.py",
        "tasks/tracked_dialogues.py",
        "tasks/tracking.py",
        "tasks/tracking_store.py",
        "tasks/watching.py",
    )
    assert importers("tasks", "mlflow") == {file: {"mlflow"} for file in files}
    assert importers("flows", "mlflow") == {}


def test_tasks_do_not_import_flows() -> None:
    assert importers("tasks", "flows") == {}


def test_the_checks_see_imports_inside_functions(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "def f():\n    import mlflow.entities\n    from prefect import flow\n"
        "    importlib.import_module('tasks.stages')\n"
    )
    assert sorted(imports(path)) == ["mlflow.entities", "prefect", "tasks.stages"]


def test_the_command_line_starts_without_heavy_libraries() -> None:
    code = (
        "import sys, flows.cli; "
        "print([m for m in ('torch', 'transformers', 'mlflow', 'prefect') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_what_runs_inside_the_server_needs_nothing_of_our_environment() -> None:
    """Its environment has torch, numpy and xgrammar; not all that ours has."""
    absent = ["pyarrow", "pydantic", "yaml", "peft", "openai"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent}));"
        "import sage_core.engines.served_states"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def imported_modules(path: Path, modules: set[str]) -> set[str]:
    """Those of ``modules`` that a file imports anywhere, unless for type checks only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    unused = {
        id(node)
        for check in ast.walk(tree)
        if isinstance(check, ast.If) and "TYPE_CHECKING" in ast.unparse(check.test)
        for part in check.body
        for node in ast.walk(part)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in unused:
            continue
        if isinstance(node, ast.Import):
            found.update(name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
            found.update(f"{node.module}.{name.name}" for name in node.names)
    return found & modules


def cycle(graph: dict[str, set[str]]) -> set[str]:
    """The nodes that are left when those without a way on are taken out one after the other."""
    left = dict(graph)
    while ends := [node for node, after in left.items() if not after & left.keys()]:
        for node in ends:
            del left[node]
    return set(left)


def test_the_modules_of_training_import_each_other_in_one_direction() -> None:
    folder = ROOT / "sage_core" / "training"
    paths = {f"sage_core.training.{path.stem}": path for path in folder.glob("[!_]*.py")}
    graph = {name: imported_modules(path, set(paths)) for name, path in paths.items()}
    assert graph["sage_core.training.worker"] >= {
        "sage_core.training.adapters",
        "sage_core.training.trainers",  # inside a function
    }
    assert cycle(graph) == set()


def test_the_check_for_cycles_sees_one() -> None:
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == {"a", "b", "c"}
