"""The import rules: the library knows neither the orchestrator nor the tracker."""

import ast
import subprocess
import sys
from collections.abc import Iterator
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


def test_the_library_imports_nothing_above_it() -> None:
    assert importers("sage_core", "prefect", "mlflow", "tasks", "flows") == {}


def test_tracking_is_the_only_importer_of_mlflow() -> None:
    assert importers("tasks", "mlflow") == {"tasks/tracking.py": {"mlflow"}}
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
