"""A small local server that speaks the chat-completions API, as a test tells it."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from sage_core.config.engine import OpenAIConfig, SamplingConfig
from sage_core.engines.answers import AnswerStore
from sage_core.engines.base import Request
from sage_core.engines.openai_http import OpenAIEngine
from sage_core.engines.servers import engine_of
from sage_core.engines.spoken import DESCRIBE, QUESTION
from sage_core.schema import Message

Answer = Callable[[dict[str, Any]], tuple[int, dict[str, Any] | str]]
PLAIN = SamplingConfig(temperature=0.5, top_k=0, repetition_penalty=1, max_new_tokens=9)


def asked(name: str, text: str = "hi", sampling: SamplingConfig = PLAIN, **more: Any) -> Request:
    return Request(name, (Message("user", text),), sampling, **more)


class Server:
    """A server whose answers a test sets; it keeps what it was asked."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.answer: Answer = echo
        self.content_type = "application/json"
        self.declared_length = "true"
        self.tries_too = False  # whether `answer` also answers trials of parameters
        self.under_way = self.most_under_way = 0
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if is_trial(body) and not server.tries_too:
                    scores = [{"token": "A", "logprob": 0, "top_logprobs": []}]
                    told = {"logprobs": {"content": scores}} if body.get("logprobs") else {}
                    tried = completion(*["{}"] * body.get("n", 1), **told)
                    none = dict.fromkeys(("prompt_tokens", "completion_tokens"), 0)
                    self._send(200, {**tried, "usage": none})
                    return
                with server._lock:
                    server.bodies.append(body)
                    server.paths.append(self.path)
                    server.under_way += 1
                    server.most_under_way = max(server.most_under_way, server.under_way)
                status, reply = server.answer(body)
                with server._lock:
                    server.under_way -= 1
                self._send(status, reply)

            def _send(self, status: int, reply: dict[str, Any] | str | bytes) -> None:
                text = reply if isinstance(reply, str | bytes) else json.dumps(reply)
                data = text.encode() if isinstance(text, str) else text
                self.send_response(status)
                self.send_header("Content-Type", server.content_type)
                if server.declared_length != "none":
                    length = len(data) if server.declared_length == "true" else 10 * len(data)
                    self.send_header("Content-Length", str(length))
                self.send_header("retry-after-ms", "1")
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def engine(self, answers: AnswerStore | None = None, **settings: Any) -> OpenAIEngine:
        defaults = {"model": "some-model", "base_url": self.base_url}
        return engine_of(OpenAIConfig.model_validate({**defaults, **settings}), answers)

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def is_trial(body: dict[str, Any]) -> bool:
    """Whether it asks what parameters the server takes."""
    asked = body["messages"][-1]["content"] if "messages" in body else ""
    return QUESTION in asked or DESCRIBE in asked


def completion(*texts: str, finish: str = "stop", **choice: Any) -> dict[str, Any]:
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "some-model",
        "choices": [
            {
                "index": index,
                "finish_reason": finish,
                "message": {"role": "assistant", "content": text},
                **choice,
            }
            for index, text in enumerate(texts)
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4 * len(texts), "total_tokens": 7},
    }


def echo(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    text = body["messages"][-1]["content"]
    return 200, completion(*(f"{text} {number}" for number in range(body.get("n", 1))))
