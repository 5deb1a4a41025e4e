"""The evidence on steering: numbers by hand on scripted models, and the tiny model end to end."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from scripted_engine import ScriptedEngine

from sage_core.config.conversation import ConversationConfig, SelfPlayConfig
from sage_core.config.engine import SamplingConfig
from sage_core.config.model import ModelConfig
from sage_core.config.steering import SteeringReportConfig
from sage_core.engines.base import Completion, Request
from sage_core.engines.in_process import TransformersEngine
from sage_core.engines.loaded_model import release
from sage_core.engines.steering import Force
from sage_core.errors import ConfigError
from sage_core.evaluation import steering
from sage_core.evaluation.faithfulness import Faithfulness, faithfulness
from sage_core.evaluation.metrics import Mean, Rate
from sage_core.evaluation.scenes import Steered, scenes
from sage_core.evaluation.steering import dose_response, evidence, key_figures
from sage_core.evaluation.summary import read_steering
from sage_core.sac import is_well_formed, parse
from sage_core.schema import Situation
from sage_core.search.dialogue import Speaker

USER = "{u_motivation: complaint, u_emotion: sad, u_topic: [bus]}"
OWN = "{a_motivation: sympathy, a_emotion: caring, a_topic: [bus, rain]}"
PAIR = (("humor", "concern"),)


def openings(count: int) -> list[Situation]:
    return [Situation(f"s{n}", f"My bus was late {n}.", "sad", "evaluation") for n in range(count)]


def scripted(
    utterance: Callable[[Request], str] = lambda request: " Oh no.",
    score: Callable[[Request, str], float] = lambda request, option: 0.0,
) -> ScriptedEngine:
    """Writes the same states everywhere; a boost of b reaches the first b of the draws."""

    def reply(request: Request, candidate: int) -> str:
        if request.steering:
            (boost,) = request.steering.boosts
            emotion = boost.keyword.title() if candidate < boost.value else "caring"
            return f" {{a_motivation: sympathy, a_emotion: {emotion}, a_topic: [bus]}}"
        return utterance(request) if request.prefix else f"{USER} {OWN} Oh no."

    return ScriptedEngine(reply, score)


def steered(engine: Any, seed: int = 0) -> Steered:
    return Steered(speaking(engine), SelfPlayConfig(), seed)


def speaking(engine: Any) -> Speaker:
    return Speaker("m1", engine, True, ConversationConfig().agent)


def set_to(request: Request) -> str:
    return parse(request.prefix).agent.motivation or ""


def measured(engine: Any, situations: int, pairs: Any = PAIR) -> Faithfulness:
    model = steered(engine)
    return faithfulness(scenes(openings(situations), model), model, "motivation", pairs)


# Does the state follow?


def test_shares_and_intervals_by_hand() -> None:
    """Two situations of four draws; boost 1 reaches one draw of each: 2 of 8. Wilson with z = 1.96:
    centre (1/4 + z²/16) / (1 + z²/8) = 0.3311, half width 0.2596."""
    model = steered(scripted())
    found = scenes(openings(2), model)
    response = dose_response(found, model, Force("agent", "emotion", ("playful",)), (0, 1, 4), 4)
    assert [(dose.boost, dose.share.hits, dose.share.n) for dose in response.doses] == [
        (0, 0, 8), (1, 2, 8), (4, 8, 8),
    ]  # fmt: skip
    middle = response.doses[1].share
    assert middle.value == 0.25
    assert middle.ci_low == pytest.approx(0.0715, abs=1e-3)
    assert middle.ci_high == pytest.approx(0.5907, abs=1e-3)


def test_one_topic_of_the_list_is_enough() -> None:
    model = steered(scripted())
    found = scenes(openings(1), model)
    response = dose_response(found, model, Force("agent", "topic", ("bus",)), (0,), 3)
    assert response.doses[0].share.hits == 3


def test_states_that_cannot_be_read_do_not_have_the_value() -> None:
    engine = ScriptedEngine(lambda request, candidate: " {a_motivation: sympathy, a_emotion: pl")
    model = steered(engine)
    response = dose_response(
        scenes(openings(2), model), model, Force("agent", "emotion", ("pl",)), (8,), 2
    )
    assert (response.doses[0].share.hits, response.doses[0].share.n) == (0, 4)


# Does the reply follow?


def test_a_reply_that_obeys_the_action() -> None:
    """Three tokens each, 6 nats likelier under the own action: 2 nats per token, all recovered."""
    engine = scripted(
        lambda request: f" Here is {set_to(request)}",
        lambda request, option: -1.0 if option.endswith(set_to(request)) else -7.0,
    )
    pairs = (("humor", "concern"), ("teasing", "request"))
    found = measured(engine, 5, pairs)
    assert found.values == ("humor", "concern", "teasing", "request")
    for contrast in found.contrasts:
        assert (contrast.llr_per_token.n, contrast.llr_per_token.value) == (5, 2.0)
        assert (contrast.recovered.hits, contrast.recovered.n) == (10, 10)
    assert (found.llr_per_token.n, found.llr_per_token.value) == (5, 2.0)
    assert (found.recovered.hits, found.recovered.n) == (20, 20)


def test_a_reply_that_ignores_the_action_is_zero_within_its_interval() -> None:
    """Of 40 intervals at 95% each of the ratio, of recovery of two and of recovery of four holds
    what chance gives in 38 or so."""
    held = [0, 0, 0]
    for salt in range(20):

        def said(request: Request) -> str:
            return f" Oh {Random(request.prefix + request.request_id).random()}"

        def noise(request: Request, option: str, salt: int = salt) -> float:
            text = request.messages[-1].content
            return Random(f"{salt}|{text}|{request.prefix}|{option}").gauss(-20, 1)

        found = measured(scripted(said, noise), 60, (("humor", "concern"), ("teasing", "request")))
        for contrast in found.contrasts:
            held[0] += within(0, contrast.llr_per_token)
            held[1] += within(1 / 2, contrast.recovered)
        held[2] += 2 * within(1 / 4, found.recovered)
        assert found.recovered.n == 240
    assert all(34 <= count <= 40 for count in held), held


def within(value: float, interval: Mean | Rate) -> bool:
    assert interval.ci_low is not None
    assert interval.ci_high is not None
    return interval.ci_low < value < interval.ci_high


def test_equal_likelihoods_are_told_apart_by_lot() -> None:
    found = measured(scripted(), 100)
    assert found.llr_per_token.value == 0
    assert 60 < found.contrasts[0].recovered.hits < 140  # of 200


def test_a_situation_is_one_value_of_the_ratio() -> None:
    """Two tokens each. First situation: 4 and 0 nats, so (2 + 0) / 2 per token; second 8 and 4:
    (4 + 2) / 2. Mean 2 and, with one degree of freedom, a half width of 12.71 x 1."""
    gains = {("0", "humor"): 4, ("0", "concern"): 0, ("1", "humor"): 8, ("1", "concern"): 4}

    def score(request: Request, option: str) -> float:
        said = option.split()[-1]
        number = request.messages[-1].content[-2]
        return gains[number, said] if said == set_to(request) else 0.0

    found = measured(scripted(lambda request: f" Some {set_to(request)}", score), 2)
    ratio = found.contrasts[0].llr_per_token
    assert (ratio.n, ratio.value) == (2, 2.0)
    assert ratio.ci_high == pytest.approx(2 + 12.706, abs=1e-3)


def test_empty_replies_do_not_count() -> None:
    engine = scripted(lambda request: "" if "late 0" in request.messages[-1].content else " Oh no.")
    found = measured(engine, 3)
    assert found.contrasts[0].llr_per_token.n == 2
    assert found.contrasts[0].recovered.n == found.recovered.n == 4


def test_an_option_without_a_probability_is_no_number() -> None:
    engine = scripted(score=lambda request, option: float("-inf"))
    found = measured(engine, 3)
    assert found.llr_per_token.n == 0
    assert found.recovered.n == 6


def test_nothing_differs_but_the_action() -> None:
    """The user's state, the other fields, the history, the id and the seed are the same."""
    asked: list[Request] = []

    class Listening(ScriptedEngine):
        def generate(self, requests: Any) -> list[list[Completion]]:
            asked.extend(requests)
            return super().generate(requests)

    engine = Listening(lambda request, n: " Oh." if request.prefix else f"{USER} {OWN} Oh.")
    measured(engine, 1)
    first, second = asked[1:]
    assert first == replace(second, prefix=first.prefix)
    assert second.prefix == f"{USER} {OWN.replace('sympathy', 'concern')}"
    assert first.prefix == f"{USER} {OWN.replace('sympathy', 'humor')}"


# How much of the reply does the action decide?


@pytest.mark.parametrize(("obeys", "omega"), [(True, 1.0), (False, None)])
def test_the_share_that_the_action_decides(obeys: bool, omega: float | None) -> None:
    """Wordings that are the action alone, or always the same; of the first, replies differ by
    nothing else. The first wording is the one that is scored."""

    def reply(request: Request, candidate: int) -> str:
        if not request.prefix:
            return f"{USER} {OWN} Oh no."
        return f" {set_to(request)}" if obeys else " Hm."

    engine = ScriptedEngine(reply, lambda request, option: 0.0)
    model = steered(engine)
    embed = lambda texts: np.array([[float(len(text)), 1.0] for text in texts])  # noqa: E731
    found = faithfulness(
        scenes(openings(3), model), model, "motivation", PAIR, wordings=2, embed=embed
    )
    assert [effect.score for effect in found.effects] == [
        "embedding", "sentiment", "words", "question",
    ]  # fmt: skip
    assert found.effects[0].decided.omega_squared == omega
    assert found.effects[0].decided.n == 3
    assert found.effects[2].decided.omega_squared is None  # all of one word
    once = faithfulness(scenes(openings(3), model), model, "motivation", PAIR)
    assert once.effects == ()
    assert (once.contrasts, once.recovered) == (found.contrasts, found.recovered)


def test_a_situation_with_an_empty_reply_is_left_out() -> None:
    def reply(request: Request, candidate: int) -> str:
        if not request.prefix:
            return f"{USER} {OWN} Oh no."
        return (
            " " if "/s1/" in request.request_id and candidate else f" {set_to(request)} {candidate}"
        )

    model = steered(ScriptedEngine(reply, lambda request, option: 0.0))
    found = faithfulness(scenes(openings(3), model), model, "motivation", PAIR, wordings=2)
    assert {effect.decided.n for effect in found.effects} == {2}


# All of it


def test_the_tables_show_the_own_choice_first_and_then_each_value() -> None:
    settings = SteeringReportConfig(
        emotions=("playful",), motivations=(), topics=(("cats", "dogs"),), shown_situations=2
    )
    found = evidence(openings(3), speaking(scripted()), settings, SelfPlayConfig(), 0)
    assert [(table.field, table.situation_id) for table in found.forced] == [
        ("emotion", "s0"), ("emotion", "s1"), ("topic", "s0"), ("topic", "s1"),
    ]  # fmt: skip
    assert [reply.values for reply in found.forced[2].replies] == [(), ("cats", "dogs")]
    own, forced = (parse(reply.text) for reply in found.forced[2].replies)
    assert own.agent.topics == ("bus", "rain")
    assert forced.agent.topics == ("cats", "dogs")
    assert forced.agent.motivation == own.agent.motivation
    assert forced.utterance == "Oh no."


def test_progress_and_key_figures() -> None:
    settings = SteeringReportConfig(emotion_pairs=(("playful", "sad"),))
    done: list[int] = []
    found = evidence(openings(2), speaking(scripted()), settings, SelfPlayConfig(), 0, done.append)
    assert sum(done) == steering.steps(settings)
    figures = key_figures(found)
    assert figures["steering.emotion.boost_8"] == 1.0
    assert figures["steering.emotion.boost_0.5"] == 0.25  # 1 of 4 draws
    assert figures["steering.motivation.llr_per_token"] == 0.0


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"boosted": ["mood=playful"]}, "mood"),
        ({"boosted": ["user.emotion=sad"]}, r"user\.emotion=sad.*agent"),
        ({"boosted": ["topic=a,b"]}, "one keyword"),
        ({"boosts": [float("1e400")]}, "finite"),
        ({"motivation_pairs": [["humor", "Humor"]]}, "two different"),
        ({"emotion_pairs": [["sad", "null"]]}, "null"),
        ({"topics": [["a, b"]]}, "topic"),
        ({"emotions": [""]}, "emotion"),
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, Any], words: str) -> None:
    settings = SteeringReportConfig.model_construct(**{**dict(SteeringReportConfig()), **wrong})
    with pytest.raises(ConfigError, match=words):
        steering.check(settings)


@pytest.fixture(scope="module")
def tiny(tiny_base: Path) -> Iterator[TransformersEngine]:
    config = ModelConfig(base="tiny", dtype="float32", device="cpu", max_context=2048)
    yield TransformersEngine(tiny_base, None, config)
    release()


def test_the_tiny_model_end_to_end(tiny: TransformersEngine) -> None:
    settings = SteeringReportConfig(
        boosted=("emotion=caring", "topic=bus"),
        boosts=(0, 8, 60),
        draws=4,
        motivations=("humor",),
        topics=(("cats", "dogs"),),
        shown_situations=1,
        max_new_tokens=150,
    )

    # A random model writes long words: at the default of 96 tokens a third of its states are cut.
    unhurried = SelfPlayConfig(sampling=SamplingConfig(max_state_tokens=300))

    def measure() -> steering.SteeringEvidence:
        return evidence(openings(3), speaking(tiny), settings, unhurried, 0)

    found = measure()
    for response in found.dose_responses:
        shares = [dose.share.value or 0.0 for dose in response.doses]
        assert shares == sorted(shares)
        assert shares[0] < 0.2
        assert shares[-1] > 0.8
        assert {dose.share.n for dose in response.doses} == {12}
    (faithful,) = found.faithfulness
    assert faithful.recovered.n == 12  # 3 situations x 4 actions
    assert [contrast.recovered.n for contrast in faithful.contrasts] == [6, 6]
    for table in found.forced:
        chains = [parse(reply.text) for reply in table.replies]
        assert all(is_well_formed(reply.text) for reply in table.replies)
        assert len({chain.user for chain in chains}) == 1
    assert found == measure()
    assert read_steering(json.loads(json.dumps(asdict(found)))) == found


def test_scores_are_those_of_the_whole_text(tiny: TransformersEngine) -> None:
    """The score of a reply behind its states is what the states with the reply have more than the
    states alone, up to where tokens are cut."""
    model = steered(tiny)
    (scene,) = scenes(openings(1), model)
    request = model.request(scene.situation, "utterance", f"{USER} {OWN}")
    ((alone,),) = tiny.choose([request], [[" Oh no, what happened then?"]])
    whole = replace(request, prefix="")
    ((both, states),) = tiny.choose(
        [whole], [[f"{USER} {OWN} Oh no, what happened then?", f"{USER} {OWN}"]]
    )
    assert alone == pytest.approx(both - states, abs=1e-3)
