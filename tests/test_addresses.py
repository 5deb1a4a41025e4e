"""Addresses: one spelling for one server, and another server's answers are not its own."""

from pathlib import Path

import pytest
from openai_server import Server, asked, completion

from sage_core.addresses import identity, normalised
from sage_core.config.engine import OpenAIConfig
from sage_core.config.loading import load_config
from sage_core.engines.answers import AnswerStore
from sage_core.engines.openai_http import OpenAIEngine
from sage_core.errors import ConfigError
from sage_core.steps.key import identity as in_key

HERE = "http://127.0.0.1:8000/v1"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("http://a.org:8000/v1/", "http://a.org:8000/v1"),
        (" http://A.org:8000/v1// ", "http://a.org:8000/v1"),
        ("HTTP://a.org:80/v1", "http://a.org/v1"),
        ("https://a.org:443/", "https://a.org"),
        ("https://a.org/x/../V1", "https://a.org/V1"),
        ("https://müller.de/v1", "https://xn--mller-kva.de/v1"),
    ],
)
def test_an_address_has_one_spelling(written: str, expected: str) -> None:
    assert normalised(written) == expected
    assert normalised(expected) == expected
    assert OpenAIConfig(model="m", base_url=written).base_url == expected


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "[::1]", "0.0.0.0"])
def test_names_of_this_machine_are_one_server(host: str) -> None:
    address = f"http://{host}:8000/v1/"
    assert identity(normalised(address)) == HERE
    assert OpenAIEngine(OpenAIConfig(model="m", base_url=address)).kept_as == HERE


def test_other_servers_are_others() -> None:
    others = ("http://a:8000/v1", "http://127.0.0.1:8001/v1", "https://127.0.0.1:8000/v1",
              "http://127.0.0.1:8000/v2", "http://127.0.0.1:8000")  # fmt: skip
    assert len({identity(each) for each in (HERE, *others)}) == len(others) + 1


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("localhost:8000/v1", "an address begins with http"),
        ("a.org/v1", "it is not an address; write http:// or https://"),
        ("ftp://a.org", "'ftp:' is not a server's"),
        ("https://a.org/v1?key=mArKeD", r"must not hold '\?' or '#'.*api_key_env names"),
        ("https://user:mArKeD@a.org/v1", "into the environment variable that api_key_env names"),
    ],
)
def test_what_is_no_address_is_refused_by_its_setting(address: str, why: str) -> None:
    engine = f"annotation.engine={{kind: openai, model: x, base_url: '{address}'}}"
    with pytest.raises(ConfigError, match=f"annotation.engine.base_url: .*{why}") as caught:
        load_config("tiny", [engine, "annotation.method=write"])
    assert "mArKeD" not in str(caught.value)


def test_another_server_in_the_environment_is_another_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its verdicts and its artefacts are made anew."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    store = AnswerStore(tmp_path / "answers.db")
    found, keys = [], []
    first, second = Server(), Server()
    first.answer = lambda body: (200, completion("the first's"))
    second.answer = lambda body: (200, completion("the second's"))
    for server in (first, second, first):
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.base_url}/")
        settings = OpenAIConfig(model="m")
        ((reply,),) = OpenAIEngine(settings, store).generate([asked("r")])
        found.append(reply.text)
        keys.append(in_key(settings)["base_url"])
    assert found == ["the first's", "the second's", "the first's"]
    assert keys == [first.base_url, second.base_url, first.base_url]
    assert [len(server.bodies) for server in (first, second)] == [1, 1]
    first.close()
    second.close()


def test_openai_itself_is_one_server_however_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    named = OpenAIConfig(model="m", base_url="https://api.openai.com/v1/")
    assert OpenAIEngine(named).kept_as == OpenAIEngine(OpenAIConfig(model="m")).kept_as == "OpenAI"
