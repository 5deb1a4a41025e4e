"""No pickle is loaded, no code of a model folder is run, and no server listens where others are."""

import ast
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import sage

from flows.commands.chat_key import COOKIE, VARIABLE, KeyRequired, key_for
from sage_core.errors import ConfigError, EngineError

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path
    for folder in ("sage_core", "tasks", "flows", "benchmarks", "examples", "deployments")
    for path in (ROOT / folder).rglob("*.py")
)
PICKLES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
# Calls that unpickle; `load` of json, yaml.safe_load and the like are none of them.
UNPICKLING = {"torch.load", "torch.save", "pd.read_pickle", "yaml.load", "np.save"}
KEY = "a key of the page 1"


def calls(nodes: list[ast.AST]) -> Iterator[tuple[str, ast.Call]]:
    """Every call with its name, such as ``torch.load``."""
    for node in nodes:
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def modules(nodes: list[ast.AST]) -> set[str]:
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def keywords(call: ast.Call) -> dict[str, str]:
    return {word.arg: ast.unparse(word.value) for word in call.keywords if word.arg}


def risks(path: Path) -> list[str]:
    """What in a file reads a pickle, or may run code of a model folder."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    found = [f"imports {name}" for name in sorted(PICKLES & modules(nodes))]
    for name, call in calls(nodes):
        given = keywords(call)
        where = f"line {call.lineno}: {name}"
        if name in UNPICKLING or given.get("allow_pickle") == "True":
            found.append(f"{where} reads or writes a pickle")
        if given.get("trust_remote_code", "False") != "False":
            found.append(f"{where} runs code of a model folder")
        auto = re.fullmatch(r"(Auto\w+)\.from_(pretrained|config)", name)
        if auto and "trust_remote_code" not in given:
            # Left out, transformers asks on the terminal, and runs the code after a "y".
            found.append(f"{where} leaves trust_remote_code out")
        weights = bool(auto) and name.startswith("AutoModel") and name.endswith("_pretrained")
        if weights and given.get("use_safetensors") != "True" and "gguf_file" not in given:
            found.append(f"{where} takes *.bin, a pickle, where there is no *.safetensors")
    return found


# Models of a configuration that this code has written itself.
OWN_MODELS = {
    "sage_core/training/lora_targets.py",
    "benchmarks/models.py",
    "benchmarks/small_models.py",
}


def test_nothing_of_ours_reads_a_pickle_or_runs_code_of_a_model() -> None:
    found = {
        name: risks(path)
        for path in FILES
        if (name := str(path.relative_to(ROOT))) not in OWN_MODELS
    }
    assert not {name: faults for name, faults in found.items() if faults}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "torch.load('x', weights_only=True)",
        "np.load('x', allow_pickle=True)",
        "AutoTokenizer.from_pretrained('x')",
        "AutoTokenizer.from_pretrained('x', trust_remote_code=trust)",
        "AutoModel.from_pretrained('x', trust_remote_code=False)",
    ],
)
def test_each_risk_is_seen(line: str, tmp_path: Path) -> None:
    (tmp_path / "file.py").write_text(line)
    assert len(risks(tmp_path / "file.py")) == 1


def test_results_of_prefect_are_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings.models.root import Settings

    from flows import environment

    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    monkeypatch.setattr(os, "environ", {**kept, "SAGE_HOME": str(tmp_path)})
    environment.prepare(quiet=False)
    name = "PREFECT_RESULTS_DEFAULT_SERIALIZER"
    assert os.environ[name] == "json"
    monkeypatch.undo()
    monkeypatch.setenv(name, "json")
    assert Settings().results.default_serializer == "json"


def test_weights_in_a_pickle_are_refused(tiny_base: Path, tmp_path: Path) -> None:
    """A folder with `pytorch_model.bin` only: refused by its names before anything is opened."""
    import shutil

    from sage_core.config.model import ModelConfig
    from sage_core.engines.loading import check_weights, load_model

    folder = tmp_path / "base"
    shutil.copytree(tiny_base, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="safetensors"):
        check_weights(str(folder))
    with pytest.raises(EngineError, match="safetensors"):
        load_model(folder, ModelConfig(device="cpu"))


def test_code_in_a_model_folder_is_not_run(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is anybody asked, not even where there is a terminal to answer on."""
    import shutil

    from sage_core.config.model import ModelConfig
    from sage_core.engines.loading import load_model

    folder, mark = tmp_path / "base", tmp_path / "it-ran"
    shutil.copytree(tiny_base, folder)
    (folder / "modeling_own.py").write_text(f"open({str(mark)!r}, 'w')\n")
    config = json.loads((folder / "config.json").read_text())
    own = {"AutoConfig": "modeling_own.Config", "AutoModelForCausalLM": "modeling_own.Model"}
    config |= {"model_type": "of-its-own", "auto_map": own}
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("builtins.input", lambda _: "y")
    with pytest.raises(EngineError, match="transformers can build"):
        load_model(folder, ModelConfig(device="cpu"))
    assert not mark.exists()


def test_every_server_of_ours_listens_on_loopback() -> None:
    """`0.0.0.0` and `::` are in no code; commands of servers name their host."""
    everywhere = re.compile(r"""["']?(0\.0\.0\.0|::)["']""")
    found = [path for path in FILES if everywhere.search(path.read_text(encoding="utf-8"))]
    assert found == []
    for name in ("flows/commands/ui_servers.py", "sage_core/engines/vllm_server.py"):
        tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
        lists = (node for node in ast.walk(tree) if isinstance(node, ast.List | ast.Tuple))
        hosts = []
        for items in ([ast.unparse(item) for item in node.elts] for node in lists):
            hosts += [items[at + 1] for at, item in enumerate(items) if item == "'--host'"]
        assert hosts, name
        assert set(hosts) <= {"HOST", "'127.0.0.1'"}, name
        assert "HOST" not in hosts or 'HOST = "127.0.0.1"' in (ROOT / name).read_text()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_the_page_needs_no_key_on_loopback(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert key_for(host) == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "chat.example.org"])
@pytest.mark.parametrize("key", ["", "short"])
def test_the_page_is_refused_elsewhere_without_a_key(
    host: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, key)
    with pytest.raises(ConfigError, match=VARIABLE) as error:
        key_for(host)
    assert host in str(error.value)
    monkeypatch.setenv(VARIABLE, "k" * 16)
    assert key_for(host) == "k" * 16


@pytest.fixture
def page() -> Any:
    """A page and a web socket behind the key, asked by Starlette's own client."""
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route, WebSocketRoute
    from starlette.testclient import TestClient
    from starlette.websockets import WebSocket

    async def shown(request: Any) -> Any:
        return PlainTextResponse("the conversation")

    async def spoken(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text("a turn")
        await socket.close()

    app = Starlette(routes=[Route("/", shown), WebSocketRoute("/socket", spoken)])
    app.add_middleware(KeyRequired, key=KEY)
    return TestClient(app)


@pytest.mark.parametrize("query", ["", "?key=", "?key=wrong", "?key=%C3%A9"])
def test_a_stranger_sees_nothing(page: Any, query: str) -> None:
    from starlette.websockets import WebSocketDisconnect

    answer = page.get(f"/{query}")
    assert answer.status_code == 401
    assert "conversation" not in answer.text
    page.cookies.set(COOKIE, "wrong")
    assert page.get("/").status_code == 401
    with pytest.raises(WebSocketDisconnect), page.websocket_connect("/socket"):
        pass


def test_who_knows_the_key_sees_the_page_and_its_socket(page: Any) -> None:
    answer = page.get("/", params={"key": KEY})
    assert answer.text == "the conversation"
    assert "key" not in str(answer.url)  # the key does not stay in the address
    assert KEY not in str(page.cookies)
    with page.websocket_connect("/socket") as socket:
        assert socket.receive_text() == "a turn"


def test_the_command_refuses_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nicegui", reason="the extra 'chat' is not installed")
    monkeypatch.delenv(VARIABLE, raising=False)
    done = sage("chat", "--web", "--host", "0.0.0.0", "--model", "m0", home=tmp_path)
    assert done.returncode == 2
    assert VARIABLE in done.stderr
