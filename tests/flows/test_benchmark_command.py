"""`sage benchmark`: a model of the home on local files, alone and against another; on a server."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows import cli
from sage_core.schema import BenchmarkDocument
from sage_core.storage import read_json, read_rows

pytest.importorskip("lm_eval")

PIQA = [
    {"goal": f"open jar {number}", "sol1": "turn the lid", "sol2": "paint the lid", "label": 0}
    for number in range(4)
]
FIELDS = ["task", "metric", "value", "stderr", "n", "version", "split"]


class Completions(BaseHTTPRequestHandler):
    """A server of completions for which the token 0 is likely and every other one is not; it keeps
    the keys and the models that it was asked with."""

    asked: list[tuple[str, str]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((str(self.headers["Authorization"]), body["model"]))
        choices = []
        for index, tokens in enumerate(body["prompt"]):
            scores = [-float(token) for token in tokens] + [0.0]  # with the token that it wrote
            top = [{str(token): 0.0} for token in scores]
            logprobs = {"token_logprobs": scores, "top_logprobs": top}
            choices.append({"index": index, "text": "", "logprobs": logprobs})
        data = json.dumps({"choices": choices}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    asked: list[tuple[str, str]] = []
    handler = type("Handler", (Completions,), {"asked": asked})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_address[1]}/v1", asked
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture
def settings(tiny_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("SAGE_HOME", str(tiny_home))
    file = tmp_path / "piqa.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in PIQA))
    return [f"benchmarks.files={{piqa: {file}}}", "model.base=tiny", "model.dtype=float32"]


def run(model: str, output: Path, settings: list[str], *more: str) -> str:
    arguments = ["benchmark", model, "--output", str(output), "--preset", "tiny", *more,
                 *(part for each in settings for part in ("--set", each))]  # fmt: skip
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def test_a_checkpoint_against_m0(settings: list[str], tmp_path: Path) -> None:
    """An untrained adapter changes nothing: both models have the same values."""
    output = tmp_path / "out"
    text = run("m1", output, settings, "--tasks", "piqa", "--limit", "3", "--against", "m0",
               "--json")  # fmt: skip
    scores = json.loads(text[text.index("[\n") :])
    assert [list(each) for each in scores] == [FIELDS, FIELDS]
    assert [(each["metric"], each["n"]) for each in scores] == [("acc", 3), ("acc_norm", 3)]
    found = read_json(output / "benchmarks.json")
    assert found["models"] == ["m0", "m1"]
    assert [(each["model"], each["gained"], each["lost"], each["p_value"]) for each in
            found["changes"]] == [("m1", 0, 0, 1.0)] * 2  # fmt: skip
    rows = read_rows(output / "documents.parquet", BenchmarkDocument)
    assert len(rows) == 2 * 2 * 3
    again = run("m1", tmp_path / "again", settings, "--tasks", "piqa", "--limit", "3",
                "--against", "m0")  # fmt: skip
    assert "licence of the data: AFL 3.0" in again
    assert "4 documents in the file" in again


def test_a_server_is_asked_for_completions(
    settings: list[str],
    server: tuple[str, list[tuple[str, str]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address, asked = server
    monkeypatch.setenv("OUR_KEY", "secret-1")
    engine = {"kind": "openai", "server": "vllm", "base_url": address, "model": "served",
              "api_key_env": "OUR_KEY"}  # fmt: skip
    text = run("m0", tmp_path / "out", [*settings, f"benchmarks.engine={json.dumps(engine)}"],
               "--tasks", "piqa", "--json")  # fmt: skip
    assert set(asked) == {("Bearer secret-1", "served")}
    scores = json.loads(text[text.index("[\n") :])
    assert {each["n"] for each in scores} == {4}
    assert {each["value"] for each in scores} <= {0.0, 1.0}
