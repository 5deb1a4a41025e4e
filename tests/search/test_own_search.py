"""A strategy and a selector of one's own, named in the settings; and what the settings refuse."""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conversation import SITUATIONS, Cast, drawn
from scripted_engine import ScriptedEngine

from sage_core.config.conversation import ConversationConfig
from sage_core.config.model import ModelConfig
from sage_core.config.search import SearchConfig, SelectorConfig
from sage_core.engines.base import Engine
from sage_core.errors import ConfigError
from sage_core.sac import utterance_of
from sage_core.schema import Situation, Trajectory
from sage_core.search.checks import check_search
from sage_core.search.comparison import all_strategies
from sage_core.search.selectors import SELECTORS
from sage_core.search.selectors.selector import Inputs, files_of, selector_of
from sage_core.search.selfplay import self_play
from sage_core.search.strategies import STRATEGIES
from sage_core.search.strategies.strategy import strategy_of
from sage_core.steps.base import Model
from sage_core.steps.names import SITUATIONS as TABLE
from sage_core.steps.names import TRAJECTORIES
from sage_core.steps.search import SearchShard, engines_of
from sage_core.storage import ArtifactRef, read_rows, write_rows

MODULE = '''
from dataclasses import dataclass

from sage_core.search.selectors.selector import Decision, SelectorKind
from sage_core.search.strategies.greedy import Greedy
from sage_core.search.strategies.strategy import Strategy


class Opening(Strategy):
    """Candidates for the first reply only."""

    def __init__(self, config):
        self.candidates = config.candidates

    @property
    def options(self):
        return self.candidates

    def reply(self, dialogues, players):
        first = [each for each in dialogues if len(each.turns) == 1]
        Greedy(self.candidates).reply(first, players)
        Greedy(1).reply([each for each in dialogues if each not in first], players)


class Longest:
    may_refuse = False
    independent = True

    def __init__(self, inputs):
        self.seed = inputs.seed

    def decide(self, ballots):
        return [
            Decision(tuple(float(len(course[0].content)) for course in ballot.candidates))
            for ballot in ballots
        ]


def check(settings, options):
    assert options <= 2, "two at most"


CHECKED = SelectorKind(Longest, check=check, files=lambda settings: "a hash")
NUMBER = 1


def nothing(config):
    return None
'''


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The user's, in the working directory."""
    (tmp_path / "my_search.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("my_search", None)


def settings(**changes: Any) -> SearchConfig:
    return SearchConfig.model_validate({"candidates": 4, "selfplay": {"max_turns": 6}, **changes})


@dataclass
class Scripted:
    """The context of a step whose models are scripted; keeps whose engines were opened."""

    root: Path
    opened: list[str] = field(default_factory=list)

    @property
    def work(self) -> Path:
        return self.root / "work"

    def folder(self, ref: ArtifactRef) -> Path:
        return self.root / ref.path

    def engine(self, settings: object, model: Model, config: object) -> Engine:
        self.opened.append(model.name)
        return ScriptedEngine(drawn)

    def progress(self, description: str, total: int) -> AbstractContextManager[Any]:
        return nullcontext(lambda count: None)


def test_a_step_plays_ones_own_strategy_and_asks_ones_own_selector(tmp_path: Path) -> None:
    """Several candidates at the first turn only, of which the longest is kept."""
    own = settings(strategy="my_search:Opening", selector={"name": "my_search:Longest"})
    check_search(own)
    (tmp_path / "situations").mkdir()
    (tmp_path / "made").mkdir()
    write_rows(tmp_path / "situations" / TABLE, SITUATIONS, Situation)
    model = Model("m1", ArtifactRef("base", "0", 1), ArtifactRef("m1", "0", 1))
    step = SearchShard(
        agent=model, user=model, situations=ArtifactRef("situations", "0", 1), settings=own,
        conversation=ConversationConfig(), model=ModelConfig(), shard=0, seed=1, source="",
    )  # fmt: skip
    context = Scripted(tmp_path)
    step.run(tmp_path / "made", context)  # type: ignore[arg-type]
    assert context.opened == ["m1", "m1"]  # the selector did not ask for its own
    assert [each.name for each in step.named if each.own] == [
        "my_search:Opening",
        "my_search:Longest",
    ]
    for found in read_rows(tmp_path / "made" / TRAJECTORIES, Trajectory):
        first, *later = found.turns[1::2]
        lengths = [len(utterance_of(each.text)) for each in first.candidates]
        assert len(lengths) == 4
        assert len(utterance_of(first.content)) == max(lengths)
        assert [len(turn.candidates) for turn in later] == [1, 1]


def test_ones_own_is_compared_with_all_strategies() -> None:
    own = settings(strategy="my_search:Opening")
    assert [*all_strategies(own, states=True)] == [*STRATEGIES.names, "my_search:Opening"]
    assert "tree" not in all_strategies(own, states=False)
    found = self_play(
        SITUATIONS[:1], Cast().players(), all_strategies(own, states=True)[own.strategy]
    )
    assert len(found[0].trajectory.turns) == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "my_search:Absent"}, "'my_search:Absent' cannot be imported"),
        ({"strategy": "my_search:NUMBER"}, "is not a function of the search's settings; choose gr"),
        ({"strategy": "my_search:nothing"}, "does not make a Strategy; choose greedy"),
        ({"selector": {"name": "my_search:Absent"}}, "'my_search:Absent' cannot be imported"),
        ({"selector": {"name": "my_search:NUMBER"}}, "is not a SelectorKind"),
    ],
)
def test_ones_own_that_cannot_be_used_is_refused_before_the_start(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_search(settings(**changes))


def test_a_kind_of_ones_own_has_checks_and_files() -> None:
    own = settings(selector={"name": "my_search:CHECKED"})
    assert files_of(own.selector) == "a hash"
    check_search(own.model_copy(update={"candidates": 2}))
    with pytest.raises(AssertionError, match="two at most"):
        check_search(own)


def test_ones_own_that_never_refuses_is_not_asked_to() -> None:
    chosen = SelectorConfig(name="my_search:Longest", none_is_good=True)
    with pytest.raises(ConfigError, match=r"none is good; set search\.selector\.none_is_good=fal"):
        selector_of(Inputs(chosen, lambda: ScriptedEngine(drawn), ModelConfig(), 0))


def test_every_strategy_and_every_selector_has_a_name_and_loads() -> None:
    for name in STRATEGIES.names:
        assert strategy_of(settings(strategy=name)).options >= 1
    for name in SELECTORS.names:
        assert type(SELECTORS.load(name)).__name__ == "SelectorKind"
    with pytest.raises(ValueError, match=r"choose greedy, best_of_n_dialogue, tree, or your own"):
        settings(strategy="greedier")
    with pytest.raises(ValueError, match="choose llm, relevance, function, reward_model, random"):
        SelectorConfig(name="lm")


@pytest.mark.parametrize(
    ("given", "chosen", "asks"),
    [
        ({}, "llm", True),
        ({"relevance": True}, "relevance", True),
        ({"name": "relevance"}, "relevance", True),
        ({"name": "relevance", "relevance": True}, "relevance", True),
        ({"random": True}, "random", False),
        ({"function": "a:b"}, "function", False),
        ({"reward_model": "folder"}, "reward_model", False),
        ({"name": "my_search:Longest"}, "my_search:Longest", True),  # it may
    ],
)
def test_which_selector_the_settings_name(given: dict[str, Any], chosen: str, asks: bool) -> None:
    config = settings(selector=given)
    assert (config.selector.chosen, config.selector.asks_engine) == (chosen, asks)
    assert len(engines_of(config)) == 2 + asks


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "random", "relevance": True}, "name = 'random' and relevance are both set"),
        ({"name": "function"}, "name = 'function' needs the setting function"),
        ({"name": "random", "none_is_good": True}, "random cannot say that none is good"),
    ],
)
def test_names_that_contradict_other_settings(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelectorConfig.model_validate(given)
