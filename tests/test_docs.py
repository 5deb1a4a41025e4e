"""The documentation names only what exists: targets, commands, settings, files and pages."""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from flows.cli import app
from sage_core.config.corpus import CorpusConfig
from sage_core.config.engine import OwnEngineConfig, SamplingConfig
from sage_core.config.model import ModelConfig
from sage_core.config.pipeline import PipelineConfig
from sage_core.config.search import SearchConfig, SelectorConfig
from sage_core.corpus.readers import READERS
from sage_core.corpus.readers.reader import Source
from sage_core.corpus.rules import RULES
from sage_core.engines.base import Request
from sage_core.evaluation.benchmarks import BENCHMARKS
from sage_core.evaluation.prompts import PROMPTS
from sage_core.schema import Dialogue, Message
from sage_core.search.selectors import SELECTORS
from sage_core.search.selectors.selector import Inputs, reply_ballot
from sage_core.search.situations import situations
from sage_core.search.strategies import STRATEGIES

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/*.md")]
)
MOST_WORDS = 1300
CODE = re.compile(r"```\w*\n(?P<block>.*?)```|`(?P<inline>[^`\n]+)`", re.DOTALL)
LINK = re.compile(r"\]\((?P<target>[^)#:\s]+)(?P<anchor>#[^)\s]*)?\)")
REPOSITORY_PATH = re.compile(
    r"(?:sage_core|tasks|flows|benchmarks|deployments|docker|tests)/[\w./]*"
)

spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs/hooks.py")
assert spec
assert spec.loader
hooks: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hooks)

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def lines_of_code(page: Path) -> Iterator[str]:
    """Every line of the code blocks, and every inline code, without shell comments."""
    for found in CODE.finditer(page.read_text("utf-8")):
        code = found["block"] or found["inline"]
        for line in code.replace("\\\n", " ").splitlines():
            yield re.sub(r"\s#\s.*", "", line).strip()


def rendered(markdown: str) -> str:
    """The text that a reader sees: no link targets, table rules, fences or comments."""
    text = re.sub(r"<!--.*?-->", "", markdown, flags=re.DOTALL)
    text = re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"^\|[-:| ]+\|$", "", text, flags=re.MULTILINE)
    return re.sub(r"```|[|#*`]", " ", text)


def set_keys(page: Path) -> set[str]:
    """The keys of the overrides in code: after ``--set``, and alone as ``a.b=value``."""
    keys = set()
    for line in lines_of_code(page):
        keys |= set(re.findall(r"--set\s+'?([\w.]+)=", line))
        keys |= set(re.findall(r"^([a-z][a-z_0-9]*(?:\.[a-z][a-z_0-9]*)+)(?:=|$)", line))
    sections = PipelineConfig.model_fields.keys()
    return {
        key for key in keys if key.split(".")[0] in sections and not key.endswith((".py", ".json"))
    }


def has_key(key: str) -> bool:
    """Whether the configuration has a key, in one of the sections that may be there."""
    sections: list[Any] = [PipelineConfig]
    for part in key.split("."):
        fields = [s.model_fields[part] for s in sections if part in s.model_fields]
        if not fields:
            return False
        sections = [model for field in fields for model in hooks.models_in(field.annotation)]
    return True


def fault(line: str) -> str | None:
    """What is wrong with a command of ours, such as an option that it does not have."""
    words = shlex.split(line)
    command, path = get_command(app), [words.pop(0)]
    while hasattr(command, "commands"):
        if not words:
            return None  # such as `sage` alone
        if words[0] not in command.commands:
            return f"{' '.join(path)} has no command {words[0]}"
        path.append(words[0])
        command = command.commands[words.pop(0)]
    options = {each for param in command.params for each in (*param.opts, *param.secondary_opts)}
    unknown = [word for word in words if word.startswith("--") and word not in options]
    return f"{' '.join(path)} has no option {', '.join(unknown)}" if unknown else None


def commands(page: Path) -> list[str]:
    """The commands of ours in code; a comma or semicolon ends one."""
    found = []
    for line in lines_of_code(page):
        for part in re.split(r";\s|`, ", line):
            if match := re.search(r"(?:^|/|\b(?:exec worker|\S+=\S+) )(sage(?: .*|$))", part):
                found.append(match[1])
    return found


def test_the_readme_is_short():
    words = len(rendered((ROOT / "README.md").read_text("utf-8")).split())
    assert words <= MOST_WORDS, f"the README has {words} words; move some to docs/"


@pages
def test_make_targets_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = {
        target for line in lines_of_code(page) for target in re.findall(r"^make ([a-z-]+)", line)
    }
    assert named <= targets


@pages
def test_commands_and_their_options_exist(page):
    faults = {line: found for line in commands(page) if (found := fault(line))}
    assert not faults


@pages
def test_settings_exist(page):
    assert not {key for key in set_keys(page) if not has_key(key)}


@pages
def test_yaml_examples_are_settings(page):
    for block in re.findall(r"```yaml\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
        for section in yaml.safe_load(block):
            assert has_key(section)


@pages
def test_links_lead_to_files(page):
    targets = [link["target"] for link in LINK.finditer(page.read_text("utf-8"))]
    assert not [target for target in targets if not (page.parent / target).exists()]


@pages
def test_paths_in_code_exist(page):
    named = {path for line in lines_of_code(page) for path in REPOSITORY_PATH.findall(line)}
    assert not [path for path in named if not (ROOT / path).exists()]


def test_the_checks_find_what_is_wrong():
    assert fault("sage steer reports --model m1") == "sage steer has no command reports"
    assert fault("sage chat --modell m1") == "sage chat has no option --modell"
    assert fault("sage chat --model m1 --web") is None
    assert has_key("search.selector.engine.kind")
    assert has_key("evaluation.judges")
    assert not has_key("search.candidate")
    assert rendered("[a b](c.md) | `d` <!-- e -->").split() == ["a", "b", "d"]


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text("utf-8")
    named = set(re.findall(r"([\w-]+\.md)\s*$", text, re.MULTILINE))
    assert {page.name for page in ROOT.glob("docs/*.md")} <= named


def python_blocks(name: str) -> list[str]:
    text = (ROOT / "docs" / name).read_text("utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_example_of_state_action_text_runs():
    """The page's own assertion holds, and its text is what the README shows of the format."""
    (example,) = python_blocks("conversation.md")
    names = {}
    exec(example, names)
    text = names["render"](names["reply"])
    assert text.startswith("{u_motivation: complaint, u_emotion: frustrated, u_topic: [bus]} {a_")
    assert text.partition(" At least")[0] in (ROOT / "README.md").read_text("utf-8")


def test_how_many_decisions_the_embedded_situations_last():
    config = PipelineConfig()
    held_out, each = len(situations(config.situations, "evaluation", 0)), config.retrain.situations
    words = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}[held_out // each]
    said = f"with the {held_out} embedded situations that are held out and {each} a round, "
    assert f"{said}after {words} decisions" in (ROOT / "docs/operations.md").read_text()


def test_the_recipes_run(tmp_path):
    rule, reader, strategy, score, selector, prompt, benchmark, engine = map(
        made, python_blocks("extending.md")
    )

    keeps = rule["no_links"](CorpusConfig())
    assert keeps(dialogue("no address"))
    assert not keeps(dialogue("see http://a.b"))

    path = tmp_path / "a.jsonl"
    path.write_text('{"turns": [{"speaker": "person", "text": "hi"}]}\n')
    assert reader["TICKETS"].knows(path)
    (read,) = reader["TICKETS"].read(Source(path, path.name), CorpusConfig())
    assert read.messages == (Message("user", "hi"),)

    assert strategy["Opening"](SearchConfig(candidates=5)).options == 5
    assert score["short"]("one two") == -2.0
    asked = Inputs(SelectorConfig(), lambda: pytest.fail("asks no engine"), ModelConfig(), 0)
    (decision,) = selector["Varied"](asked).decide(
        [reply_ballot("b", [Message("user", "Hi!")], ["Hi! Hi!", "Hello there!"])]
    )
    assert decision.votes == (0.0, 2.0)
    assert prompt["harsh"].endswith(".")
    assert benchmark["manners"].is_answered({"said": "Please.", "polite": 1})

    settings = OwnEngineConfig(kind="my_pkg.engines:Echo", options={"loud": True})
    echo = engine["Echo"](settings, tmp_path, ModelConfig(), None, tmp_path)
    plain = SamplingConfig(top_k=0, repetition_penalty=1)
    (replies,) = echo.generate([Request("r", (Message("user", "hi"),), plain, n=2)])
    assert [reply.text for reply in replies] == ["HI", "HI"]
    assert not echo.traits.runs_here


def made(block: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(block, names)
    return names


@pytest.mark.parametrize(
    ("registry", "page"),
    [
        (READERS, "corpora.md"),
        (RULES, "corpora.md"),
        (PROMPTS, "evaluation.md"),
        (STRATEGIES, "search.md"),
        (SELECTORS, "search.md"),
        (BENCHMARKS, "evaluation.md"),
    ],
)
def test_every_name_of_a_registry_is_documented_and_in_the_reference(registry, page):
    text = (ROOT / "docs" / page).read_text("utf-8")
    assert not [name for name in registry.names if not re.search(rf"`(prompt: )?{name}`", text)]
    assert f"`{registry.choices}`" in hooks.configuration()


def dialogue(text: str) -> Dialogue:
    return Dialogue("d", "s", "t", (Message("user", text),))


def test_the_configuration_reference_is_complete():
    shown = set(re.findall(r"^\| `([\w. ]+)` \|", hooks.configuration(), re.MULTILINE))

    def keys(section: Any) -> set[str]:
        below = [m for f in section.model_fields.values() for m in hooks.models_in(f.annotation)]
        return set(section.model_fields).union(*map(keys, below))

    assert {key.split(".")[-1] for key in shown} == keys(PipelineConfig)
    assert {"seed", "search.selector.shuffles", "dpo.sft_weight"} <= shown


def test_the_command_reference_is_complete():
    text = hooks.command_line()
    for name, command in hooks.commands(get_command(app)):
        assert f"## {name}\n" in text
        assert all(param.opts[0] in text for param in command.params)


def test_links_are_translated_for_the_site():
    link = hooks._LINK.match
    table = link("](../benchmarks/results/train.md)")
    assert hooks.translated(table, "docs/results.md") == "](benchmarks/train.md)"
    assert hooks.translated(link("](docs/a.md#b)"), "README.md") == "](a.md#b)"
    assert hooks.translated(link("](../README.md#c)"), "docs/method.md") == "](index.md#c)"


def build(source: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Build the site as `make docs` does. With --quiet, --strict would let everything pass."""
    pytest.importorskip("mkdocs", reason="`make setup` installs it")
    makefile = (ROOT / "Makefile").read_text("utf-8")
    (options,) = re.findall(r"mkdocs (build .*)", makefile)
    command = [sys.executable, "-m", "mkdocs", *options.split(), "-d", str(site)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(
        command, cwd=source, env=environment, capture_output=True, text=True, timeout=120
    )


def test_the_site_builds_and_loads_nothing_from_other_hosts(tmp_path):
    built = build(ROOT, tmp_path)
    assert built.returncode == 0, built.stderr
    loads = re.compile(r"<(?:script|img|iframe|link)\b[^>]*(?:src|href)=\"(?:https?:)?//[^\"]*")
    for page in tmp_path.rglob("*.html"):
        assert not loads.findall(page.read_text("utf-8")), page
    for style in tmp_path.rglob("*.css"):
        assert not re.findall(r"url\(['\"]?(?:https?:)?//[^)]*", style.read_text("utf-8")), style


def test_dead_links_stop_the_build(tmp_path):
    links = ("nothing.md", "search.md#nothing", "../sage_core/sac.py")
    for name in ("docs", "benchmarks/results"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("mkdocs.yml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path)
    with (tmp_path / "docs/export.md").open("a", encoding="utf-8") as page:
        page.writelines(f"[a link]({link})\n" for link in links)
    built = build(tmp_path, tmp_path / "site")
    assert built.returncode == 1
    for link in links:
        name = link.removeprefix("../").partition("#")[0]
        assert re.search(rf"^WARNING.*{re.escape(name)}", built.stderr, re.MULTILINE), built.stderr
    assert f"{len(links)} warnings" in built.stdout  # each of them is one
