"""What servers refuse is sent in another way; what they say is understood and shown."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from openai_server import PLAIN, Server, asked, completion, echo, is_trial

from sage_core.config.engine import OpenAIConfig
from sage_core.config.search import SearchConfig, SelectorConfig
from sage_core.engines.answers import AnswerStore
from sage_core.engines.base import Request
from sage_core.engines.grammar import json_schema
from sage_core.engines.parameters import KNOWN, WAYS, Parameters, table
from sage_core.engines.servers import examine
from sage_core.errors import ContextError, EngineError
from sage_core.execution import noting
from sage_core.schema import Message
from sage_core.search.checks import check_search

Body = dict[str, Any]
SCHEMA = json_schema({"emotion": {"type": "string"}})
GREEDY = PLAIN.model_copy(update={"temperature": 0})
SAID = (Message("system", "Be kind."), Message("user", "hi"))
ROOT = Path(__file__).parents[2]


def extra(name: str) -> Body:
    """FastAPI's body, which repeats the whole request as 'input'."""
    found = {"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are forbidden"}
    whole = {"seed": 1, "n": 1, "temperature": 0, "max_tokens": 1, "response_format": {}}
    return {"detail": [{**found, "input": whole}]}


def openai(message: str, param: str = "") -> Body:
    return {"error": {"message": message, "type": "invalid_request_error", "param": param or None}}


def form(body: Body) -> str:
    return str(body.get("response_format", {}).get("type", ""))


def has_system(body: Body) -> bool:
    return any(message["role"] == "system" for message in body["messages"])


Refuses = Callable[[Body], bool]
REFUSALS: dict[str, tuple[Refuses, int, Any, str]] = {
    "OpenAI's reasoning models": (
        lambda body: "temperature" in body, 400,
        openai("Unsupported value: 'temperature' does not support 0 with this model. Only the "
               "default (1) value is supported.", "temperature"),
        "temperature: left_out instead of as_asked",
    ),
    "a temperature above 0 only": (
        lambda body: body.get("temperature") == 0, 422,
        {"error": "`temperature` must be strictly positive", "error_type": "validation"},
        "temperature: above_zero instead of as_asked",
    ),
    "Mistral": (
        lambda body: "seed" in body, 422, extra("seed"), "seed: no instead of yes",
    ),
    "an older server": (
        lambda body: "max_completion_tokens" in body, 422, extra("max_completion_tokens"),
        "answer_budget: max_tokens instead of max_completion_tokens",
    ),
    "llama.cpp": (
        lambda body: body.get("n", 1) > 1, 500,
        {"error": {"code": 500, "message": "Only one completion choice is allowed",
                   "type": "server_error"}},
        "n: no instead of yes",
    ),
    "Groq": (
        lambda body: body.get("n", 1) > 1, 400,
        openai("'n' : number must be at most 1", "n"), "n: no instead of yes",
    ),
    "LM Studio": (
        lambda body: form(body) == "json_schema", 400,
        {"error": "'response_format.type' must be 'text'"},
        "structured_output: json_object instead of json_schema",
    ),
    "no JSON mode": (
        lambda body: "response_format" in body, 400,
        openai("This response_format type is unavailable now"),
        "structured_output: prompt instead of json_schema",
    ),
    "Gemma on vLLM": (
        has_system, 400,
        {"object": "error", "message": "System role not supported", "type": "BadRequestError",
         "param": None, "code": 400},
        "system_role: no instead of yes",
    ),
    "Mistral's template": (
        has_system, 500,
        {"error": "Conversation roles must alternate user/assistant/user/assistant/..."},
        "system_role: no instead of yes",
    ),
    "one that does not say what": (
        lambda body: "seed" in body, 422, "Unprocessable Entity", "seed: no instead of yes",
    ),
}  # fmt: skip


def refusing(refuses: Refuses, status: int, said: Any) -> Callable[[Body], tuple[int, Any]]:
    def answer(body: Body) -> tuple[int, Any]:
        return (status, said) if refuses(body) else (200, completion(*["{}"] * body.get("n", 1)))

    return answer


@pytest.mark.parametrize("server_of", REFUSALS)
def test_what_a_server_refuses_is_sent_in_another_way(
    server: Server, tmp_path: Path, server_of: str
) -> None:
    refuses, status, said, change = REFUSALS[server_of]
    server.tries_too = True
    server.answer = refusing(refuses, status, said)
    request = Request("r", SAID, GREEDY, n=2, constraint=SCHEMA)
    with noting() as notes:
        (replies,) = server.engine(AnswerStore(tmp_path / "a.db")).generate([request])
    assert [reply.text for reply in replies] == ["{}", "{}"]
    own = [body for body in server.bodies if not is_trial(body)]
    assert own
    assert not any(map(refuses, own))  # it was tried by small requests, and never by the stage's
    (said_of,) = notes.values()
    name, _, how = change.partition(": ")
    assert f"{name}: {how} (" in said_of
    assert [each for each in WAYS if f"{each}: " in said_of] == [name]
    # What was paid for is found under what was asked, and the change is still written down.
    server.answer = lambda body: pytest.fail("asked again")
    with noting() as again:
        engine = server.engine(AnswerStore(tmp_path / "a.db"))
        assert engine.generate([request]) == [replies]
    assert again == notes


def test_all_at_once(server: Server) -> None:
    """A server that takes nothing but the messages, under an old name of the limit."""
    known = {"model", "messages", "max_tokens"}

    def answer(body: Body) -> tuple[int, Any]:
        if has_system(body):
            return 400, {"error": "system messages are not supported"}
        for name in sorted(set(body) - known):
            return 422, extra(name)
        return 200, completion("{}")

    server.tries_too, server.answer = True, answer
    request = Request("r", SAID, GREEDY, n=2, constraint=SCHEMA)
    (replies,) = server.engine().generate([request])
    assert [reply.text for reply in replies] == ["{}", "{}"]
    own = [body for body in server.bodies if not is_trial(body)]
    assert [set(body) for body in own] == [known, known]
    (said,) = own[0]["messages"]
    assert said["role"] == "user"
    assert said["content"].startswith("Be kind.")
    assert json.loads(SCHEMA.text) == json.loads(said["content"].split("schema:\n")[1][:-4])
    assert said["content"].endswith("\n\nhi")


def scored(body: Body, **tokens: float) -> Body:
    entries = [{"token": t.replace("_", " "), "logprob": value} for t, value in tokens.items()]
    shown = entries[: body["top_logprobs"]]
    return completion("A", logprobs={"content": [{**entries[0], "top_logprobs": shown}]})


def test_fewer_top_logprobs_are_asked_for_where_there_is_a_limit(server: Server) -> None:
    def answer(body: Body) -> tuple[int, Any]:
        if body["top_logprobs"] > 5:
            said = "Input validation error: `top_logprobs` must be >= 0 and <= 5"
            return 422, {"error": said, "error_type": "validation"}
        return 200, scored(body, A=-0.1, B=-2.5)

    server.tries_too, server.answer = True, answer
    assert server.engine().choose([asked("r")], [["A", "B"]]) == [[-0.1, -2.5]]
    assert [body["top_logprobs"] for body in server.bodies] == [20, 8, 5, 5]


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (400, {"error": {"message": "logprobs is not supported by this model"}}),
        (422, extra("logprobs")),
        (400, {"error": "Unrecognized request argument supplied: top_logprobs"}),
        (403, openai("You are not allowed to request logprobs from this model")),
        (200, completion("A")),
        (200, completion("A", logprobs={"content": None})),
    ],
)
def test_a_selector_without_probabilities_is_refused_before_a_run(
    server: Server, status: int, said: Any
) -> None:
    """By one small request for each way to ask, and with the settings that help; so does the
    doctor."""
    server.tries_too = True
    server.answer = lambda body: (status, said) if "logprobs" in body else echo(body)
    engine = OpenAIConfig(model="m", base_url=server.base_url)
    search = SearchConfig(selector=SelectorConfig(engine=engine))
    with pytest.raises(EngineError, match=r"logprobs.*set search\.selector\.engine.*\.name"):
        check_search(search)
    assert all(map(is_trial, server.bodies))
    check = examine(engine, ["selector"])
    assert not check.ok
    assert "search.selector.engine" in check.found


def test_a_selector_that_can_be_asked_passes_and_a_silent_server_is_not_waited_for(
    server: Server,
) -> None:
    engine = OpenAIConfig(model="m", base_url=server.base_url)
    check_search(SearchConfig(selector=SelectorConfig(engine=engine)))
    server._http.server_close()
    check_search(SearchConfig(selector=SelectorConfig(engine=engine)))


def test_what_is_taken_and_not_heeded_is_noticed(server: Server) -> None:
    """A limit under an unknown name, and a schema that does nothing."""

    def answer(body: Body) -> tuple[int, Any]:
        if "response_format" in body:
            return 200, completion("The person is sad.")
        whole = completion(body["messages"][-1]["content"])
        if "max_tokens" not in body:
            whole["usage"]["completion_tokens"] = 120
        return 200, whole

    server.tries_too, server.answer = True, answer
    engine = server.engine()
    engine.generate([asked("r")])
    assert "max_tokens" in server.bodies[-1]
    engine.generate([asked("s", constraint=SCHEMA)])
    assert "response_format" not in server.bodies[-1]
    assert "JSON schema" in server.bodies[-1]["messages"][0]["content"]


def test_a_model_that_wants_more_tokens_than_a_small_request_has(server: Server) -> None:
    said = "Could not finish the message because max_tokens or model output limit was reached."
    server.tries_too = True
    server.answer = lambda body: (400, openai(said)) if is_trial(body) else echo(body)
    ((reply,),) = server.engine().generate([asked("r")])
    assert (reply.text, len(server.bodies)) == ("hi 0", 2)


def test_one_small_request_is_enough_for_all_engines_of_a_process(
    server: Server, tmp_path: Path
) -> None:
    server.tries_too = True
    store = AnswerStore(tmp_path / "a.db")
    server.engine(store).generate([asked(f"r{number}") for number in range(4)])
    server.engine(store).generate([asked("other")])
    assert [is_trial(body) for body in server.bodies].count(True) == 1
    trial = server.bodies[0]
    assert is_trial(trial)
    assert trial["max_completion_tokens"] <= 8


def test_settings_are_sent_as_they_are(server: Server) -> None:
    server.tries_too = True
    server.answer = lambda body: (200, completion("{}"))
    settings = {
        "answer_budget": "max_tokens", "temperature": "left_out", "seed": False, "n": False,
        "system_role": False, "structured_output": "json_object", "top_logprobs": 3,
        "extra_body": {"reasoning_effort": "low"},
    }  # fmt: skip
    engine = server.engine(parameters=settings)
    engine.generate([Request("r", SAID, GREEDY, n=2, constraint=SCHEMA)])
    body = server.bodies[-1]
    assert set(body) == {"model", "messages", "max_tokens", "response_format", "reasoning_effort"}
    assert body["response_format"] == {"type": "json_object"}
    assert body["reasoning_effort"] == "low"
    server.answer = lambda body: (200, scored(body, A=-1.0))
    engine.choose([asked("s")], [["A"]])
    assert server.bodies[-1]["top_logprobs"] == 3
    with pytest.raises(ValueError, match=r"'seed' is set by seed and parameters\.seed"):
        server.engine(parameters={"extra_body": {"seed": 4}})


def test_a_setting_that_is_refused_is_an_error_with_the_servers_words(server: Server) -> None:
    server.tries_too = True
    server.answer = refusing(lambda body: "seed" in body, 422, extra("seed"))
    with pytest.raises(
        EngineError, match=r"Extra inputs are forbidden.*'parameters' of the engine"
    ):
        server.engine(parameters={"seed": True}).generate([asked("r")])


def test_a_kind_of_server_says_what_is_tried_first(server: Server) -> None:
    server.tries_too = True
    server.engine(server="ollama").generate([asked("r", n=2)])
    assert len(server.bodies) == 3
    assert all("max_tokens" in body and "n" not in body for body in server.bodies)
    field = OpenAIConfig.model_fields["server"]
    assert list(KNOWN) == list(get_args(field.annotation))
    for known in KNOWN.values():
        assert known.structured_output in WAYS["structured_output"]
        assert known.answer_budget in WAYS["answer_budget"]
    assert KNOWN["openai"] == Parameters()


def test_the_documentation_has_the_table() -> None:
    assert table() in (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")


# --- what servers say -----------------------------------------------------------------------------

TOO_LONG: dict[str, tuple[int, Any]] = {
    "OpenAI": (400, openai("Your messages resulted in 5000 tokens.") | {"code": "x"}),
    "OpenAI, its code alone": (
        400, {"error": {"message": "Please be brief.", "code": "context_length_exceeded"}}),
    "vLLM": (400, {"object": "error", "code": 400, "message": "The decoder prompt (length 600) is "
                   "longer than the maximum model length of 512."}),
    "vLLM, the limit of the reply": (400, {"error": {"message": "'max_tokens' or "
        "'max_completion_tokens' is too large: 600. This model's maximum context length is 512 "
        "tokens and your request has 100 input tokens"}}),
    "llama.cpp": (400, {"error": {"code": 400, "type": "exceed_context_size_error", "message":
        "request (5000 tokens) exceeds the available context size (4096 tokens)"}}),
    "TGI": (422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= "
                  "2048. Given: 2000 `inputs` tokens and 200", "error_type": "validation"}),
    "TGI, the input alone": (422, {"error": "Input validation error: `inputs` must have less than "
                                   "1024 tokens. Given: 2000"}),
    "Ollama": (400, {"error": "the input length exceeds the context length"}),
    "Ollama, chat": (500, {"error": {"message": "prompt too long; exceeded max context length"}}),
    "LM Studio": (400, {"error": "Trying to keep the first 5000 tokens when context the overflows. "
        "However, the model is loaded with context length of only 4096 tokens"}),
    "LM Studio, its engine": (400, {"error": "Cannot truncate prompt with n_keep (15028) >= n_ctx "
                                    "(7424)"}),
    "SGLang": (400, {"object": "error", "message": "The input (61709 tokens) is longer than the "
                     "model's context length (40960 tokens).", "param": None, "code": 400}),
    "SGLang, its memory": (400, {"message": "Input length (160062 tokens) exceeds the maximum "
                                 "allowed length (59862 tokens)."}),
    "Anthropic": (400, {"type": "error", "error": {"type": "invalid_request_error", "message":
        "prompt is too long: 214315 tokens > 200000 maximum"}}),
    "Anthropic, with the reply": (400, {"error": {"message": "input length and `max_tokens` exceed "
        "context limit: 190000 + 20000 > 200000, decrease input length"}}),
    "Mistral": (400, {"object": "error", "message": "Prompt contains 40000 tokens and 0 draft "
        "tokens, too large for model with 32768 maximum context length"}),
    "FastAPI": (422, {"detail": "maximum context length is 512 tokens"}),
    "plain text": (413, "Input is too long for requested model."),
}  # fmt: skip
TOO_LONG["OpenAI"] = (
    400, openai("This model's maximum context length is 4097 tokens. However, your messages "
                "resulted in 5000 tokens.", "messages"))  # fmt: skip


def test_a_context_that_is_too_short_is_recognised_however_it_is_said(server: Server) -> None:
    engine = server.engine(max_retries=0)
    for who, (status, body) in TOO_LONG.items():
        server.answer = lambda _, status=status, body=body: (status, body)
        with pytest.raises(EngineError) as caught:
            engine.generate([asked("r")])
        assert type(caught.value) is ContextError, (who, str(caught.value))


def test_other_errors_are_none_of_the_context(server: Server) -> None:
    engine = server.engine(max_retries=0)
    for status, body in (
        (400, openai("Invalid value for 'model'")),
        (429, openai("Request too large for gpt-4o: maximum context length aside, 30000 TPM")),
        (401, openai("the context length of your key has ended")),
    ):
        server.answer = lambda _, status=status, body=body: (status, body)
        with pytest.raises(EngineError) as caught:
            engine.generate([asked("r")])
        assert not isinstance(caught.value, ContextError), body


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ({"error": "model 'x' not found"}, "model 'x' not found"),
        ({"detail": "no such route"}, "no such route"),
        ({"message": "wrong", "object": "error", "code": 400}, "wrong"),
        (
            {"error": {"message": "Provider returned error", "metadata": {"raw": "overloaded"}}},
            "overloaded",
        ),
        ("<html><h1>Bad gateway</h1></html>", "Bad gateway"),
        ([1, {"why": "a list"}], "a list"),
        ("", "it says nothing else"),
    ],
)
def test_the_body_of_an_error_is_shown(server: Server, body: Any, shown: str) -> None:
    server.answer = lambda _: (418, body)
    with pytest.raises(EngineError, match=r"Error code: 418 - ") as caught:
        server.engine(max_retries=0).generate([asked("r")])
    assert shown in str(caught.value)


# --- answers that are odd -------------------------------------------------------------------------


def test_odd_answers_are_read(server: Server) -> None:
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
             {"type": "text", "text": "Sun"}, {"type": "text", "text": "day"}]  # fmt: skip
    latin = json.dumps(completion("Café"), ensure_ascii=False).encode("latin-1")
    engine = server.engine()
    for name, answer, expected in (
        ("no counts", {**completion("a"), "usage": {}}, "a"),
        ("null counts", {**completion("b"), "usage": {"completion_tokens": None}}, "b"),
        ("usage is null", {**completion("c"), "usage": None}, "c"),
        ("parts", completion(parts), "Sunday"),  # type: ignore[arg-type]
        ("no content", completion(None), ""),  # type: ignore[arg-type]
        ("Latin-1", latin, "Café"),
        ("a mark before it", b"\xef\xbb\xbf" + json.dumps(completion("d")).encode(), "d"),
    ):
        server.answer = lambda _, answer=answer: (200, answer)
        ((reply,),) = engine.generate([asked(name)])
        assert reply.text == expected, name


def test_an_answer_without_counts_is_kept_when_the_limit_of_spending_stops(
    server: Server, tmp_path: Path
) -> None:
    server.answer = lambda body: (200, {**echo(body)[1], "usage": {}})
    priced = {"usd_per_million_completion_tokens": 1.0, "max_concurrency": 1}
    store = AnswerStore(tmp_path / "a.db")
    with pytest.raises(EngineError, match="does not say how many tokens it used"):
        server.engine(store, max_spend_usd=1, **priced).generate([asked("r"), asked("s")])
    assert len(server.bodies) == 1
    server.engine(store, **priced).generate([asked("r")])
    assert len(server.bodies) == 1


def test_options_are_compared_in_all_their_spellings(server: Server) -> None:
    def best(**tokens: float) -> str:
        server.answer = lambda body: (200, scored(body, **tokens))
        ((a, b),) = server.engine().choose([asked("r")], [["A", "B"]])
        return "A" if a > b else "B" if b > a else "neither"

    assert best(_A=-0.1, _B=-2.5, A=-9.0) == "A"
    assert best(A=-2.0, _B=-1.0, _A=-2.5) == "B"
    assert best(A=-1.0, _B=float("nan")) == "A"
    assert best(_B=float("nan"), B=-3.0) == "B"
    assert best(_A=float("nan"), B=float("nan")) == "neither"


# --- sage doctor ----------------------------------------------------------------------------------


def test_the_doctor_says_how_a_server_is_spoken_to(server: Server) -> None:
    server.tries_too, server.answer = True, refusing(lambda body: False, 0, "")
    settings = OpenAIConfig(model="m", base_url=server.base_url)
    check = examine(settings, ["annotator"])
    assert (check.ok, check.found) == (True, f"{server.base_url} answers")
    assert [form(body) for body in server.bodies] == ["json_schema"]
    server.answer = refusing(lambda body: "seed" in body, 422, extra("seed"))
    check = examine(settings, ["judge gpt"])
    assert check.ok
    assert "seed: no instead of yes (" in check.found
    server.answer = lambda body: (401, openai("no such key"))
    check = examine(settings, ["judge gpt"])
    assert not check.ok
    assert "no such key; check the key (api_key_env)" in check.found
    server._http.server_close()
    check = examine(settings, ["selector"])
    assert (check.ok, "start the server" in check.fix) == (False, True)
