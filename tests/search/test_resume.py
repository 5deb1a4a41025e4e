"""A search that is interrupted anywhere, or cut into other shards, gives the same result."""

from pathlib import Path

import pytest
from conversation import SITUATIONS, Cast
from scripted_engine import ScriptedEngine

from sage_core.config.conversation import ConversationConfig, SelfPlayConfig
from sage_core.config.model import ModelConfig
from sage_core.config.search import SelectorConfig, TreeConfig
from sage_core.engines.base import Request
from sage_core.search.dialogue import Speaker
from sage_core.search.selectors.llm import LLMSelector
from sage_core.search.selfplay import self_play
from sage_core.search.strategies.best_of_n_dialogue import BestOfNDialogue
from sage_core.search.strategies.greedy import Greedy
from sage_core.search.strategies.strategy import Players, Strategy
from sage_core.search.strategies.tree import Tree

STRATEGIES = [Greedy(3, redraws=2), BestOfNDialogue(3), Tree(5, TreeConfig(width=2, depth=1))]


def selector(options: SelectorConfig) -> LLMSelector:
    """Likes long replies, refuses some, and depends on nothing else."""

    def score(request: Request, option: str) -> float:
        text = request.messages[-1].content
        shown = next(line for line in text.splitlines() if line.startswith(f"{option}. "))
        return 3.5 if shown.endswith("is good.") else sum(map(ord, shown[3:])) % 5

    return LLMSelector(ScriptedEngine(lambda request, candidate: "", score), options, 5)


SELECTOR = selector(SelectorConfig(shuffles=2, none_is_good=True))


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: type(strategy).__name__)
def test_interrupted_at_every_call(strategy: Strategy, tmp_path: Path) -> None:
    whole = Cast()
    expected = self_play(SITUATIONS, whole.players(SELECTOR), strategy)
    calls = 10**9 - whole.calls_left
    assert calls > 5
    for allowed in range(calls):
        work = tmp_path / str(allowed)
        with pytest.raises(KeyboardInterrupt):
            self_play(SITUATIONS, Cast(calls_left=allowed).players(SELECTOR), strategy, work=work)
        assert self_play(SITUATIONS, Cast().players(SELECTOR), strategy, work=work) == expected


def test_turns_that_are_saved_are_not_played_again(tmp_path: Path) -> None:
    """Five turns: three replies of one call each, two answers, the first one of two calls."""
    with pytest.raises(KeyboardInterrupt):
        self_play(SITUATIONS, Cast(calls_left=4).players(), Greedy(2), work=tmp_path)
    rest = Cast()
    counted: list[int] = []
    self_play(SITUATIONS, rest.players(), Greedy(2), work=tmp_path, on_progress=counted.append)
    assert [request.request_id.split("/")[2] for request in rest.requests] == ["4"] * 3 + ["5"] * 3
    assert sum(counted) == 3 * 5  # what was played before counts as progress too


@pytest.mark.parametrize("content", ["", "{", '{"turn": 3}', '{"turn": 3, "dialogues": [1]}'])
def test_a_file_that_is_not_whole_is_as_none(content: str, tmp_path: Path) -> None:
    expected = self_play(SITUATIONS, Cast().players(), Greedy(2), work=tmp_path)
    (saved,) = tmp_path.iterdir()
    saved.write_text(content)
    again = Cast()
    assert self_play(SITUATIONS, again.players(), Greedy(2), work=tmp_path) == expected
    assert again.requests


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: type(strategy).__name__)
def test_shards_of_any_size_give_the_same(strategy: Strategy) -> None:
    together = self_play(SITUATIONS, Cast().players(SELECTOR), strategy)
    apart = [self_play([each], Cast().players(SELECTOR), strategy)[0] for each in SITUATIONS]
    assert together == apart
    other = self_play(SITUATIONS, Cast().players(SELECTOR, seed=6), strategy)
    assert [found.trajectory for found in other] != [found.trajectory for found in together]


def test_a_real_engine_goes_on_with_the_same_bytes(tiny_base: Path, tmp_path: Path) -> None:
    from sage_core.engines.in_process import TransformersEngine

    model = ModelConfig(base="tiny", dtype="float32", device="cpu", max_context=1024)
    engine = TransformersEngine(tiny_base, None, model)
    # The random model writes bytes that are no text, so it gets no grammar and plain words.
    speaker = Speaker("raw", engine, False, ConversationConfig().agent)
    config = SelfPlayConfig.model_validate(
        {"max_turns": 5, "sampling": {"max_new_tokens": 12}, "trim_user_questions": False}
    )
    players = Players(speaker, speaker, config, 3)
    expected = self_play(SITUATIONS, players, Greedy(3))
    assert all(len(found.trajectory.turns) > 1 for found in expected)

    class Mortal:
        capabilities, name, usage = engine.capabilities, engine.name, engine.usage
        left = 2

        def generate(self, requests):  # type: ignore[no-untyped-def]
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            return engine.generate(requests)

        choose = engine.choose

    dying = Speaker("raw", Mortal(), False, ConversationConfig().agent)
    with pytest.raises(KeyboardInterrupt):
        self_play(SITUATIONS, Players(dying, dying, config, 3), Greedy(3), work=tmp_path)
    assert self_play(SITUATIONS, players, Greedy(3), work=tmp_path) == expected
