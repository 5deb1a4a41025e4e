"""How many files a reader of one dialogue enters: those whose functions run in it."""

import sys
from pathlib import Path
from types import FrameType
from typing import Any

from conversation import SITUATIONS, Cast
from scripted_engine import ScriptedEngine

from sage_core.config.search import SearchConfig
from sage_core.search.selectors.llm import LLMSelector
from sage_core.search.selfplay import self_play
from sage_core.search.strategies.strategy import strategy_of

PACKAGE = Path(__file__).parents[2] / "sage_core"
STATES = {"sac.py", "states.py", "conversation.py", "engines/grammar.py", "engines/base.py"}
SEARCH = {"search/selfplay.py", "search/dialogue.py", "search/saved.py"}
GREEDY = {"search/strategies/strategy.py", "search/strategies/greedy.py"}
ASKED = {"engines/answered.py"}  # of requests, those that fail for themselves
SELECTOR = {"search/selectors/selector.py", "search/selectors/llm.py"}
STORED = {"storage.py"}  # names the file of the saved dialogues


def entered(config: SearchConfig) -> set[str]:
    """The files whose functions run while one dialogue is played."""
    engine = ScriptedEngine(lambda request, candidate: "", lambda request, option: -len(option))
    players = Cast().players(LLMSelector(engine, config.selector, 0))
    strategy = strategy_of(config)
    found: set[str] = set()

    def called(frame: FrameType, event: str, argument: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(PACKAGE):
            found.add(path.relative_to(PACKAGE).as_posix())

    sys.setprofile(called)
    try:
        self_play(SITUATIONS[:1], players, strategy)
    finally:
        sys.setprofile(None)
    return found


def test_one_dialogue_enters_its_own_strategy_and_selector_only() -> None:
    found = entered(SearchConfig(candidates=3))
    assert found <= STATES | SEARCH | GREEDY | SELECTOR | STORED | ASKED
    assert found >= SEARCH | GREEDY | SELECTOR
    assert len(found) <= 14
