"""Scripted speakers for tests of search: their words follow from a request's own seed, as a model's
draws do, so that equal requests get equal answers whatever is asked beside them."""

from collections.abc import Callable
from dataclasses import dataclass, field

from scripted_engine import ScriptedEngine

from sage_core.config.conversation import ConversationConfig, SelfPlayConfig
from sage_core.engines.base import Request, draw_seed
from sage_core.schema import Situation
from sage_core.search.dialogue import Speaker
from sage_core.search.selectors.selector import Selector
from sage_core.search.strategies.strategy import Players

SITUATIONS = [
    Situation("rain", "It rains on my wedding.", "sad", "search"),
    Situation("cats", "My cats love me.", "joyful", "search"),
    Situation("job", "I got the job.", "proud", "search"),
]
ACTIONS = ("cheer", "tease", "ask", "soothe")


def states(action: str = "cheer", felt: str = "sad") -> str:
    """Both groups; the user is seen as ``felt``."""
    return (
        f"{{u_motivation: vent, u_emotion: {felt}, u_topic: [x]}} "
        f"{{a_motivation: {action}, a_emotion: calm, a_topic: [y]}}"
    )


def drawn(request: Request, candidate: int) -> str:
    """What a model of states would write: the part that the request asks for."""
    number = draw_seed(request, candidate)
    words = f"word {number % 1000}."
    if request.prefix:
        return f" {words}"
    if request.request_id.endswith("/opening"):
        return "{u_motivation: vent, u_emotion: sad, u_topic: [x]} "
    whole = states(ACTIONS[number % len(ACTIONS)])
    if request.request_id.endswith("-states"):
        return whole + " "
    return f"{whole} {words}"


@dataclass
class Cast:
    """Agent and user over one script, the requests they got, and how many calls they may answer."""

    script: Callable[[Request, int], str] = drawn
    calls_left: int = 10**9
    requests: list[Request] = field(default_factory=list)

    def players(
        self, selector: Selector | None = None, *, max_turns: int = 6, seed: int = 5
    ) -> Players:
        cast = self

        class Counting(ScriptedEngine):
            def generate(self, requests):  # type: ignore[no-untyped-def]
                if cast.calls_left == 0:
                    raise KeyboardInterrupt
                cast.calls_left -= 1
                cast.requests.extend(requests)
                return super().generate(requests)

        config = SelfPlayConfig(max_turns=max_turns, trim_user_questions=False)
        return Players(
            Speaker("m2", Counting(self.script), True, ConversationConfig().agent),
            Speaker("m1", Counting(self.script), True, ConversationConfig().user),
            config,
            seed,
            selector,
        )
