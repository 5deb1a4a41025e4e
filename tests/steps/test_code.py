"""What code and which files a step's key counts: all that it can reach, and nothing else."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from every_step import steps, with_engines

from sage_core.config.corpus import CorpusConfig
from sage_core.config.engine import OpenAIConfig
from sage_core.config.evaluation import JudgeConfig
from sage_core.config.mixture import MixtureConfig
from sage_core.config.search import SearchConfig
from sage_core.corpus.readers import READERS
from sage_core.errors import ConfigError
from sage_core.search.strategies import STRATEGIES
from sage_core.steps import code
from sage_core.steps.base import Step
from sage_core.steps.code import own_code
from sage_core.steps.judging import JudgePair
from sage_core.steps.key import code_of, key, roots

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "sage_core"
STEPS = steps()
SERVED = OpenAIConfig(model="judge")
Change = Callable[[str, str], dict[str, str]]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
FILES = {
    path.relative_to(PACKAGE).as_posix(): path
    for folder in ("data", "templates")
    for path in sorted((PACKAGE / folder).iterdir())
    if path.is_file() and path.suffix != ".py"
}


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> Change:
    """The code hash of every step with one module or file changed: text is added to it."""
    read, module, file = code.read_source, code._module, code._file

    def change(name: str, more: str) -> dict[str, str]:
        path = {**MODULES, **FILES}[name]

        def changed_source(each: Path) -> str:
            return read(each) + more if each == path else read(each)

        monkeypatch.setattr(code, "read_source", changed_source)
        # Only what is changed is read again: the other sources are known.
        monkeypatch.setattr(
            code,
            "_module",
            lambda each, packages: (module.__wrapped__ if each == name else module)(each, packages),
        )
        monkeypatch.setattr(
            code, "_file", lambda each: (file.__wrapped__ if each == name else file)(each)
        )
        return {each: code_of(step) for each, step in STEPS.items()}

    return change


BEFORE = {name: code_of(step) for name, step in STEPS.items()}


def remade(after: dict[str, str]) -> set[str]:
    return {name for name, found in after.items() if found != BEFORE[name]}


def test_each_file_changes_the_keys_of_the_steps_that_reach_it_and_no_others(
    changed: Change,
) -> None:
    reached = {name: set(code.reach(*roots(step))) for name, step in STEPS.items()}
    for module in MODULES:
        expected = {name for name, found in reached.items() if module in found}
        assert remade(changed(module, "\nchanged = True\n")) == expected, module
    for file in FILES:
        expected = {name for name, found in reached.items() if file in found}
        assert remade(changed(file, "more")) == expected, file


def test_what_a_step_imports_is_reached() -> None:
    """Held against Python itself: the modules that are there once a step's module is imported."""
    names = sorted({type(step).__module__ for step in STEPS.values()})
    program = f"""
import os, sys
import pyarrow.parquet, pydantic, yaml
for name in {names}:
    sys.stdout.flush()
    if os.fork() == 0:
        __import__(name)
        print(name, *sorted(each for each in sys.modules if each.split(".")[0] == "sage_core"))
        sys.stdout.flush()
        os._exit(0)
    assert os.wait()[1] == 0
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == names
    for name, *imported in lines:
        assert set(imported) - {"sage_core.steps"} <= set(code.reach(name)), name


ALL = set(STEPS)
OPENINGS = {"situations", "round-situations"}
REPORT = {"report"}


@pytest.mark.parametrize(
    ("name", "more", "some", "none"),
    [
        # Helpers of steps, and how engines are opened.
        ("sage_core.steps.speaking", "x = 1\n", {"search-shard", "rollout-shard"}, {"sft"}),
        ("sage_core.steps.tables", "x = 1\n", {"searched", "judgements"}, {"search-shard"}),
        ("sage_core.engines.opening", "x = 1\n", {"annotate-shard", "judge-pair"}, {"sft"}),
        # Packaged files.
        ("templates/report.html.jinja", "x", REPORT, ALL - REPORT),
        ("templates/macros.html.jinja", "x", REPORT, ALL - REPORT),  # which it includes
        ("templates/chatml.jinja", "x", {"base-model"}, {"report", "corpus"}),
        ("templates/data_card.md.jinja", "x", {"corpus"}, {"base-model", "annotate-shard"}),
        ("data/situations.jsonl", "x", OPENINGS, ALL - OPENINGS),
        # What is used from afar.
        ("sage_core.corpus.sources", "x = 1\n", {"chain-text"}, {"sft"}),
        ("sage_core.training.job", "x = 1\n", {"report", "sft", "dpo"}, {"figures"}),
        # What changes nothing.
        ("sage_core.schema", "# a comment\n", set(), ALL),
        ("sage_core.sac", "\n\n\n", set(), ALL),
        ("sage_core.engines.openai_http", "x = 1\n", set(), ALL),  # all use transformers here
        ("sage_core.planning.costs", "x = 1\n", set(), ALL),
    ],
)
def test_keys_that_were_stale_or_too_fresh(
    changed: Change, name: str, more: str, some: set[str], none: set[str]
) -> None:
    found = remade(changed(name, more))
    assert some <= found
    assert not none & found


def test_an_engines_code_counts_where_it_is_named(changed: Change) -> None:
    served = {
        name: replace(step, **{f.name: with_engines(getattr(step, f.name), SERVED)
                               for f in fields(step)})
        for name, step in STEPS.items()
    }  # fmt: skip
    asking = {name for name, step in served.items() if step.engines}
    assert {"annotate-shard", "search-shard", "judge-pair"} <= asking

    before = {name: code_of(served[name]) for name in asking}

    def after(module: str) -> set[str]:
        changed(module, "x = 1\n")
        return {name for name in asking if code_of(served[name]) != before[name]}

    assert after("sage_core.engines.openai_http") == asking
    assert after("sage_core.engines.servers") == asking
    assert "judge-pair" not in after("sage_core.engines.in_process")
    assert "annotate-shard" not in after("sage_core.engines.drawing")


EXPORTS = {
    "chatgpt", "claude", "discord", "esconv", "openassistant", "slack", "telegram", "whatsapp"
}  # fmt: skip


def with_corpus(name: str, **settings: Any) -> Step:
    return replace(STEPS[name], corpus=CorpusConfig.model_validate(settings))  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("module", "readers", "others"),
    [
        ("chitchat", {"chitchat"}, {"corpus-source", "corpus"}),  # of the default
        ("pushshift", {"pushshift"}, set()),
        ("convokit", {"convokit"}, set()),
        ("recognition", {"messages", "sharegpt", "hf"}, set()),
        ("huggingface", {"hf"}, set()),
        ("conversations", {"messages", "sharegpt", "hf", *EXPORTS}, set()),
        ("empathetic_dialogues", {"empathetic_dialogues"}, OPENINGS),
    ],
)
def test_a_readers_code_counts_where_it_is_named(
    changed: Change, module: str, readers: set[str], others: set[str]
) -> None:
    corpora = {
        (name, reader): with_corpus(name, reader=reader)
        for name in ("corpus-source", "corpus-partition", "corpus")
        for reader in READERS.names
    }
    blends = {
        reader: replace(STEPS["chain-text"], settings=MixtureConfig.model_validate(
            {"instructions": {"reader": reader, "input": "x"}}
        ))  # type: ignore[call-arg]
        for reader in READERS.names
    }  # fmt: skip
    steps = {**corpora, **{("chain-text", reader): step for reader, step in blends.items()}}
    before = {each: code_of(step) for each, step in steps.items()}
    found = remade(changed(f"sage_core.corpus.readers.{module}", "x = 1\n"))
    assert found == others
    assert {each for each, step in steps.items() if code_of(step) != before[each]} == {
        (name, reader) for name in ("corpus-source", "corpus", "chain-text") for reader in readers
    }


@pytest.mark.parametrize(
    ("rule", "kept_by"),
    [
        ("url", {"corpus-partition", "corpus"}),
        ("question", {"corpus-partition", "corpus"}),
        ("near_duplicate", {"corpus"}),  # which looks across partitions
    ],
)
def test_a_rules_code_counts_where_it_is_named(
    changed: Change, rule: str, kept_by: set[str]
) -> None:
    rules = {"paper": "paper", "url": ["url", "turns"], "near": ["near_duplicate"], "all": "all"}
    steps = {
        (name, each): with_corpus(name, rules=value)
        for name in ("corpus-source", "corpus-partition", "corpus")
        for each, value in rules.items()
    }
    using = {"url": {"url", "all"}, "question": {"paper", "all"}, "near_duplicate": {"near", "all"}}
    before = {each: code_of(step) for each, step in steps.items()}
    found = remade(changed(f"sage_core.corpus.rules.{rule}", "x = 1\n"))
    assert found == (kept_by if rule == "question" else set())  # of the default, the paper's
    assert {each for each, step in steps.items() if code_of(step) != before[each]} == {
        (name, each) for name in kept_by for each in using[rule]
    }


def searching(**settings: Any) -> Step:
    return replace(STEPS["search-shard"], settings=SearchConfig.model_validate(settings))  # type: ignore[call-arg]


def changed_by(changed: Change, module: str, steps: dict[str, Step]) -> set[str]:
    """Those of ``steps`` that a change of the module makes anew."""
    before = {name: code_of(step) for name, step in steps.items()}
    changed(module, "x = 1\n")
    return {name for name, step in steps.items() if code_of(step) != before[name]}


@pytest.mark.parametrize(
    ("module", "strategies"),
    [
        ("greedy", {"greedy", "best_of_n_dialogue", "tree", "rollout"}),  # one candidate a turn
        ("best_of_n_dialogue", {"best_of_n_dialogue"}),
        ("tree", {"tree"}),
        ("strategy", {"greedy", "best_of_n_dialogue", "tree", "rollout", "probe"}),
    ],
)
def test_a_strategys_code_counts_where_it_is_named(
    changed: Change, module: str, strategies: set[str]
) -> None:
    steps = {name: searching(strategy=name) for name in STRATEGIES.names}
    steps |= {"rollout": STEPS["rollout-shard"], "probe": STEPS["grammar-probe"]}
    assert changed_by(changed, f"sage_core.search.strategies.{module}", steps) == strategies


@pytest.mark.parametrize(
    ("module", "selectors"),
    [
        ("llm", {"llm"}),
        ("relevance", {"relevance"}),
        ("scores", {"relevance", "function", "reward_model"}),
        ("function", {"function"}),
        ("reward_model", {"reward_model"}),
        ("chance", {"random"}),
    ],
)
def test_a_selectors_code_counts_where_it_is_named(
    changed: Change, module: str, selectors: set[str]
) -> None:
    """Whether the name or its own setting names it."""
    own = {"relevance": True, "function": "every_step:x", "reward_model": "x", "random": True}
    by_setting = {name: searching(selector={name: value}) for name, value in own.items()}
    by_name = {
        f"name {name}": searching(selector={"name": name})
        for name in ("llm", "relevance", "random")
    }
    found = changed_by(
        changed,
        f"sage_core.search.selectors.{module}",
        {"llm": searching(), **by_setting, **by_name, "rollout": STEPS["rollout-shard"]},
    )
    assert found == selectors | {f"name {name}" for name in selectors} & by_name.keys()


def test_a_judge_prompts_code_counts_where_it_is_named(changed: Change) -> None:
    judging = judged_with("companion")
    before = code_of(judging)
    assert remade(changed("sage_core.evaluation.prompts.companion", "x = 1\n")) == set()
    assert code_of(judging) != before
    judges = {"judge-pair", "calibrate-judge"}
    assert remade(changed("sage_core.evaluation.prompts.open", "x = 1\n")) == judges
    assert code_of(judging) == before


def judged_with(prompt: str) -> Step:
    """A judge with another prompt."""
    step = STEPS["judge-pair"]
    assert isinstance(step, JudgePair)
    settings = JudgeConfig(name="m0", prompt=prompt)
    return replace(step, judge=replace(step.judge, settings=settings))


OWN = ("reader", "rule", "prompt", "score", "selector", "strategy")


def own_steps(package: str) -> dict[str, Step]:
    """Steps whose settings name something of the user's own."""
    own = {name: f"{package}.{name}s:own" for name in OWN}
    return {
        "reader": with_corpus("corpus-source", reader=own["reader"]),
        "rule": with_corpus("corpus-partition", rules=["turns", own["rule"]]),
        "prompt": judged_with(own["prompt"]),
        "score": searching(selector={"function": own["score"]}),
        "selector": searching(selector={"name": own["selector"]}),
        "strategy": searching(strategy=own["strategy"]),
    }


def test_ones_own_code_counts_with_all_of_its_package_that_it_reaches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever of it is changed but a comment; and its name and hash are in the manifest."""
    package = tmp_path / "our_own_code"
    package.mkdir()
    sources = {f"{name}s": "own = 1\n" for name in OWN}
    sources |= {"__init__": "", "helper": "x = 1\n", "rules": "from our_own_code import helper\n"}

    def keys(**changed: str) -> dict[str, str]:
        for name, text in {**sources, **changed}.items():
            (package / f"{name}.py").write_text(text)
        code._module.cache_clear()
        return {name: key(step) for name, step in own_steps("our_own_code").items()}

    monkeypatch.chdir(tmp_path)  # which is enough to be found
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = keys()

    def different(**changed: str) -> set[str]:
        return {name for name, found in keys(**changed).items() if found != before[name]}

    assert different() == different(rules=sources["rules"] + "# a comment\n") == set()
    for name in before:
        assert different(**{f"{name}s": "own = 2\n"}) == {name}
    assert different(helper="x = 2\n") == {"rule"}
    for step in own_steps("our_own_code").values():
        (own,) = (each for each in step.named if each.own)
        assert own_code(step.named) == {own.name: code.code_hash(own.module)}


def test_a_module_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no module 'nowhere_at_all'; .* PYTHONPATH"):
        key(with_corpus("corpus-source", reader="nowhere_at_all:read"))


PLAIN = "def f(a):\n    return a\n"
TABLE = 'NAMES = Registry("a", table={"x": "a:b"})\n'
SECTION = (
    "class Section: ...\nclass Part(Section):\n    n: int = 1\n    def m(self): return self.n\n"
)
KIND = "class Part(EngineSection):\n    n: int = 1\n    limit: ClassVar[int] = 1\n"


@pytest.mark.parametrize(
    ("text", "other", "same"),
    [
        (PLAIN, '"""Words."""\ndef f(a):\n    """More."""\n    return a  # why\n', True),
        (PLAIN, "def f(\n    a,\n):\n    return (a)\n", True),
        (PLAIN, "def f(a):\n    return -a\n", False),
        # What a step takes from a registry is in its key, the rest of the table does not matter.
        (TABLE, TABLE.replace("}", ', "y": "a:c"}'), True),
        (TABLE, TABLE.replace("NAMES", "OTHERS"), False),
        # The values of settings are in the keys of the steps that are given them.
        (SECTION, SECTION.replace("n: int = 1", "n: int = 2; other: str = 'x'"), True),
        (SECTION, SECTION.replace("return self.n", "return -self.n"), False),
        (KIND, KIND.replace("n: int = 1", "n: int = 2"), True),
        (KIND, KIND.replace("ClassVar[int] = 1", "ClassVar[int] = 2"), False),
    ],
)
def test_only_what_runs_is_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, other: str, same: bool
) -> None:
    hashes = []
    for source in (text, other):
        (tmp_path / "a_module.py").write_text(source)
        monkeypatch.setattr(code, "locate", lambda name: tmp_path / f"{name}.py")
        hashes.append(code._module.__wrapped__("a_module", frozenset({"a_module"})).text)
    assert (hashes[0] == hashes[1]) is same


def test_which_imports_and_files_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "a_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    for name in ("typed", "late", "sibling", "unused"):
        (package / f"{name}.py").write_text("")
    (package / "first.py").write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from a_package.typed import T\n"
        "from . import sibling\n"
        "def f():\n    from a_package.late import g\n    return packaged('data/situations.jsonl')\n"
    )
    (package / "wrong.py").write_text("packaged(name)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = set(code.reach("a_package.first"))
    expected = {f"a_package.{name}" for name in ("first", "late", "sibling")}
    assert found == {"a_package", "data/situations.jsonl", *expected}
    with pytest.raises(ValueError, match=r"a_package\.wrong: packaged\(\) takes .* literal"):
        code.reach("a_package.wrong")


def test_packaged_files_are_read_in_one_way() -> None:
    """A preset is read elsewhere: it becomes settings, which are in the keys."""
    reads = 'resources.files("sage_core'
    reading = {name for name, path in MODULES.items() if reads in path.read_text()}
    assert reading == {"sage_core.packaged", "sage_core.config.loading"}


def test_a_step_is_keyed_by_name_inputs_and_code() -> None:
    keys = {key(step) for step in STEPS.values()}
    assert len(keys) == len(STEPS)
    for step in STEPS.values():
        assert isinstance(step, Step)
        assert key(step) == key(replace(step))
