"""Self-play with scripted speakers: who speaks when, who sees what, what is recorded."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from scripted_engine import ScriptedEngine

from sage_core.config.conversation import ConversationConfig, SelfPlayConfig
from sage_core.config.search import SelectorConfig
from sage_core.conversation import of_turns, view
from sage_core.engines.base import Completion, Request
from sage_core.sac import utterance_of
from sage_core.schema import Message, Situation, Trajectory
from sage_core.search.dialogue import Speaker, without_questions
from sage_core.search.selectors.llm import LLMSelector
from sage_core.search.selectors.selector import Selector
from sage_core.search.selfplay import count_malformed, self_play
from sage_core.search.strategies.greedy import Greedy
from sage_core.search.strategies.strategy import Players

SITUATIONS = [
    Situation("rain", "It rains on my wedding.", "sad", "search"),
    Situation("cats", "My cats love me.", "joyful", "search"),
]
GROUPS = (
    "{u_motivation: vent, u_emotion: sad, u_topic: [x]} "
    "{a_motivation: cheer, a_emotion: calm, a_topic: [y]} "
)
OPENING = "{u_motivation: tell, u_emotion: Upset, u_topic: [wedding, rain]} "
FIRST = (
    "{u_motivation: null, u_emotion: null, u_topic: []} "
    "{a_motivation: tell, a_emotion: Upset, a_topic: [wedding, rain]} "
)
PROFILES = ConversationConfig()
Reply = Callable[[Request, int], str]


class Recorder:
    """A scripted speaker that keeps the requests it got."""

    def __init__(self, name: str, reply: Reply, *, states: bool = True) -> None:
        self.requests: list[Request] = []

        def recorded(request: Request, candidate: int) -> str:
            if candidate == 0:
                self.requests.append(request)
            return OPENING if is_opening(request) else reply(request, candidate)

        profile = PROFILES.user if name == "user" else PROFILES.agent
        self.speaker = Speaker(name, ScriptedEngine(recorded), states, profile)


def is_opening(request: Request) -> bool:
    """Whether the user model is asked what the situation's speaker feels."""
    return request.request_id.endswith("/opening")


def turn_of(request: Request) -> int:
    """The number of the turn that is asked for: model/line/turn/agent, or user/line/turn."""
    return 0 if is_opening(request) else int(request.request_id.split("/")[2])


def stateful(text: str) -> Reply:
    return lambda request, candidate: f"{GROUPS}{text} {turn_of(request)}-{candidate}."


def play(
    agent: Recorder,
    user: Recorder,
    *,
    max_turns: int = 6,
    candidates: int = 1,
    selector: Selector | None = None,
    trim: bool = False,
) -> list[Trajectory]:
    config = SelfPlayConfig(max_turns=max_turns, trim_user_questions=trim)
    players = Players(agent.speaker, user.speaker, config, 11, selector)
    found = self_play(SITUATIONS, players, Greedy(candidates))
    return [each.trajectory for each in found]


def test_on_servers_dialogues_do_not_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rain's first turn is answered only after all turns of the cats: in step they would hang,
    on servers they give what they give in step."""
    in_step = play(Recorder("m1", stateful("agent")), Recorder("user", stateful("user")))
    over = threading.Event()

    def waiting(request: Request, candidate: int) -> str:
        if "cats" in request.request_id and turn_of(request) == 5:
            over.set()
        elif "rain" in request.request_id:
            assert over.wait(10)
        return stateful("agent")(request, candidate)

    servers = replace(ScriptedEngine.capabilities, independent=True)
    monkeypatch.setattr(ScriptedEngine, "capabilities", servers)
    progress: list[int] = []
    agent, user = Recorder("m1", waiting), Recorder("user", stateful("user"))
    apart = self_play(
        SITUATIONS,
        Players(
            agent.speaker,
            user.speaker,
            SelfPlayConfig(max_turns=6, trim_user_questions=False),
            11,
        ),
        Greedy(1),
        on_progress=progress.append,
    )
    assert [each.trajectory for each in apart] == in_step
    assert sum(progress) == 2 * 5


@pytest.mark.parametrize("max_turns", [1, 2, 3, 6])
def test_speakers_take_turns_up_to_the_limit(max_turns: int) -> None:
    agent, user = Recorder("m1", stateful("agent")), Recorder("user", stateful("user"))
    trajectories = play(agent, user, max_turns=max_turns)
    assert [t.trajectory_id for t in trajectories] == ["m1/rain", "m1/cats"]
    for trajectory, situation in zip(trajectories, SITUATIONS, strict=True):
        assert (trajectory.situation, trajectory.emotion) == (situation.text, situation.emotion)
        assert len(trajectory.turns) == max_turns
        contents = [(turn.role, turn.content) for turn in trajectory.turns]
        assert (
            contents
            == [
                ("user", situation.text),
                ("assistant", f"{GROUPS}agent 1-0."),
                ("user", "user 2-0."),
                ("assistant", f"{GROUPS}agent 3-0."),
                ("user", "user 4-0."),
                ("assistant", f"{GROUPS}agent 5-0."),
            ][:max_turns]
        )


def test_the_agent_sees_its_own_states_and_the_user_only_utterances() -> None:
    agent, user = Recorder("m2", stateful("agent")), Recorder("user", stateful("user"))
    play(agent, user, max_turns=5)
    rain = [r for r in agent.requests if "rain" in r.request_id]
    assert [turn_of(request) for request in rain] == [1, 3]
    profile = PROFILES.agent
    assert rain[1].messages == (
        Message("user", profile.ask),
        Message("assistant", f"{profile.states} {profile.consent}"),
        Message("user", "It rains on my wedding."),
        Message("assistant", f"{GROUPS}agent 1-0."),
        Message("user", "user 2-0."),
    )
    heard = [r for r in user.requests if "rain" in r.request_id and not is_opening(r)]
    assert [turn_of(request) for request in heard] == [2, 4]
    # The roles are flipped: the simulated user is a State-Action model as well, and sees its own
    # states, of which those of the situation are what it reads in it.
    assert heard[1].messages == (
        Message("user", PROFILES.user.ask),
        Message("assistant", f"{FIRST}It rains on my wedding."),
        Message("user", "agent 1-0."),
        Message("assistant", f"{GROUPS}user 2-0."),
        Message("user", "agent 3-0."),
    )


def test_each_speaker_is_asked_as_it_was_trained() -> None:
    """Every request of a rollout is the start of the training example that the same dialogue gives,
    from the agent's side and from the user's."""
    agent, user = Recorder("m2", stateful("agent")), Recorder("user", stateful("user"))
    for trajectory in play(agent, user, max_turns=6):
        said = of_turns(trajectory.turns)
        assert [turn.text for turn in said[::2]] == [
            f"{FIRST}{trajectory.situation}", f"{GROUPS}user 2-0.", f"{GROUPS}user 4-0."
        ]  # fmt: skip
        for recorder, role in ((agent, "assistant"), (user, "user")):
            profile = recorder.speaker.profile
            example = view(said, profile, states=True, speaker=role).training()  # type: ignore[arg-type]
            asked = [
                request
                for request in recorder.requests
                if f"/{trajectory.situation_id}/" in request.request_id
            ]
            for request in asked:
                if is_opening(request):
                    continue
                turns = len(request.messages)
                assert request.messages == example.messages[:turns]
                assert example.messages[turns].role == "assistant"
                assert example.losses[turns] == "whole"


def test_all_agents_meet_the_same_user() -> None:
    """The user of m0, which has no states, starts with those that m2's does, and draws alike."""
    first, second = Recorder("user", stateful("user")), Recorder("user", stateful("user"))
    plain = Recorder("m0", lambda request, n: f"agent {turn_of(request)}-{n}.", states=False)
    play(plain, first)
    play(Recorder("m2", stateful("agent")), second)
    assert first.requests == second.requests


def test_a_cut_candidate_loses_to_every_finished_one() -> None:
    """The selector likes "-1.", which is cut where others are not; it is not asked about it."""
    agent, user = Recorder("m1", stateful("agent")), Recorder("user", stateful("user"))
    engine = agent.speaker.engine
    drawn = engine.generate

    def cut(requests: Sequence[Request]) -> list[list[Completion]]:
        return [
            [replace(each, finish_reason="length" if at == 1 else "stop")
             for at, each in enumerate(row)]
            for row in drawn(requests)
        ]  # fmt: skip

    engine.generate = cut  # type: ignore[method-assign]
    selector, prompts = prefers("-1.")
    for trajectory in play(agent, user, candidates=3, selector=selector):
        for turn in trajectory.turns[1::2]:
            assert [each.cut for each in turn.candidates] == [False, True, False]
            assert not turn.candidates[1].chosen
            assert not turn.cut
    assert prompts
    assert not any("-1." in prompt for prompt in prompts)
    for trajectory in play(agent, user, candidates=1):  # nothing else: the cut one, and it says so
        assert not any(turn.cut for turn in trajectory.turns)
    drawn_first = engine.generate
    engine.generate = lambda requests: [  # type: ignore[method-assign]
        [replace(each, finish_reason="length") for each in row] for row in drawn_first(requests)
    ]
    for trajectory in play(agent, user, candidates=2, selector=selector):
        assert all(turn.cut for turn in trajectory.turns[1::2])
        assert view(of_turns(trajectory.turns), PROFILES.agent, states=True).loss == (
            "none", "none", "none", "open", "none", "open", "none", "open"
        )  # fmt: skip


def test_every_draw_has_its_own_name() -> None:
    agent, user = Recorder("m1", stateful("agent")), Recorder("user", stateful("user"))
    play(agent, user)
    names = [request.request_id for request in (*agent.requests, *user.requests)]
    # Of each dialogue three replies, two answers, and the states of the situation.
    assert len(names) == len(set(names)) == 2 * (3 + 2 + 1)
    assert {request.seed for request in agent.requests} == {11}


def test_grammars_are_asked_of_models_with_states_only() -> None:
    agent, user = Recorder("m1", stateful("agent")), Recorder("user", stateful("user"))
    raw = Recorder("raw", lambda request, candidate: "plain {braces}", states=False)
    play(agent, user)
    (first, second) = play(raw, user)
    assert all(r.constraint is not None and r.opens_with_states for r in agent.requests)
    assert all(r.constraint is None and not r.opens_with_states for r in raw.requests)
    assert first.turns[1].content == second.turns[1].content == "plain {braces}"


def prefers(good: str) -> tuple[Selector, list[str]]:
    """A selector that likes candidates with ``good`` in them, and the prompts it saw."""
    prompts: list[str] = []

    def score(request: Request, option: str) -> float:
        text = request.messages[-1].content
        prompts.append(text)
        (line,) = [line for line in text.splitlines() if line.startswith(f"{option}. ")]
        return 1.0 if good in line else 0.0

    engine = ScriptedEngine(lambda request, candidate: "", score)
    return LLMSelector(engine, SelectorConfig(shuffles=2), 11), prompts


def test_the_selected_candidate_is_the_turn() -> None:
    agent, user = Recorder("m1", stateful("agent")), Recorder("user", stateful("user"))
    selector, prompts = prefers("-2.")
    for trajectory in play(agent, user, candidates=4, selector=selector):
        for number in (1, 3, 5):
            turn = trajectory.turns[number]
            assert [c.text for c in turn.candidates] == [
                f"{GROUPS}agent {number}-{candidate}." for candidate in range(4)
            ]
            (chosen,) = [c for c in turn.candidates if c.chosen]
            assert chosen.text == turn.content == f"{GROUPS}agent {number}-2."
            assert chosen.votes == max(c.votes for c in turn.candidates) == 3
            assert sum(c.votes for c in turn.candidates) == pytest.approx(0 + 1 + 2 + 3)
        assert all(turn.candidates == () for turn in trajectory.turns[::2])
    assert prompts
    assert not any("{" in prompt or "u_motivation" in prompt for prompt in prompts)
    # The later turns' prompts show what was selected before.
    assert 'Companion: "agent 1-2."\nPerson: "user 2-0."' in prompts[-1]


def test_alike_candidates_are_shown_once_and_share_their_votes() -> None:
    """Four candidates: a twice in full, b with two different states."""
    texts = [f"{GROUPS}a", f"{GROUPS}b", f"{GROUPS}a", f"{GROUPS.replace('calm', 'glad')}b"]
    agent = Recorder("m1", lambda request, candidate: texts[candidate])
    user = Recorder("user", stateful("user"))
    selector, prompts = prefers("b")
    (turn, _) = (
        t.turns[1] for t in play(agent, user, max_turns=2, candidates=4, selector=selector)
    )
    assert [(c.text, c.votes, c.chosen) for c in turn.candidates] == [
        (texts[0], 0.0, False),
        (texts[1], 1.0, True),
        (texts[3], 1.0, False),
    ]
    assert all(prompt.count('"a"\n') + prompt.count('"b"\n') == 2 for prompt in prompts)


def test_no_selector_is_asked_where_there_is_no_choice() -> None:
    agent = Recorder("m1", lambda request, candidate: f"{GROUPS}same")
    selector, prompts = prefers("same")
    (first, _) = play(agent, Recorder("user", stateful("user")), candidates=3, selector=selector)
    assert prompts == []
    assert [(c.votes, c.chosen) for c in first.turns[1].candidates] == [(0.0, True)]


def test_empty_candidates_are_no_candidates() -> None:
    texts = ["", GROUPS, "  \n", f"{GROUPS}hello"]
    agent = Recorder("m1", lambda request, candidate: texts[candidate])
    (first, _) = play(agent, Recorder("user", stateful("user")), max_turns=2, candidates=4)
    assert [c.text for c in first.turns[1].candidates] == [texts[3]]


def test_a_reply_cut_off_inside_its_states_is_no_candidate() -> None:
    agent = Recorder("m1", lambda request, n: GROUPS[:-12] if n == 0 else f"{GROUPS}whole")
    trajectories = play(agent, Recorder("user", stateful("hm")), candidates=2, max_turns=2)
    for trajectory in trajectories:
        assert [c.text for c in trajectory.turns[1].candidates] == [f"{GROUPS}whole"]


def test_a_speaker_with_nothing_to_say_ends_its_dialogue_only() -> None:
    def silent_about_rain(request: Request, candidate: int) -> str:
        return GROUPS if "rain" in request.request_id and turn_of(request) >= 3 else f"{GROUPS}hi"

    agent, user = Recorder("m1", silent_about_rain), Recorder("user", stateful("user"))
    rain, cats = play(agent, user, candidates=2)
    assert [turn.role for turn in rain.turns] == ["user", "assistant", "user"]
    assert len(cats.turns) == 6
    rain, cats = play(Recorder("m1", stateful("agent")), Recorder("m1", silent_about_rain))
    assert (len(rain.turns), len(cats.turns)) == (4, 6)


def test_progress_counts_every_turn_of_every_dialogue() -> None:
    counts: list[int] = []
    agent, user = Recorder("m1", stateful("agent")), Recorder("user", stateful("user"))
    self_play(
        SITUATIONS,
        Players(agent.speaker, user.speaker, SelfPlayConfig(max_turns=4), 0),
        Greedy(1),
        on_progress=counts.append,
    )
    assert sum(counts) == 2 * 3


@pytest.mark.parametrize(
    ("utterance", "expected"),
    [
        ("I am sad. Are you?", "I am sad."),
        ("Are you? I am sad. Why? So sad!", "I am sad. So sad!"),
        ("Why? Where?", "Why? Where?"),
        ("Why", "Why"),
        ("No questions here.", "No questions here."),
        ("  Well?!  Yes.", "Well?! Yes."),
    ],
)
def test_without_questions(utterance: str, expected: str) -> None:
    assert without_questions(utterance) == expected


def test_the_users_questions_are_cut_where_that_is_asked() -> None:
    def asks(request: Request, candidate: int) -> str:
        return f"{GROUPS}I see. And you?"

    for trim, expected in ((True, "I see."), (False, "I see. And you?")):
        agent, user = Recorder("m1", asks), Recorder("m1", asks)
        (first, _) = play(agent, user, trim=trim)
        assert [turn.content for turn in first.turns[2::2]] == [expected] * 2
        assert utterance_of(first.turns[1].content) == "I see. And you?"


def test_count_malformed() -> None:
    def half(request: Request, candidate: int) -> str:
        return "no states" if "rain" in request.request_id else f"{GROUPS}hi"

    agent = Recorder("m1", half)
    config = SelfPlayConfig(state_grammar=False)
    assert count_malformed(SITUATIONS, agent.speaker, config, 0) == (1, 2)
    assert [request.constraint for request in agent.requests] == [None, None]
    assert count_malformed([], agent.speaker, config, 0) == (0, 0)
