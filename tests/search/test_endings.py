"""How dialogues end, what the user's first state is set to, and what is noted on the way."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from conversation import SITUATIONS, Cast, drawn, states
from scripted_engine import ScriptedEngine

from sage_core.engines.base import Completion, Request
from sage_core.errors import ContextError
from sage_core.schema import ENDINGS, Trajectory
from sage_core.search.selfplay import self_play
from sage_core.search.strategies.greedy import Greedy


def played(cast: Cast, candidates: int = 2, max_turns: int = 6) -> dict[str, Trajectory]:
    found = self_play(SITUATIONS, cast.players(max_turns=max_turns), Greedy(candidates))
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
        speaker, name, turn = request.request_id.split("/")[:3]
        speaks = ("user" if speaker == "user" else "agent") == who and turn in "345"
        return reply if name == "cats" and speaks else drawn(request, candidate)

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
    found = self_play(SITUATIONS, replace(players, agent=agent), Greedy(2))
    plain = self_play(SITUATIONS, players, Greedy(2))
    assert found[1].trajectory.ended == "context_full: 'm2/cats/3/agent' has 9 tokens too many"
    assert found[1].trajectory.turns == plain[1].trajectory.turns[:3]
    assert [found[0], found[2]] == [plain[0], plain[2]]


def test_candidates_that_are_all_alike_are_noted() -> None:
    def script(request: Request, candidate: int) -> str:
        return f"{states()} same"

    found = played(Cast(script), candidates=3)
    assert found["rain"].turns[1].notes == ("no_choice: all candidates alike or empty",)
    assert [len(turn.candidates) for turn in found["rain"].turns] == [0, 1] * 3
    assert played(Cast(script), candidates=1)["rain"].turns[1].notes == ()


def test_every_token_drawn_is_counted() -> None:
    cast = Cast()
    players = cast.players()
    found = self_play(SITUATIONS, players, Greedy(3))
    words = sum(
        len(drawn(request, candidate).split())
        for request in cast.requests
        for candidate in range(request.n)
    )
    assert sum(each.trajectory.generated_tokens for each in found) == words


# --- the states of the situation ------------------------------------------------------------------

EMPTY_GROUP = "{u_motivation: null, u_emotion: null, u_topic: []}"


def reading(text: str) -> Callable[[Request, int], str]:
    """A script in which the user model reads ``text`` in every situation."""
    return lambda request, candidate: (
        text if request.request_id.endswith("/opening") else drawn(request, candidate)
    )


def test_the_users_first_state_is_what_its_model_reads_in_the_situation() -> None:
    cast = Cast(reading("{u_motivation: jest, u_emotion: null, u_topic: [z, y]} "))
    found = played(cast)
    action = "{a_motivation: jest, a_emotion: null, a_topic: [z, y]}"
    assert found["rain"].turns[0].states == f"{EMPTY_GROUP} {action}"
    (opening,) = [r for r in cast.requests if r.request_id == "user/rain/opening"]
    (first,) = [r for r in cast.requests if r.request_id == "m2/rain/1/agent"]
    assert opening.messages == first.messages  # it reads the situation as an agent does
    assert opening.constraint is not None
    assert opening.constraint.text.startswith('root ::= "{u_motivation: "')
    (asked,) = [r for r in cast.requests if r.request_id == "user/rain/2"]
    assert asked.messages[1].content == f"{EMPTY_GROUP} {action} It rains on my wedding."


def test_a_state_that_cannot_be_carried_is_left_out_and_noted() -> None:
    """The motivation spells a key of the group that it would have to stand in."""
    odd = "{u_motivation: vent, a_topic: x, u_emotion: sad, u_topic: [x]} "
    found = played(Cast(reading(odd)))
    assert found["rain"].turns[0].states == (
        f"{EMPTY_GROUP} {{a_motivation: null, a_emotion: sad, a_topic: [x]}}"
    )
    assert found["rain"].turns[0].notes == ("user_state_not_set: motivation",)
    assert found["rain"].turns[2].notes == ()


def test_a_user_without_states_has_none() -> None:
    cast = Cast(lambda request, candidate: f"plain {len(request.messages)}.")
    players = cast.players()
    user = replace(players.user, states=False)
    (found, *_) = self_play(SITUATIONS, replace(players, user=user), Greedy(1))
    assert not any(request.request_id.endswith("/opening") for request in cast.requests)
    assert {turn.states for turn in found.trajectory.turns} == {""}


def test_a_completion_keeps_what_the_context_left_out() -> None:
    class Forgetful(ScriptedEngine):
        def generate(self, requests):  # type: ignore[no-untyped-def]
            answers = super().generate(requests)
            return [[replace(each, left_out=4) for each in answer] for answer in answers]

    players = Cast().players(max_turns=3)
    found = self_play(
        SITUATIONS[:1],
        replace(players, user=replace(players.user, engine=Forgetful(drawn))),
        Greedy(1),
    )
    assert [turn.left_out for turn in found[0].trajectory.turns] == [0, 0, 4]
    assert Completion("x", "stop", 1).left_out == 0
