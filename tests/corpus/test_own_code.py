"""A reader, a rule and a judge prompt of one's own: named in a setting, nothing changed here."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app
from sage_core import preflight
from sage_core.config.corpus import CorpusConfig
from sage_core.config.loading import load_config, validate_config
from sage_core.corpus.build import load_funnel
from sage_core.corpus.records import DIALOGUES, REJECTED
from sage_core.corpus.sources import read, reader_of, sources
from sage_core.errors import ConfigError
from sage_core.evaluation.judge import question
from sage_core.evaluation.prompts import PROMPTS
from sage_core.schema import Dialogue, Rejection
from sage_core.steps.code import code_hash
from sage_core.steps.ingest import CorpusSource
from sage_core.steps.local import build_corpus
from sage_core.storage import read_rows
from tasks.home import store
from tasks.making import make

READERS = """
from sage_core.corpus.readers.reader import Reader
from sage_core.schema import Dialogue, with_roles

def read_tickets(source, config):
    for number, line in enumerate(source.file.read_text().splitlines()):
        name = f"{source.name}-{number}"
        yield Dialogue(name, "tickets", name, with_roles(line.split("|")))

TICKETS = Reader(read_tickets, lambda path: path.suffix == ".ticket", "*.ticket")
number = 3
"""
RULES = """
def no_links(config):
    return lambda dialogue: not any("link" in turn.content for turn in dialogue.messages)

def short(config):
    return lambda dialogue: len(dialogue.messages) <= config.min_turns

def not_a_test(config):
    return True

text = "no"
"""
PROMPTS_OF_MINE = """
harsh = "Below are two conversations. Decide which one is less bad."
empty = " "
number = 3
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a package of the user's and two files of tickets."""
    package = tmp_path / "my_pkg"
    package.mkdir()
    for name, text in (("readers", READERS), ("rules", RULES), ("prompts", PROMPTS_OF_MINE)):
        (package / f"{name}.py").write_text(text)
    (package / "__init__.py").touch()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.ticket").write_text("hi|hello\nsee the link|thanks\n")
    (tmp_path / "in" / "b.txt").write_text("one|two|three|four\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [each for each in sys.modules if each.partition(".")[0] == "my_pkg"]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def corpus(**settings: Any) -> CorpusConfig:
    return CorpusConfig.model_validate({"reader": "my_pkg.readers:read_tickets", **settings})


@pytest.mark.parametrize(("reader", "files"), [("read_tickets", ["a.ticket", "b.txt"]),
                                               ("TICKETS", ["a.ticket"])])  # fmt: skip
def test_a_function_reads_every_file_and_a_reader_those_that_it_knows(
    reader: str, files: list[str]
) -> None:
    config = corpus(reader=f"my_pkg.readers:{reader}", input="in")
    assert [source.name for source in sources(config)] == files
    rows = [row for source in sources(config) for row in read(source, config)]
    assert [len(row.messages) for row in rows if isinstance(row, Dialogue)] == [2, 2, 4][
        : len(files) + 1
    ]


def test_its_name_is_the_reason_and_its_hash_is_on_the_card(folder: Path) -> None:
    """In two processes: those that are started find the working directory's modules too."""
    rules = ["my_pkg.rules:short", "my_pkg.rules:no_links"]
    build_corpus(corpus(input="in", rules=rules, min_turns=2), folder / "out", processes=2)
    assert [row.dialogue_id for row in read_rows(folder / "out" / DIALOGUES, Dialogue)] == [
        "a.ticket-0"
    ]
    rejected = read_rows(folder / "out" / REJECTED, Rejection)
    assert {row.dialogue_id: row.reason for row in rejected} == {
        "a.ticket-1": rules[1], "b.txt-0": rules[0],
    }  # fmt: skip
    assert [step["step"] for step in load_funnel(folder / "out")] == ["read", *rules]
    card = (folder / "out" / "data_card.md").read_text()
    for name in (*rules, "my_pkg.readers:read_tickets"):
        assert f"| `{name}` | `{code_hash(name.partition(':')[0])}` |" in card


def test_a_set_and_rules_of_ones_own_are_one_list(folder: Path) -> None:
    rules = ["my_pkg.rules:no_links", "paper", "turns"]  # of which the set has the last one
    build_corpus(corpus(input="in", rules=rules), folder / "out")
    assert [step["step"] for step in load_funnel(folder / "out")] == [
        "read", "my_pkg.rules:no_links", "turns", "question", "words", "sentiment",
    ]  # fmt: skip


def test_the_command_takes_ones_own(folder: Path) -> None:
    command = ["corpus", "build", "--reader", "my_pkg.readers:TICKETS", "--input", "in",
               "--output", "out", "--set", "corpus.rules=['my_pkg.rules:no_links']", "--json",
               "--processes", "1"]  # fmt: skip
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert [step["kept"] for step in json.loads(done.stdout)] == [2, 1]


def test_the_help_names_the_readers_of_the_registry() -> None:
    shown = " ".join(CliRunner().invoke(app, ["corpus", "build", "--help"]).output.split())
    assert "package.module:name" in shown
    assert "empathetic_dialogues" in shown


def test_its_name_and_hash_are_in_the_manifest(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGE_HOME", str(folder / "home"))
    reader = "my_pkg.readers:TICKETS"
    step = CorpusSource(corpus=corpus(reader=reader, input="in"), part="a.ticket", source="")
    assert store().manifest(make(step))["own"] == {reader: code_hash("my_pkg.readers")}
    packaged = CorpusSource(corpus=CorpusConfig(max_read=1), part="chitchat", source="")
    assert store().manifest(make(packaged))["own"] == {}


def test_a_judge_asks_it() -> None:
    assert question("my_pkg.prompts:harsh").endswith("less bad.")


@pytest.mark.parametrize("name", ["nonsense", "my_pkg.rules", "my_pkg.rules:", ":own", "a b:c"])
@pytest.mark.parametrize(
    ("key", "tree", "names"),
    [
        ("corpus.reader", lambda name: {"corpus": {"reader": name}}, "pushshift, convokit"),
        ("corpus.rules", lambda name: {"corpus": {"rules": ["turns", name]}}, "paper, dialogpt"),
        ("corpus.rules", lambda name: {"corpus": {"rules": name}}, "near_duplicate"),
        (
            "evaluation.judges.prompt",
            lambda name: {"evaluation": {"judges": [{"name": "x", "prompt": name}]}},
            "open, companion",
        ),
        (
            "mixture.instructions.reader",
            lambda name: {"mixture": {"instructions": {"reader": name, "input": "x"}}},
            "messages, chatgpt",
        ),
    ],
)
def test_a_name_of_neither_kind_is_wrong_in_the_configuration(
    key: str, tree: Callable[[str], Any], names: str, name: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        validate_config(tree(name))
    message = str(caught.value)
    assert message.splitlines()[1].startswith(f"  - {key} = ")
    for part in (f"'{name}' does not exist", names, "your own as package.module:name"):
        assert part in message


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("corpus.reader=nowhere.at_all:read", "cannot be imported (No module named 'nowhere'"),
        ("corpus.reader=my_pkg.readers:gone", "has no attribute 'gone'"),
        ("corpus.reader=my_pkg.readers:number", "neither a Reader nor a function"),
        ("corpus.rules=['my_pkg.rules:gone']", "has no attribute 'gone'"),
        ("corpus.rules=['my_pkg.rules:text']", "is not a function of the configuration"),
        ("corpus.rules=['my_pkg.rules:not_a_test']", "does not return a function"),
        ("evaluation.judges=[{name: x, prompt: 'my_pkg.prompts:empty'}]", "is not a text"),
        ("evaluation.judges=[{name: x, prompt: 'my_pkg.prompts:number'}]", "is not a text"),
        ("evaluation.judges=[{name: x, prompt: 'gone.prompts:a'}]", "No module named 'gone'"),
    ],
)
def test_what_cannot_be_used_is_said_before_a_run(override: str, problem: str) -> None:
    config = load_config("tiny", [override])
    setting = "evaluation.judges.prompt" if "prompt" in override else override.partition("=")[0]
    with pytest.raises(ConfigError) as caught:
        preflight.check(config)
    for part in (f"{setting}: the ", problem, "choose ", "or your own as package.module:name"):
        assert part in str(caught.value)


def test_reply_trees_are_not_instruction_data() -> None:
    config = load_config("tiny", ["mixture.instructions={reader: pushshift, input: in}"])
    with pytest.raises(ConfigError, match=r"mixture\.instructions\.reader = 'pushshift' reads"):
        preflight.check(config)


def test_what_is_built_in_loads_and_has_a_name_of_its_own() -> None:
    for name in PROMPTS.names:
        assert question(name)
    assert reader_of(CorpusConfig()).package == "chitchat-dataset"
    assert [each.own for each in PROMPTS.resolve("open", "my_pkg.prompts:harsh")] == [False, True]
