"""Servers that fail, for a while or for good, cut their answers or give fewer than asked for."""

import json
import threading
import time
from typing import Any

import pytest
from openai_server import Server, asked, completion, echo

from sage_core.errors import EngineError


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503])
def test_a_passing_failure_is_tried_again(server: Server, status: int) -> None:
    def flaky(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if len(server.bodies) <= 2:
            return status, {"error": {"message": "busy"}}
        return echo(body)

    server.answer = flaky
    ((reply,),) = server.engine(max_retries=3).generate([asked("r")])
    assert reply.text == "hi 0"
    assert len(server.bodies) == 3


def test_a_lasting_failure_names_server_request_and_fix(server: Server) -> None:
    server.answer = lambda body: (500, {"error": {"message": "out of memory"}})
    with pytest.raises(EngineError) as caught:
        server.engine(max_retries=1).generate([asked("select/rain")])
    message = str(caught.value)
    assert len(server.bodies) == 2
    for part in (server.base_url, "select/rain", "after 1 retries", "out of memory", "start again"):
        assert part in message


def test_a_wrong_key_is_not_tried_again(server: Server) -> None:
    server.answer = lambda body: (401, {"error": {"message": "no such key"}})
    with pytest.raises(EngineError, match="no such key; check the key"):
        server.engine().generate([asked("r")])
    assert len(server.bodies) == 1


def test_a_server_that_is_not_there(server: Server) -> None:
    engine = server.engine(max_retries=0)
    server._http.server_close()
    with pytest.raises(EngineError, match="check that the server runs") as caught:
        engine.generate([asked(f"r{number}") for number in range(40)])
    assert server.base_url in str(caught.value)
    assert str(caught.value).count(server.base_url) == 1


@pytest.mark.parametrize("declared_length", ["false", "none"])
def test_an_answer_that_is_cut_is_asked_for_again(server: Server, declared_length: str) -> None:
    def cut(body: dict[str, Any]) -> tuple[int, dict[str, Any] | str]:
        if len(server.bodies) <= 2:
            return 200, json.dumps(completion("lost"))[:-30]
        server.declared_length = "true"
        return echo(body)

    server.declared_length = declared_length
    server.answer = cut
    ((reply,),) = server.engine().generate([asked("r")])
    assert reply.text == "hi 0"
    assert len(server.bodies) == 3


def test_answers_that_stay_cut(server: Server) -> None:
    server.declared_length = "none"
    server.answer = lambda body: (200, '{"choices": [')
    with pytest.raises(EngineError, match="the answer is not JSON"):
        server.engine(max_retries=2).generate([asked("r")])
    assert len(server.bodies) == 3


def test_a_slow_server_is_asked_again_and_named(server: Server) -> None:
    def slow(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if len(server.bodies) == 1:
            time.sleep(0.6)
        return echo(body)

    server.answer = slow
    ((reply,),) = server.engine(timeout_s=0.3, max_retries=1).generate([asked("r")])
    assert reply.text == "hi 0"
    server.bodies.clear()
    with pytest.raises(EngineError, match=r"no answer within 0\.3 s; raise timeout_s"):
        server.engine(timeout_s=0.3, max_retries=0).generate([asked("r")])


@pytest.mark.parametrize("at_once", [1, 3, 0])
def test_choices_that_are_missing_are_asked_for(server: Server, at_once: int) -> None:
    """0 stands for one choice, or none every second time."""

    def stingy(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        number = len(server.bodies)
        given = min(body["n"], at_once or number % 2)
        return 200, completion(*(f"{number}.{each}" for each in range(given)))

    server.answer = stingy
    (replies,) = server.engine(max_retries=1).generate([asked("r", n=7)])
    assert len({reply.text for reply in replies}) == 7
    missing = [body["n"] for body in server.bodies]
    assert (
        missing
        == {
            1: [7, 6, 5, 4, 3, 2, 1],
            3: [7, 4, 1],
            0: [7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1],
        }[at_once]
    )
    by_missing = {body["n"]: body["seed"] for body in server.bodies}
    assert len(set(by_missing.values())) == len(by_missing)


def test_more_choices_than_asked_for_are_left(server: Server) -> None:
    server.answer = lambda body: (200, completion("a", "b", "c"))
    (replies,) = server.engine().generate([asked("r", n=2)])
    assert [reply.text for reply in replies] == ["a", "b"]


@pytest.mark.parametrize(
    "answer",
    [
        completion(),
        completion("half a repl", finish="abort"),
        completion("nothing", message=None),
        {"error": "no"},
    ],
)
def test_a_server_that_never_gives_what_was_asked(server: Server, answer: dict[str, Any]) -> None:
    server.answer = lambda body: (200, answer)
    with pytest.raises(EngineError, match=r"0 of 2 choices for 'r'.*asked again 2 times"):
        server.engine(max_retries=2).generate([asked("r", n=2)])
    assert len(server.bodies) == 3


def test_a_page_is_no_answer(server: Server) -> None:
    server.answer = lambda body: (200, "<html>Welcome</html>")
    server.content_type = "text/html"
    with pytest.raises(EngineError, match=r"not JSON .* <html>Welcome</html>; check that base_url"):
        server.engine(max_retries=2).generate([asked("r", n=2)])
    assert len(server.bodies) == 3


def test_requests_under_way_are_bounded_over_all_engines(server: Server) -> None:
    def slow(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        time.sleep(0.05)
        return echo(body)

    server.answer = slow
    engines = [server.engine(max_concurrency=3) for _ in range(3)]
    threads = [
        threading.Thread(target=engine.generate, args=([asked(f"r{n}") for n in range(4)],))
        for engine in engines
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.bodies) == 12
    assert server.most_under_way == 3
