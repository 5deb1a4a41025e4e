"""``sage corpus inspect`` and what ``sage corpus build`` says of its input."""

import json
from pathlib import Path

import pytest
from formats import ASKED, FORMATS, MESSAGES, lines, write
from typer.testing import CliRunner

from flows.cli import app
from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.card import CARD
from sage_core.corpus.inspection import inspect
from sage_core.corpus.readers import READERS
from sage_core.corpus.sources import reader_of
from sage_core.errors import DataError
from sage_core.steps.local import build_corpus

PAGE = Path(__file__).parents[2] / "docs" / "corpora.md"
RULES = ("--set", "corpus.rules=[turns]", "--set", "corpus.min_turns=3")


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["corpus", *map(str, arguments)])
    error = f"{type(done.exception).__name__}: {done.exception}" if done.exception else ""
    return done.exit_code, done.output + error


@pytest.mark.parametrize(
    "name",
    ["OpenAI messages", "ShareGPT", "LMSYS", "CSV", "Alpaca", "an array in an object", "ChatGPT",
     "Claude", "Discord", "Telegram", "WhatsApp", "Slack", "OpenAssistant", "ESConv"],
)  # fmt: skip
def test_a_layout_is_shown_without_naming_it(tmp_path: Path, name: str) -> None:
    reader, _, _, settings, expected = FORMATS[name]
    path = write(name, tmp_path)
    more = ["--set", "corpus.roles={Bob: assistant}"] if settings else []
    code, output = run("inspect", path, *RULES, *more)
    assert code == 0, output
    assert f"reader: {reader}, 1 file(s)" in output
    assert "layout: " in output
    for role, text in expected:
        assert f"  {role}: {' '.join(text.split())}" in output
    assert "1 records read\n" in output
    kept = len(expected) >= 3
    assert f"{int(kept)} dialogues kept" in output
    assert ("by the rule 'turns'" in output) == (not kept)


def test_what_would_be_lost_and_why(tmp_path: Path) -> None:
    """Columns and roles, at most three dialogues, and each reason with its first record."""
    path = tmp_path / "a.jsonl"
    records: list[object] = [{"messages": MESSAGES, "id": f"d{number}"} for number in range(5)]
    records += [{"messages": [{"role": "narrator", "content": "x"}]}, {"messages": MESSAGES[:1]}]
    path.write_text(f"{lines(*records)}{{broken", encoding="utf-8")
    code, output = run("inspect", path, *RULES)
    assert code == 0, output
    assert "columns: messages = messages, role = role, content = content" in output
    assert "roles: user = user, assistant = assistant, narrator = unknown" in output
    assert [f"d{number}" in output for number in range(5)] == [True] * 3 + [False] * 2
    assert "8 records read" in output
    assert "1 cannot be read, unknown_role; the first: a.jsonl, line 6" in output
    assert "'messages[0].role' is 'narrator'" in output
    assert "1 cannot be read, not_json; the first: a.jsonl, line 8" in output
    assert "1 dialogues dropped by the rule 'turns'" in output
    assert "5 dialogues kept" in output
    code, output = run("inspect", path, "--limit", 2, "--json", *RULES)
    seen = json.loads(output)
    assert (seen["read"], seen["complete"], seen["kept"]) == (2, False, 2)
    assert seen["recognised"]["columns"]["messages"] == "messages"


def test_posts_are_shown_as_their_paths(tmp_path: Path) -> None:
    path = tmp_path / "RC_x.jsonl"
    posts = [{"id": name, "link_id": "t3_z", "parent_id": parent, "body": f"{ASKED} {name}",
              "subreddit": "r", "author": name, "created_utc": 1}
             for name, parent in (("b", "t1_a"), ("a", "t3_z"), ("c", "t1_b"))]  # fmt: skip
    path.write_text(lines(*posts), encoding="utf-8")
    seen = inspect(CorpusConfig(reader="pushshift", input=path, rules=("turns",), min_turns=3), 0)
    assert (seen.read, seen.kept, seen.complete) == (3, 1, True)
    assert [turn.content[-1] for turn in seen.examples[0].messages] == ["a", "b", "c"]
    assert run("inspect", path)[1].startswith("reader: pushshift")


@pytest.mark.parametrize("text", ["", "[]", " \n", '{"data": []}'])
@pytest.mark.parametrize("command", ["build", "inspect"])
def test_nothing_at_all_is_an_error(tmp_path: Path, text: str, command: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    arguments = ["--reader", "messages"]
    if command == "build":
        code, output = run(command, *arguments, "--input", path, "--output", tmp_path / "out")
    else:
        code, output = run(command, path, *arguments)
    assert code != 0
    assert "a.json" in output


def test_an_empty_file_and_a_cut_one_are_said(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "empty.jsonl").touch()
    (folder / "whole.jsonl").write_text(lines(*[{"messages": MESSAGES}] * 200))
    (folder / "cut.json").write_text(json.dumps([{"messages": MESSAGES}] * 3)[:-40])
    output = tmp_path / "out"
    code, printed = run("build", "--reader", "messages", "--input", folder, "--output", output,
                        *RULES)  # fmt: skip
    assert code == 0, printed
    assert "without a record: empty.jsonl" in printed
    assert "quarantined, truncated: cut.json, record 3" in printed
    (read, *_) = json.loads((output / "funnel.json").read_text())
    assert read["empty"] == ["empty.jsonl"]
    assert read["records"] == {"read": 203, "used": 202, "quarantined": 1}
    card = (output / CARD).read_text()
    assert "Without a record: empty.jsonl." in card
    assert (
        "| 2 | messages with roles | content: `content`, messages: `messages`, role: `role` | "
        "assistant: assistant, user: user |"
    ) in card


def test_an_empty_chat_in_sixty_stops_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(lines(*[{"messages": MESSAGES}] * 59, {"messages": []}))
    config = CorpusConfig(reader="messages", input=path, rules=("turns",), min_turns=3)
    (read, turns) = build_corpus(config, tmp_path / "out")
    assert (read["kept"], read["quarantined"], turns["kept"]) == (59, 1, 59)
    path.write_text(lines(*[{"messages": []}] * 3))
    with pytest.raises(DataError, match=r"3 of 3 .*no_turns"):
        build_corpus(config, tmp_path / "none")


def test_unknown_formats_are_said_with_the_settings_that_help(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(lines({"label": 1}))
    code, output = run("inspect", path)
    assert code != 0
    assert "--reader" in output
    assert "corpus.columns" in output


def test_the_table_of_readers_is_current() -> None:
    page = PAGE.read_text(encoding="utf-8")
    table = ["| reader | reads | files |", "| --- | --- | --- |"]
    for name in READERS.names:
        reader = reader_of(CorpusConfig(reader=name))
        if name == "sharegpt":
            table.append("| `sharegpt` | the same as `messages` | |")
            continue
        files = "none" if reader.package else reader.files.replace("*", "\\*")
        table.append(f"| `{name}` | {reader.reads} | {files} |")
    assert "\n".join(table) in page, "\n".join(table)


def test_the_table_of_layouts_is_current() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [name for name in FORMATS if f"- {name}\n" not in page] == []


def test_a_rule_that_is_not_about_a_language_is_named(tmp_path: Path) -> None:
    file = tmp_path / "chinese.jsonl"
    said = ["我今天很难过。", "发生了什么事\uff1f"]
    messages = [
        {"role": role, "content": text}
        for role, text in zip(("user", "assistant"), said, strict=True)
    ]
    file.write_text(json.dumps({"messages": messages}, ensure_ascii=False), encoding="utf-8")
    seen = inspect(CorpusConfig(reader="messages", input=file, rules=("sentiment",)), 0)
    assert seen.not_applied["sentiment"] == 1
