"""Keys stay out of all that is stored and printed, whatever a server or the client says."""

import json
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from command_line import sage
from tiny_run import ROOT, environment

MARK = "mArKeD"
SENT = f'sk-{MARK}/1"2\\3&4+5'  # escaped in JSON, in an address and in HTML
KEYS = {
    "KEY_SENT": f" {SENT}\n",
    "KEY_INNER": f"sk-{MARK}\n{MARK}",
    "KEY_FOREIGN": f"sk-{MARK}-\N{LATIN SMALL LETTER E WITH ACUTE}",
}


class Echo(BaseHTTPRequestHandler):
    """Answers with the status that the path names, and says what key it was sent."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        sent = self.headers["Authorization"]
        kind = self.path.split("/")[1]
        status = int(kind) if kind.isdigit() else 403
        body = json.dumps({"error": {"message": f"Incorrect API key: {sent}", "code": sent}})
        if kind == "200":
            body = json.dumps({"id": sent, "object": sent, "choices": [], "detail": sent})
        elif kind == "text":
            body = f"no such page: {sent}"
        elif kind == "seed" and "seed" in asked:
            status, body = 422, json.dumps({"error": f"'seed' is not for the holder of {sent}"})
        elif kind in ("said", "seed"):
            message = {"role": "assistant", "content": f"I was sent {sent}, so {sent}."}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            status, body = 200, json.dumps({"choices": [choice], "usage": {sent: 1}})
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if kind == "text" else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def holding(folder: Path, text: str) -> list[str]:
    """The files below ``folder``, databases and their journals included, that hold ``text``."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [
        path.relative_to(folder).as_posix() for path in files if text.encode() in path.read_bytes()
    ]


def test_no_key_is_stored_or_printed(tmp_path: Path, address: str) -> None:
    """A real flow with failing stages: their errors are in Prefect's database and results."""
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"r": 8}')
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    home = tmp_path / "home"
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("run_refused.py")), address, str(adapter)],
        cwd=ROOT,
        env={**environment(home), **KEYS, "PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 1, done.stderr[-4000:]
    assert "401: " in done.stdout, done.stdout + done.stderr[-4000:]
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines() if "Error: " in line)
    for answer, expected in {
        "401": "Incorrect API key: Bearer [key]",
        "404": "Incorrect API key: Bearer [key]",
        "500": "Incorrect API key: Bearer [key]",
        "200": "returned 0 of 1 choices",
        "text": "Error code: 403",
        "adapter": "no such page: Bearer [key]",
    }.items():
        assert said[answer].startswith(("EngineError: ", "ItemError: "))
        assert expected in said[answer]
    assert "[key]" in said["200"]
    for variable in ("KEY_INNER", "KEY_FOREIGN"):
        for label in (variable, f"{variable} adapter"):
            assert said[label].startswith(f"ConfigError: the environment variable {variable} ")
    stored = holding(home, "Incorrect API key: Bearer [key]")
    assert [path for path in stored if path.startswith("prefect/prefect.db")], stored
    assert [path for path in stored if path.startswith("prefect/storage")], stored
    # What it answers is kept, and what it says of a parameter that it refuses.
    answers = holding(home, "I was sent Bearer [key], so Bearer [key].")
    assert [path for path in answers if path.startswith("answers.db")], answers
    assert len([path for path in answers if path.endswith("reply.txt")]) == 2, answers
    noted = holding(home, "is not for the holder of Bearer [key]")
    assert [path for path in noted if path.endswith("manifest.json")], noted
    assert holding(home, MARK) == []
    assert MARK not in done.stdout + done.stderr


@pytest.mark.parametrize("variable", ["KEY_INNER", "KEY_FOREIGN"])
def test_a_key_that_cannot_be_sent_stops_a_run_before_it_starts(
    tmp_path: Path, tiny_base: Path, address: str, variable: str
) -> None:
    home = tmp_path / "home"
    role = f"{{kind: openai, model: x, base_url: '{address}/401/v1', api_key_env: {variable}}}"
    variables = {**KEYS, "COLUMNS": "400", "PREFECT_HOME": str(home / "prefect")}
    for command in ("run", "doctor"):
        done = sage(
            command, "--preset", "tiny", "--json", "--set", f"annotation.engine={role}",
            "--set", "annotation.method=write", "--set", f"model.base={tiny_base}",
            home=home, **variables,
        )  # fmt: skip
        assert f"the environment variable {variable} holds a key with" in done.stdout + done.stderr
        assert done.returncode == (2 if command == "run" else 1)
        assert MARK not in done.stdout + done.stderr
    assert holding(home, MARK) == []
