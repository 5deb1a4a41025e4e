"""How dialogues end, what the user's first state is set to, and what is noted on the way."""

from dataclasses import replace

import pytest
from conversation import SITUATIONS, Cast, drawn, states

from sage_core.engines.base import Completion, Request
from sage_core.engines.scripted import ScriptedEngine
from sage_core.errors import ContextError
from sage_core.sac import StateAction, parse
from sage_core.schema import ENDINGS, Trajectory
from sage_core.search.selfplay import search
from sage_core.search.strategies import Greedy


def played(cast: Cast, candidates: int = 2, max_turns: int = 6) -> dict[str, Trajectory]:
    found = search(SITUATIONS, cast.players(max_turns=max_turns), Greedy(candidates))
    return {each.trajectory.situation_id: each.trajectory for each in found}


@pytest.mark.parametrize(
    ("who", "reply", "ended", "turns"),
    [
        ("agent", "", "no_reply", 3),
        ("agent", states(), "no_reply", 3),
        ("agent", states()[:-9], "states_never_closed", 3),
        ("agent", states().split(" {a_")[0], "no_reply", 3),
        ("user", "  ", "user_silent", 4),
        ("user", "{u_motivation: vent", "user_states_never_closed", 4),
        ("nobody", "", "turns", 6),
    ],
)
def test_one_dialogue_ends_with_its_reason_and_the_others_go_on(
    who: str, reply: str, ended: str, turns: int
) -> None:
    def script(request: Request, candidate: int) -> str:
        name, turn, part = request.request_id.split("/")[1:]
        return (
            reply if name == "cats" and part == who and int(turn) > 2 else drawn(request, candidate)
        )

    found = played(Cast(script))
    assert (found["cats"].ended, len(found["cats"].turns)) == (ended, turns)
    assert ended in ENDINGS
    assert {found[name].ended for name in ("rain", "job")} == {"turns"}
    assert {len(found[name].turns) for name in ("rain", "job")} == {6}


def test_a_dialogue_that_the_context_has_no_room_for_ends_alone() -> None:
    """The engine refuses the whole call, as real ones do."""

    class Short(ScriptedEngine):
        def generate(self, requests):  # type: ignore[no-untyped-def]
            for request in requests:
                if "/cats/3/" in request.request_id:
                    raise ContextError(f"'{request.request_id}' has 9 tokens too many")
            return super().generate(requests)

    players = Cast().players()
    agent = replace(players.agent, engine=Short(drawn))
    found = search(SITUATIONS, replace(players, agent=agent), Greedy(2))
    plain = search(SITUATIONS, players, Greedy(2))
    assert found[1].trajectory.ended == "context_full: 'm2/cats/3/agent' has 9 tokens too many"
    assert found[1].trajectory.turns == plain[1].trajectory.turns[:3]
    assert [found[0], found[2]] == [plain[0], plain[2]]


def test_candidates_that_are_all_alike_are_noted() -> None:
    def script(request: Request, candidate: int) -> str:
        return f" same{request.prefix and '!'}" if request.prefix else f"{states()} same"

    found = played(Cast(script), candidates=3)
    assert found["rain"].turns[1].notes == ("no_choice: all candidates alike or empty",)
    assert [len(turn.candidates) for turn in found["rain"].turns] == [0, 1] * 3
    assert played(Cast(script), candidates=1)["rain"].turns[1].notes == ()


def test_every_token_drawn_is_counted() -> None:
    cast = Cast()
    players = cast.players()
    found = search(SITUATIONS, players, Greedy(3))
    words = sum(
        len(drawn(request, candidate).split())
        for request in cast.requests
        for candidate in range(request.n)
    )
    assert sum(each.trajectory.generated_tokens for each in found) == words


# --- the user's first state -----------------------------------------------------------------------


def user_requests(cast: Cast, line: str = "m2/rain/2") -> dict[str, Request]:
    """The requests of the user's first turn, by their part."""
    return {
        request.request_id.split("/")[3]: request
        for request in cast.requests
        if request.request_id.startswith(line)
    }


def test_the_users_first_state_is_what_the_agent_took_it_for() -> None:
    def script(request: Request, candidate: int) -> str:
        if request.request_id.endswith("user-sees"):
            return "{u_motivation: jest, u_emotion: null, u_topic: [z]} "
        return drawn(request, candidate)

    cast = Cast(script)
    found = played(cast)
    asked = user_requests(cast)
    inferred = parse(found["rain"].turns[1].content).user
    assert inferred == StateAction("vent", "sad", ("x",))
    starts = parse(f"{asked['user'].prefix} hello")
    # What it sees in the agent is its own reading; its own state is the agent's reading of it.
    assert starts.user == StateAction("jest", None, ("z",))
    assert starts.agent == inferred
    assert asked["user-sees"].constraint is not None
    assert asked["user-sees"].constraint.text.startswith('root ::= "{u_motivation: "')
    assert asked["user"].constraint is not None
    assert asked["user"].constraint.text.startswith('root ::= " " utterance')
    # Later states are its own, and it reads none of the agent's.
    assert set(user_requests(cast, "m2/rain/4")) == {"user"}
    assert not user_requests(cast, "m2/rain/4")["user"].prefix
    assert not any("{" in m.content for r in asked.values() for m in r.messages)


def test_a_state_that_cannot_be_carried_is_left_out_and_noted() -> None:
    """The value spells a key of the group that it would have to stand in."""
    odd = "{u_motivation: vent, a_topic: x, u_emotion: sad, u_topic: [x]} {a_motivation: cheer, "

    def script(request: Request, candidate: int) -> str:
        if request.request_id.endswith("/1/agent"):
            return f"{odd}a_emotion: calm, a_topic: [y]}} Oh."
        return drawn(request, candidate)

    cast = Cast(script)
    found = played(cast)
    assert parse(f"{user_requests(cast)['user'].prefix} x").agent == StateAction(
        None, "sad", ("x",)
    )
    assert found["rain"].turns[2].notes == ("user_state_not_set: motivation",)
    assert found["rain"].turns[4].notes == ()


def test_an_engine_that_cannot_go_on_from_a_text_is_noted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    less = replace(ScriptedEngine.capabilities, prefix=False)
    monkeypatch.setattr(ScriptedEngine, "capabilities", less)
    cast = Cast()
    found = played(cast)
    assert found["rain"].turns[2].notes == (
        "user_state_not_set: the engine 'scripted' cannot go on from a text",
    )
    assert set(user_requests(cast)) == {"user"}


@pytest.mark.parametrize("silent", ["agent", "user"])
def test_nothing_is_set_where_a_side_has_no_states(silent: str) -> None:
    cast = Cast(lambda request, candidate: f"plain {len(request.messages)}.")
    players = cast.players()
    side = getattr(players, silent)
    search(SITUATIONS, replace(players, **{silent: replace(side, states=False)}), Greedy(1))
    assert set(user_requests(cast)) == {"user"}
    assert not user_requests(cast)["user"].prefix


def test_a_completion_keeps_what_the_context_left_out() -> None:
    class Forgetful(ScriptedEngine):
        def generate(self, requests):  # type: ignore[no-untyped-def]
            answers = super().generate(requests)
            return [[replace(each, left_out=4) for each in answer] for answer in answers]

    players = Cast().players(max_turns=3)
    found = search(
        SITUATIONS[:1],
        replace(players, user=replace(players.user, engine=Forgetful(drawn))),
        Greedy(1),
    )
    assert [turn.left_out for turn in found[0].trajectory.turns] == [0, 0, 4]
    assert Completion("x", "stop", 1).left_out == 0
