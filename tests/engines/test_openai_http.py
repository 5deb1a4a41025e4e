"""The HTTP engine against a small local server that speaks the chat-completions API."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from sage_core.config import EngineConfig, SamplingConfig
from sage_core.engines.base import Capabilities, Request, draw_seed, require
from sage_core.engines.grammar import json_schema, sac_grammar
from sage_core.engines.openai_http import OpenAIEngine
from sage_core.engines.scripted import ScriptedEngine
from sage_core.errors import EngineError
from sage_core.schema import Message

Answer = Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]
PLAIN = SamplingConfig(temperature=0.5, top_k=0, repetition_penalty=1, max_new_tokens=9)


def asked(name: str, text: str = "hi", sampling: SamplingConfig = PLAIN, **more: Any) -> Request:
    return Request(name, (Message("user", text),), sampling, **more)


class Server:
    """A server whose answers a test sets; it keeps what it was asked."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.answer: Answer = echo
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server._lock:
                    server.bodies.append(body)
                    server.paths.append(self.path)
                    status, reply = server.answer(body)
                data = json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
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

    def engine(self, **settings: Any) -> OpenAIEngine:
        defaults = {"kind": "openai", "model": "some-model", "base_url": self.base_url}
        return OpenAIEngine(EngineConfig.model_validate({**defaults, **settings}))

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


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


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running = Server()
    yield running
    running.close()


def test_candidates_come_back_in_the_order_of_the_requests(server: Server) -> None:
    requests = [asked(f"r{number}", f"text {number}", n=3, seed=5) for number in range(8)]
    answers = server.engine(max_concurrency=4).generate(requests)
    assert [[c.text for c in row] for row in answers] == [
        [f"text {number} {candidate}" for candidate in range(3)] for number in range(8)
    ]
    assert {(c.finish_reason, c.completion_tokens) for row in answers for c in row} == {("stop", 4)}
    assert set(server.paths) == {"/v1/chat/completions"}
    by_text = {body["messages"][-1]["content"]: body for body in server.bodies}
    for request in requests:
        body = by_text[request.messages[0].content]
        assert body["model"] == "some-model"
        assert body["messages"] == [{"role": "user", "content": request.messages[0].content}]
        assert (body["n"], body["temperature"], body["max_completion_tokens"]) == (3, 0.5, 9)
        assert body["seed"] == draw_seed(request, 0) % 2**31
    assert len({body["seed"] for body in server.bodies}) == 8


def test_a_reply_cut_by_its_length_says_so(server: Server) -> None:
    server.answer = lambda body: (200, completion("cut o", finish="length"))
    ((reply,),) = server.engine().generate([asked("r")])
    assert (reply.text, reply.finish_reason) == ("cut o", "length")


def test_a_json_schema_reaches_the_server(server: Server) -> None:
    constraint = json_schema({"emotion": {"type": "string"}})
    server.engine().generate([asked("r", constraint=constraint)])
    sent = server.bodies[0]["response_format"]
    assert sent["type"] == "json_schema"
    assert sent["json_schema"]["schema"] == json.loads(constraint.text)
    assert sent["json_schema"]["strict"] is True


def test_what_only_vllm_can_do_reaches_it(server: Server) -> None:
    sampling = SamplingConfig(top_k=7, repetition_penalty=1.3, penalise_states=True)
    request = asked("r", sampling=sampling, constraint=sac_grammar(), opens_with_states=True)
    server.engine(server="vllm").generate([request])
    body = server.bodies[0]
    assert (body["top_k"], body["repetition_penalty"]) == (7, 1.3)
    assert body["structured_outputs"] == {"grammar": sac_grammar().text}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"constraint": sac_grammar()}, r"decoding under a grammar \(set state_grammar=false\)"),
        ({"sampling": PLAIN.model_copy(update={"top_k": 5})}, r"set top_k=0"),
        (
            {"sampling": PLAIN.model_copy(update={"repetition_penalty": 1.1})},
            r"set repetition_penalty=1",
        ),
        ({"prefix": "{u_"}, "a forced start of the reply"),
    ],
)
def test_what_openai_cannot_do_is_refused_before_anything_is_sent(
    server: Server, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(EngineError, match=f"'openai:some-model' cannot do: .*{message}"):
        server.engine().generate([asked("fine"), asked("r", **more)])
    assert server.bodies == []


def test_require_names_all_that_is_missing_with_its_mend() -> None:
    engine = ScriptedEngine(lambda request, candidate: "")
    request = asked(
        "r", sampling=SamplingConfig(), constraint=json_schema({}), opens_with_states=True
    )
    require(engine, request)
    engine.capabilities = Capabilities(  # type: ignore[misc]
        top_k=False,
        repetition_penalty=True,
        penalty_outside_states=False,
        grammar=True,
        json_schema=False,
        prefix=False,
        scoring=False,
    )
    with pytest.raises(EngineError) as caught:
        require(engine, request)
    message = str(caught.value)
    assert "set top_k=0" in message
    assert "set penalise_states=true" in message
    assert "a JSON schema" in message
    assert "set repetition_penalty=1)" not in message
    assert "state_grammar" not in message
    # States may be penalised: then nothing is asked that the engine lacks but the rest.
    plain = SamplingConfig(top_k=0, penalise_states=True)
    require(engine, asked("r", sampling=plain, opens_with_states=True))


def logprobs(**tokens: float) -> dict[str, Any]:
    entries = [
        {"token": token.replace("_", " "), "logprob": value, "bytes": None}
        for token, value in tokens.items()
    ]
    return {"logprobs": {"content": [{**entries[0], "top_logprobs": entries}]}}


def test_choose_reads_the_first_tokens_probabilities(server: Server) -> None:
    server.answer = lambda body: (200, completion("B", **logprobs(B=-0.25, _A=-1.5, C=-9.0)))
    scores = server.engine().choose([asked("r"), asked("s")], [["A", "B", "D"], ["C", " B"]])
    assert scores == [[-1.5, -0.25, float("-inf")], [-9.0, -0.25]]
    body = server.bodies[0]
    assert (body["logprobs"], body["top_logprobs"], body["max_completion_tokens"]) == (True, 20, 1)


def test_a_server_without_probabilities(server: Server) -> None:
    server.answer = lambda body: (200, completion("B"))
    with pytest.raises(EngineError, match="returned no log-probabilities"):
        server.engine().choose([asked("r")], [["A", "B"]])


def test_a_passing_failure_is_tried_again(server: Server) -> None:
    def flaky(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if len(server.bodies) <= 2:
            return 500, {"error": {"message": "busy"}}
        return echo(body)

    server.answer = flaky
    ((reply,),) = server.engine(max_retries=3).generate([asked("r")])
    assert reply.text == "hi 0"
    assert len(server.bodies) == 3


def test_a_lasting_failure_names_server_request_and_mend(server: Server) -> None:
    server.answer = lambda body: (500, {"error": {"message": "out of memory"}})
    with pytest.raises(EngineError) as caught:
        server.engine(max_retries=1).generate([asked("select/rain")])
    message = str(caught.value)
    assert len(server.bodies) == 2
    for part in (server.base_url, "select/rain", "after 1 retries", "out of memory", "start again"):
        assert part in message


def test_a_server_that_is_not_there(server: Server) -> None:
    engine = server.engine(max_retries=0)
    server._http.server_close()
    with pytest.raises(EngineError, match="check that the server runs") as caught:
        engine.generate([asked("r")])
    assert server.base_url in str(caught.value)


def test_a_missing_key_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    config = EngineConfig(kind="openai", model="some-model", api_key_env="MY_KEY")
    with pytest.raises(EngineError, match="set the environment variable MY_KEY"):
        OpenAIEngine(config).generate([asked("r")])
