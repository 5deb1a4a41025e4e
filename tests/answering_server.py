"""A real server of the chat-completions API whose answers a test sets, one for each request."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from sage_core.config.engine import OpenAIConfig

_TRIALS = ("Count from one to forty", "Describe this message")  # of what a server takes


@dataclass(frozen=True)
class Said:
    """An answer: a completion, or an error where ``status`` is not 200."""

    text: str | None = ""
    finish: str = "stop"
    status: int = 200
    error: str = ""
    message: dict[str, Any] = field(default_factory=dict)
    logprobs: dict[str, float] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        if self.status != 200:
            return {"error": {"message": self.error, "code": self.status}}
        top = [{"token": t, "logprob": p, "bytes": None} for t, p in self.logprobs.items()]
        choice = {
            "index": 0,
            "finish_reason": self.finish,
            "message": {"role": "assistant", "content": self.text, **self.message},
            "logprobs": {"content": [{**top[0], "top_logprobs": top}]} if top else None,
        }
        usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
        return {"id": "x", "object": "chat.completion", "created": 0, "model": "m",
                "choices": [choice], "usage": usage}  # fmt: skip


class Answering:
    """The server; ``bodies`` is what it was asked, without trials of what it takes."""

    def __init__(self, answer: Callable[[dict[str, Any]], Said]) -> None:
        self.answer = answer
        self.bodies: list[dict[str, Any]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                said = server.said(body)
                data = json.dumps(said.body()).encode()
                self.send_response(said.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.send_header("retry-after-ms", "1")
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def said(self, body: dict[str, Any]) -> Said:
        if body["messages"][-1]["content"].startswith(_TRIALS):
            return Said("{}", logprobs={"A": -0.1})
        self.bodies.append(body)
        return self.answer(body)

    def prompts(self) -> list[str]:
        """The last message of each request."""
        return [body["messages"][-1]["content"] for body in self.bodies]

    @property
    def settings(self) -> dict[str, Any]:
        """Of an engine that asks this server."""
        address = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        return {"kind": "openai", "model": "m", "base_url": address, "max_retries": 0}

    @property
    def config(self) -> OpenAIConfig:
        return OpenAIConfig.model_validate(self.settings)


@contextmanager
def answering(answer: Callable[[dict[str, Any]], Said]) -> Iterator[Answering]:
    """A server that runs within."""
    server = Answering(answer)
    thread = threading.Thread(target=server.http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()
