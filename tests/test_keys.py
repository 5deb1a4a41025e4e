"""Keys: what is read, what is refused, and what no message repeats."""

import html
import json
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_core.config.engine import OpenAIConfig
from sage_core.config.loading import load_config, validate_config
from sage_core.engines.openai_http import OpenAIEngine
from sage_core.errors import ConfigError
from sage_core.export import check_push
from sage_core.keys import REDACTED, check_key, read_key, redact

MARK = "mArKeD"
printable = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=30)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("sk-1", "sk-1"), ("sk-1\n", "sk-1"), (" \tsk-1\r\n", "sk-1"), ("", ""), (" \n", "")],
)
def test_white_space_around_a_key_is_not_part_of_it(
    monkeypatch: pytest.MonkeyPatch, value: str, expected: str
) -> None:
    monkeypatch.setenv("MY_KEY", value)
    assert read_key("MY_KEY") == expected
    monkeypatch.delenv("MY_KEY")
    assert read_key("MY_KEY") == ""


@pytest.mark.parametrize("inside", ["\n", " ", "\x00", "\x7f", "\xe9", "\u2028", "\udcff"])
def test_a_key_that_no_header_carries_is_refused(inside: str) -> None:
    with pytest.raises(ConfigError, match=r"^MY_KEY holds a key with a blank") as caught:
        check_key(f"{MARK}{inside}{MARK}", "MY_KEY")
    assert MARK not in str(caught.value)


@given(printable)
def test_a_key_is_found_however_it_is_escaped(key: str) -> None:
    for written in (
        key, repr(key)[1:-1], repr(repr(key)[1:-1])[1:-1], json.dumps(key)[1:-1],
        json.dumps(json.dumps(key)[1:-1])[1:-1], quote(key), quote_plus(key), html.escape(key),
        html.escape(json.dumps(key)[1:-1]), ascii(key.encode())[2:-1],
    ):  # fmt: skip
        assert (
            redact(f"\N{BULLET}{written}\N{BULLET}", key, "") == f"\N{BULLET}{REDACTED}\N{BULLET}"
        )


def test_text_without_the_key_stays() -> None:
    assert redact("nothing \\ of it %20", "sk-1", "") == "nothing \\ of it %20"


@pytest.mark.parametrize(
    "address",
    [
        f"http://user:{MARK}@localhost:8000/v1",
        f"http://{MARK}@localhost/v1",
        f"http://user:{MARK}/{MARK}@localhost/v1",
        f"user:{MARK}@localhost/v1",
    ],
)
@pytest.mark.parametrize("role", ["annotation.engine", "engine"])
def test_an_address_with_a_password_is_refused(tmp_path: Path, address: str, role: str) -> None:
    """Also where the whole is at a wrong place: 'engine' is no section."""
    written = f"{{kind: openai, model: x, base_url: '{address}'}}"
    with pytest.raises(ConfigError) as caught:
        load_config("tiny", [f"{role}={written}", f"annotation.rewrite={address}"])
    assert MARK not in str(caught.value)
    if role != "engine":
        assert "annotation.engine.base_url: an address must not hold a user name" in str(
            caught.value
        )
    with pytest.raises(ValueError, match="must not hold a user name") as refused:
        OpenAIConfig(model="x", base_url=address)
    assert MARK not in str(refused.value)


def test_the_clients_own_address_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://user:{MARK}@localhost/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    with pytest.raises(ConfigError, match="OPENAI_BASE_URL must not hold") as caught:
        OpenAIEngine(OpenAIConfig(model="x")).check()
    assert MARK not in str(caught.value)


@pytest.mark.parametrize(
    "wrong", [{"api_key_env": f"sk-{MARK}"}, {"vllm_arguments": [f"--api-key={MARK}"]}]
)
def test_a_key_in_the_configuration_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        validate_config({"annotation": {"engine": {"kind": "openai", "model": "x", **wrong}}})
    assert next(iter(wrong)) in str(caught.value)
    assert MARK not in str(caught.value)


def test_a_token_of_the_hub_that_cannot_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", f"hf_{MARK}\xe9")
    with pytest.raises(ConfigError, match="HF_TOKEN") as caught:
        check_push("org/name")
    assert MARK not in str(caught.value)
