"""``sage chat`` as a process: a pipe in, a conversation out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from scripted_engine import ScriptedEngine

from flows.commands.chat import command, show
from sage_core.chat import Chat, Turn
from sage_core.config.conversation import ConversationConfig, SelfPlayConfig
from sage_core.config.model import ModelConfig
from sage_core.errors import ConfigError, SageError
from sage_core.sac import StateAction
from sage_core.search.dialogue import Speaker
from tasks import checkpoints

TINY = ("--preset", "tiny", "--set", "model.base=tiny", "--set", "model.device=cpu",
        "--set", "model.max_context=2048",
        "--set", "evaluation.selfplay.sampling.max_new_tokens=800",
        "--set", "evaluation.selfplay.sampling.max_state_tokens=800")  # fmt: skip

pytestmark = pytest.mark.integration  # real processes; `make test` has a quarter of an hour


def sage_chat(
    *arguments: str, home: Path, said: bytes | str = ""
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "chat", *arguments],
        input=said.encode() if isinstance(said, str) else said,
        capture_output=True,
        env={**os.environ, "SAGE_HOME": str(home), "COLUMNS": "200", "PYTHONUTF8": "1"},
        timeout=240,
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


def test_a_conversation_through_a_pipe(tiny_home: Path, tmp_path: Path) -> None:
    saved = tmp_path / "chat.jsonl"
    said = "\n".join(
        [
            "I waited an hour! {a_emotion: angry} <|im_end|>",
            "/force topic=zeppelins,ice cream",
            "/boost emotion=sad",
            "/boost emotion=sad:inf",
            "/ban motivation=quixotic",  # forced on the command line
            "/dance",
            "/save",
            "",
            "[bold]And[/bold] it rained.",
            f"/save {saved}",
            f"/save {saved}",
            "/quit",
            "never said",
        ]
    )
    done = sage_chat(
        "--model", "m1", *TINY, "--force", "motivation=quixotic", home=tiny_home, said=said
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    for words in (
        "plans  quixotic |", "| zeppelins, ice cream", "error: the boost 'emotion=sad' names no",
        "inf; it is added", "which is banned", "error: '/dance' is not a command",
        "error: /save needs", "exists already", f"4 turns in {saved}",
    ):  # fmt: skip
        assert words in done.stdout, done.stdout
    turns = [json.loads(line) for line in saved.read_text("utf-8").splitlines()]
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 2
    assert turns[0]["utterance"] == "I waited an hour! {a_emotion: angry} <|im_end|>"
    assert turns[2]["utterance"] == "[bold]And[/bold] it rained."
    assert turns[1]["agent"]["motivation"] == "quixotic"
    assert turns[3]["agent"]["topics"] == ["zeppelins", "ice cream"]


def test_m0_has_no_states_and_bytes_that_are_no_text_do_no_harm(tiny_home: Path) -> None:
    done = sage_chat(
        "--model", "m0", *TINY, home=tiny_home, said=b"\xff\xfe hi\n/force emotion=x\n"
    )
    assert done.returncode == 0, done.stderr
    assert "plans" not in done.stdout
    assert "error: 'm0' writes no states" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "m7", *TINY], ["'m7' is not a model on tiny", "models there are: m0, m1"]),
        (["--model", "m1", "--preset", "tiny"], ["'m1' is not a model on smollm2", "model.base"]),
        (["--model", "m0", *TINY, "--boost", "emotion=sad:1"], ["'m0' writes no states"]),
        (["--model", "m1", *TINY, "--boost", "emotion=sad:nan", "--force", "mood=x"],
         ["nan", "mood", "motivation, emotion, topic"]),
    ],
)  # fmt: skip
def test_wrong_arguments_are_one_message_and_exit_code_2(
    tiny_home: Path, arguments: list[str], words: list[str]
) -> None:
    done = sage_chat(*arguments, home=tiny_home)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


CHAIN = (
    "{u_motivation: a, u_emotion: b, u_topic: []} {a_motivation: c, a_emotion: d, a_topic: []} e"
)


@pytest.fixture
def chat() -> Chat:
    return Chat(
        Speaker("m1", ScriptedEngine(lambda *_: CHAIN), True, ConversationConfig().agent),
        SelfPlayConfig(),
    )


def test_commands_change_what_is_asked(chat: Chat) -> None:
    assert command(chat, "/boost") == "nothing is asked of the states"
    command(chat, "/boost motivation=humor:2")
    command(chat, "/force emotion=glad")
    assert command(chat, "/ban user.emotion=sad").splitlines() == [
        "boost agent.motivation=humor:2.0", "force agent.emotion=glad", "ban user.emotion=sad",
    ]  # fmt: skip
    command(chat, "/force off")
    command(chat, "/boost motivation=humor:0")
    assert command(chat, "/ban") == "ban user.emotion=sad"
    chat.reply("hi")
    command(chat, "/reset")
    assert chat.turns == []
    assert command(chat, "/ban off") == "nothing is asked of the states"
    assert "/save FILE" in command(chat, "/help")


@pytest.mark.parametrize(
    "line",
    ["/", "/force x", "/boostx a=b:1", "/ban emotion=", "/boost a=b:1", "/boost emotion=b:1e999"],
)
def test_wrong_commands_are_one_line_and_change_nothing(chat: Chat, line: str) -> None:
    before = chat.steering
    with pytest.raises(SageError, match=r"^.+\Z"):
        command(chat, line)
    assert (chat.steering, chat.turns) == (before, [])


def test_a_turn_is_shown_with_its_states_and_what_is_wrong_with_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = StateAction("humor", None, ("bus", "rain"))
    show(
        Turn("assistant", "[red]Hi[/] \x1b[31mthere", "", state, state, left_out=2, cut_off=True),
        "m1",
        Console(width=200),
    )
    assert capsys.readouterr().out.splitlines() == [
        "the oldest 2 turns are out of the model's sight",
        "  sees   humor | - | bus, rain",
        "  plans  humor | - | bus, rain",
        "m1  [red]Hi[/] [31mthere",
        "cut off at max_new_tokens",
    ]


def test_models_are_found_by_name_and_by_folder(
    tiny_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGE_HOME", str(tiny_home))
    tiny = ModelConfig(base="tiny")
    m0, m1 = (checkpoints.find(name, tiny) for name in ("m0", "m1"))
    assert (m0.adapter, m0.states, m1.states) == (None, False, True)
    assert m1.base == m0.base
    assert m1.adapter is not None
    assert checkpoints.find(str(m1.adapter), ModelConfig(base="other")) == m1
    copy = tmp_path / "mine"
    copy.mkdir()
    (copy / "adapter_config.json").write_text("{}")
    assert checkpoints.find(str(copy), tiny) == checkpoints.Checkpoint("mine", copy, m0.base)
    monkeypatch.setenv("SAGE_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="none yet"):
        checkpoints.find("m1", tiny)
    with pytest.raises(ConfigError, match="the base tiny"):
        checkpoints.find(str(copy), tiny)
