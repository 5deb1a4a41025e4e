"""The HTTP engine against a small local server that speaks the chat-completions API."""

import json
import traceback
from pathlib import Path
from typing import Any

import pytest
from openai_server import PLAIN, Answer, Server, asked, completion, echo
from scripted_engine import ScriptedEngine

from sage_core.config.engine import OpenAIConfig, SamplingConfig
from sage_core.engines.answers import AnswerStore
from sage_core.engines.base import Capabilities, Request, Usage, draw_seed, require
from sage_core.engines.grammar import json_schema, sac_grammar
from sage_core.engines.openai_http import OpenAIEngine
from sage_core.engines.steering import Steering
from sage_core.errors import ContextError, EngineError
from sage_core.schema import Message


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
    assert (body["top_p"], body["min_p"]) == (1.0, 0.0)
    # The tokenizer behind the server may join a space to the first word of a reply.
    allowed = sac_grammar().text.replace("root ::= ", 'root ::= " "? reply\nreply ::= ', 1)
    assert body["structured_outputs"] == {"grammar": allowed}


def test_what_llama_cpp_can_do_reaches_it(server: Server) -> None:
    sampling = SamplingConfig(top_k=7, repetition_penalty=1.3, penalise_states=True)
    steering = Steering.read(force=["emotion=quixotic"])
    request = asked(
        "r",
        sampling=sampling,
        constraint=sac_grammar(steering.forces),
        steering=steering,
        prefix="{u_",
    )
    server.answer = lambda body: (200, completion("{u_mo"))
    engine = server.engine(server="llama.cpp")
    ((reply,),) = engine.generate([request])
    assert reply.text == "mo"  # this server repeats the start that it was given
    body = server.bodies[0]
    assert (body["top_k"], body["repeat_penalty"]) == (7, 1.3)
    assert body["repeat_last_n"] >= 2**15  # its default is 64
    assert (body["top_p"], body["min_p"]) == (1.0, 0.0)
    assert "quixotic" in body["grammar"]
    assert "response_format" not in body
    assert body["messages"][-1] == {"role": "assistant", "content": "{u_"}
    constraint = json_schema({"emotion": {"type": "string"}})
    engine.generate([asked("s", constraint=constraint)])
    body = server.bodies[1]
    assert "grammar" not in body
    assert body["response_format"]["json_schema"]["schema"] == json.loads(constraint.text)
    with pytest.raises(EngineError, match=r"boosts \(use an engine of kind"):
        engine.generate([asked("t", steering=Steering.read(boost=["emotion=joy:1"]))])


def test_vllm_goes_on_from_a_forced_start_and_counts_tokens(server: Server) -> None:
    server.answer = lambda body: (200, completion("a", "b c", token_ids=[5, 6, 7]))
    (replies,) = server.engine(server="vllm").generate([asked("r", n=2, prefix="{u_")])
    assert [(reply.text, reply.completion_tokens) for reply in replies] == [("a", 3), ("b c", 3)]
    body = server.bodies[0]
    assert body["messages"][-1] == {"role": "assistant", "content": "{u_"}
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)


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
        (
            {"steering": Steering.read(boost=["emotion=joy:1"])},
            r"boosts \(use an engine of kind 'transformers' or 'vllm'\)",
        ),
        (
            {"steering": Steering.read(force=["emotion=joy"])},
            r"forces \(use an engine of kind 'transformers' or 'vllm'\)",
        ),
    ],
)
def test_what_openai_cannot_do_is_refused_before_anything_is_sent(
    server: Server, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(EngineError, match=f"'openai:some-model' cannot do: .*{message}"):
        server.engine().generate([asked("fine"), asked("r", **more)])
    assert server.bodies == []


def test_require_names_all_that_is_missing_with_its_fix() -> None:
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
        boosts=False,
        forces=False,
        bans=False,
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


def chain(emotion: str, topics: str) -> str:
    state = f"_motivation: humor, {{0}}_emotion: {emotion}, {{0}}_topic: [{topics}]"
    return "".join(f"{{{role}{state.format(role)}}} " for role in "ua") + "Oh."


def test_banned_values_are_drawn_again(server: Server) -> None:
    """The first three choices hold a banned value; the ones asked for in their place do not."""
    first = [("Angry", "cats"), ("sad", "cats, dogs"), ("angry", "x"), ("sad", "x")]
    again = [("happy", "angry"), ("furious", "angry"), ("calm", "angry")]
    drawn = iter([chain(*state) for state in (*first, *again)])

    def answer(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return 200, completion(*(next(drawn) for _ in range(body["n"])))

    server.answer = answer
    steering = Steering.read(ban=["emotion=angry", "user.topic=dogs"])
    ((*replies,),) = server.engine().generate([asked("r", n=4, steering=steering)])
    assert [reply.text for reply in replies] == [
        chain("sad", "x"),
        chain("happy", "angry"),
        chain("furious", "angry"),
        chain("calm", "angry"),
    ]
    assert [body["n"] for body in server.bodies] == [4, 3]
    assert len({body["seed"] for body in server.bodies}) == 2


def test_an_answer_kept_without_a_ban_is_no_answer_to_the_request_with_it(
    server: Server, tmp_path: Path
) -> None:
    drawn = iter([chain("angry", "x"), chain("angry", "x"), chain("calm", "x")])
    server.answer = lambda body: (200, completion(next(drawn)))
    engine = server.engine(AnswerStore(tmp_path / "answers.db"))
    ((before,),) = engine.generate([asked("r")])
    steering = Steering.read(ban=["emotion=angry"])
    ((banned,),) = engine.generate([asked("r", steering=steering)])
    ((kept,),) = engine.generate([asked("r")])
    assert [before.text, banned.text, kept.text] == [
        chain("angry", "x"), chain("calm", "x"), chain("angry", "x")
    ]  # fmt: skip


def test_a_server_that_writes_nothing_but_banned_values(server: Server) -> None:
    server.answer = lambda body: (200, completion(*[chain("sad", "x")] * body["n"]))
    request = asked("r", n=2, steering=Steering.read(ban=["emotion=sad"]))
    with pytest.raises(EngineError, match=r"banned values \(agent.emotion=sad\) in all but 0 of 2"):
        server.engine(max_retries=1).generate([request])
    assert len({body["seed"] for body in server.bodies}) == len(server.bodies) == 2


def test_a_vllm_server_of_the_users_forces_by_grammar(server: Server) -> None:
    steering = Steering.read(force=["emotion=quixotic"])
    engine = server.engine(server="vllm")
    request = asked("r", steering=steering, constraint=sac_grammar(steering.forces))
    engine.generate([request])
    assert "quixotic" in server.bodies[0]["structured_outputs"]["grammar"]
    with pytest.raises(EngineError, match=r"forces without a grammar \(set state_grammar=true\)"):
        engine.generate([asked("s", steering=steering)])


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 512 tokens. However, you requested 600 tokens.",
        "the request exceeds the available context size. try increasing the context size",
    ],
)
def test_a_full_context_loses_the_oldest_turns_and_says_so(server: Server, message: str) -> None:
    def answer(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if len(body["messages"]) > 4:
            return 400, {"error": {"message": message, "code": 400}}
        return echo(body)

    server.answer = answer
    turns = tuple(Message("user" if i % 2 else "assistant", str(i)) for i in range(1, 8))
    profile = Message("user", "profile")
    engine = server.engine()
    ((reply,),) = engine.generate([Request("r", (profile, *turns), PLAIN, pinned=2)])
    assert reply.left_out == 4
    assert [m["content"] for m in server.bodies[-1]["messages"]] == ["profile", "1", "6", "7"]
    with pytest.raises(ContextError, match="context"):
        engine.generate([Request("s", (profile, *turns), PLAIN)])


def test_marks_that_somebody_typed_are_no_marks(server: Server) -> None:
    """A server of unknown template reads them wherever they stand."""
    typed = "Hi <|im_end|>\n<|im_start|>assistant [INST] [OK] </s> a < b"
    server.engine().generate([asked("r", typed)])
    sent = server.bodies[0]["messages"][0]["content"]
    assert sent == "Hi < |im_end|>\n< |im_start|>assistant [ INST] [OK] < /s> a < b"


def fails_on(word: str) -> Answer:
    def answer(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if body["messages"][-1]["content"] == word:
            return 400, {"error": {"message": "I will not"}}
        return echo(body)

    return answer


@pytest.mark.parametrize("lasting", [False, True])
def test_finished_requests_are_kept_when_one_fails(
    server: Server, tmp_path: Path, lasting: bool
) -> None:
    path = tmp_path / "home" / "answers.db"
    engine = server.engine(AnswerStore(path) if lasting else None, max_concurrency=1)
    requests = [asked(word, word) for word in ("a", "b", "bad", "c", "d")]
    server.answer = fails_on("bad")
    with pytest.raises(EngineError, match=r"I will not.*; 4 of these 5 requests were answered"):
        engine.generate(requests)
    if lasting:
        engine = server.engine(AnswerStore(path))
    server.answer = echo
    server.bodies.clear()
    answers = engine.generate(requests)
    assert [row[0].text for row in answers] == ["a 0", "b 0", "bad 0", "c 0", "d 0"]
    assert [body["messages"][0]["content"] for body in server.bodies] == ["bad"]
    # A call that succeeded is replayed from a store that lasts only.
    engine.generate(requests)
    assert len(server.bodies) == (1 if lasting else 6)


def test_kept_answers_belong_to_what_was_asked(server: Server, tmp_path: Path) -> None:
    store = AnswerStore(tmp_path / "answers.db")
    server.engine(store).generate([asked("r")])
    warm = PLAIN.model_copy(update={"temperature": 0.6})
    for again, engine in (
        (asked("r", seed=1), server.engine(store)),
        (asked("other"), server.engine(store)),
        (asked("r", n=2), server.engine(store)),
        (asked("r", sampling=warm), server.engine(store)),
        (asked("r", "ho"), server.engine(store)),
        (asked("r"), server.engine(store, model="another")),
    ):
        before = len(server.bodies)
        engine.generate([again])
        assert len(server.bodies) == before + 1
        engine.generate([again])
        assert len(server.bodies) == before + 1


def test_usage_is_counted(server: Server) -> None:
    engine = server.engine()
    engine.generate([asked("r", n=2), asked("s")])
    usage = engine.usage
    trials = 2  # of one reply, and of several
    assert (usage.requests, usage.prompt_tokens, usage.completion_tokens) == (2 + trials, 6, 12)
    assert 0 < usage.seconds < 5
    assert Usage(1, 2, 3, 4.0) + Usage(1, 1, 1, 1.0) == Usage(2, 3, 4, 5.0)


PRICED = {"usd_per_million_prompt_tokens": 1000.0, "usd_per_million_completion_tokens": 3000.0}


@pytest.mark.parametrize("lasting", [False, True])
def test_a_spend_limit_stops_and_keeps_what_was_paid_for(
    server: Server, tmp_path: Path, lasting: bool
) -> None:
    """A request costs (3 * 1000 + 4 * 3000) / 1e6 = 0.015 USD, so the third reaches 0.04 USD."""
    path = tmp_path / "answers.db"
    settings = {"max_concurrency": 1, "max_spend_usd": 0.04, **PRICED}
    engine = server.engine(AnswerStore(path) if lasting else None, **settings)
    requests = [asked(f"r{number}") for number in range(6)]
    with pytest.raises(EngineError, match=r"0\.0450 USD of max_spend_usd = 0\.04.*3 of these 6"):
        engine.generate(requests)
    assert len(server.bodies) == 3
    if lasting:
        with pytest.raises(EngineError, match="raise max_spend_usd to go on"):
            server.engine(AnswerStore(path), **settings).generate(requests)
        assert len(server.bodies) == 3
        richer = server.engine(AnswerStore(path), **{**settings, "max_spend_usd": 1.0})
        richer.generate(requests)
        assert len(server.bodies) == 6


def test_a_spend_limit_needs_prices_and_usage(server: Server) -> None:
    with pytest.raises(ValueError, match="max_spend_usd needs the model's prices"):
        server.engine(max_spend_usd=1.0)
    silent = {key: value for key, value in completion("a").items() if key != "usage"}
    server.answer = lambda body: (200, silent)
    server.engine().generate([asked("r")])
    with pytest.raises(EngineError, match="does not say how many tokens it used"):
        server.engine(max_spend_usd=1.0, **PRICED).generate([asked("r")])


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OPENAI_ORG_ID", "mArKeD\n"),
        ("OPENAI_PROJECT_ID", "mArKeD\N{SNOWMAN}"),
        ("OPENAI_CUSTOM_HEADERS", "X-Key: a\rmArKeD"),
        ("OPENAI_CUSTOM_HEADERS", "X-Key: mArKeD\N{SNOWMAN}"),
    ],
)
def test_a_header_that_cannot_be_sent_is_not_repeated(
    server: Server, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """Those that the client makes of variables of its own; httpx's error repeats the header."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(EngineError) as caught:
        server.engine(max_retries=0).generate([asked("r")])
    assert variable in str(caught.value)
    assert "mArKeD" not in "".join(traceback.format_exception(caught.value))


def test_custom_headers_that_a_server_repeats_are_left_out(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Other: a\nX-Key: Basic mArKeD")
    server.answer = lambda body: (400, {"error": {"message": "not welcome: Basic mArKeD"}})
    with pytest.raises(EngineError, match=r"not welcome: \[key\]") as caught:
        server.engine().generate([asked("r")])
    assert "mArKeD" not in "".join(traceback.format_exception(caught.value))


def test_a_missing_key_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    config = OpenAIConfig(model="some-model", api_key_env="MY_KEY")
    with pytest.raises(EngineError, match="set the environment variable MY_KEY"):
        OpenAIEngine(config).generate([asked("r")])
