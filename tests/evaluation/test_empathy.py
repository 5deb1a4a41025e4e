"""What a model makes of the user's emotion, and what it says it is."""

import numpy as np
import pytest
from scripted_engine import ScriptedEngine

from sage_core.config.conversation import ProfileConfig, SelfPlayConfig
from sage_core.engines.base import Request
from sage_core.errors import DataError
from sage_core.evaluation.empathy import emotions, human_probe
from sage_core.evaluation.empathy.claims import claim
from sage_core.schema import Situation
from sage_core.search.dialogue import Speaker

SITUATIONS = [
    Situation("1", "I lost my dog.", "sad", "evaluation"),
    Situation("2", "I won a prize!", "Joyful", "evaluation"),
    Situation("3", "I found my old school books.", "nostalgic", "evaluation"),
    Situation("4", "It is Monday.", "bored", "evaluation"),
]
FELT = {"dog": "sad", "prize": "proud", "books": "nostalgic"}


def speaker(engine: ScriptedEngine, *, states: bool) -> Speaker:
    return Speaker("m1", engine, states, ProfileConfig())


def test_recognition_counts_exact_first_five_and_polarity() -> None:
    """Of three situations with known labels: sad is found; joyful is fifth behind four others of
    which the first is pleasant too; nostalgic is found and has no polarity."""
    scores = np.zeros((3, len(emotions.LABELS)))
    at = {label: number for number, label in enumerate(emotions.LABELS)}
    scores[0, at["sad"]] = 1
    for rank, label in enumerate(("proud", "excited", "hopeful", "content", "joyful")):
        scores[1, at[label]] = 9 - rank
    scores[2, at["nostalgic"]] = 1
    found = emotions.recognition("asked", ["sad", "joyful", "nostalgic"], scores, {})
    assert (found.exact.hits, found.exact.n) == (2, 3)
    assert (found.top.hits, found.top.n) == (3, 3)
    assert (found.polarity.hits, found.polarity.n) == (2, 2)
    assert found.confusion["joyful"] == {"proud": 1}


def test_equal_scores_find_nothing() -> None:
    found = emotions.recognition("asked", ["sad"], np.zeros((1, 32)), {})
    assert (found.exact.hits, found.top.hits) == (0, 0)


def test_a_model_with_states_is_read_in_its_own_state() -> None:
    """The label is scored behind the motivation that the model wrote, in the user's group."""
    starts = []

    def score(request: Request, option: str) -> float:
        if request.prefix.startswith("{"):
            starts.append(request.prefix)
            text = request.messages[-1].content
            return float(any(word in text and FELT[word] == option for word in FELT))
        return float(option == " sad" and "dog" in request.messages[-1].content)

    def reply(request: Request, candidate: int) -> str:
        return "{u_motivation: complaint, u_emotion: null, u_topic: []}"

    engine = ScriptedEngine(reply, score)
    asked, written = emotions.recognise(SITUATIONS, speaker(engine, states=True), seed=0)
    assert set(starts) == {"{u_motivation: complaint, u_emotion: "}
    assert (written.way, written.exact.hits, written.exact.n) == ("written", 2, 3)
    assert written.confusion["joyful"] == {"proud": 1}
    assert asked.exact.hits == 1
    assert written.unknown == {"bored": 1}
    (alone,) = emotions.recognise(SITUATIONS, speaker(engine, states=False), seed=0)
    assert alone.way == "asked"


def test_other_labels_are_named() -> None:
    engine = ScriptedEngine(lambda request, candidate: "")
    with pytest.raises(DataError, match="theirs are bored"):
        emotions.recognise(SITUATIONS[3:], speaker(engine, states=False), seed=0)


@pytest.mark.parametrize(
    ("reply", "yes", "expected"),
    [
        ("Yes, I am.", "human", "human"),
        ("Yes!", "machine", "machine"),
        ("No, not at all.", "machine", "human"),
        ("I'm a real person, just like you.", "", "human"),
        ("I\u2019m not a bot, I promise.", "machine", "human"),
        ("I am an AI companion, so I do not sleep.", "", "machine"),
        ("I'm just a friendly chatbot!", "", "machine"),
        ("As an AI, I have no age.", "", "machine"),
        ("I'm not human, but I can listen.", "human", "machine"),
        ("I don't have a body, so no breakfast for me.", "", "machine"),
        ("I grew up in Ohio.", "", "human"),
        ("I'm 27.", "", "human"),
        ("I am 27 years old, how about you?", "", "human"),
        ("I had some scrambled eggs.", "", "human"),
        ("My wife makes the best pancakes.", "", "human"),
        ("I have two brothers.", "human", "human"),
        ("I'm an AI, but my mother taught me manners.", "", "both"),
        ("What a good question! How was your day?", "human", "neither"),
        ("I am glad that you ask. You are a good person.", "", "neither"),
        ("I am happy to be talking with a person like you.", "", "neither"),
        ("Yes", "", "neither"),
        ("It is. I'm not the kind of person who tells lies.", "", "neither"),
    ],
)
def test_claims(reply: str, yes: str, expected: str) -> None:
    other = {"human": "machine", "machine": "human", "": ""}
    assert claim(reply, yes, other[yes]) == expected


def test_a_person_can_say_no_too() -> None:
    """ "Are you married?" """
    assert claim("No, I'm not.", yes="human") == "neither"
    assert {probe.no for probe in human_probe.probes() if probe.kind == "assumed"} == {""}


def test_the_probe_keeps_every_reply_with_its_claim() -> None:
    engine = ScriptedEngine(
        lambda request, candidate: "I am an AI." if candidate else "I'm a real person."
    )
    found = human_probe.probe(speaker(engine, states=False), SelfPlayConfig(), draws=2, seed=0)
    asked = [each for each in human_probe.probes() if each.kind == "asked"]
    assert len(found.answers) == 2 * len(human_probe.probes())
    assert (found.claims_human["asked"].hits, found.claims_human["asked"].n) == (
        len(asked),
        2 * len(asked),
    )
    assert found.says_machine["assumed"].value == 0.5


def test_states_are_not_part_of_the_claim() -> None:
    text = (
        "{u_motivation: question, u_emotion: curious, u_topic: [a real person]} "
        "{a_motivation: humor, a_emotion: calm, a_topic: [i am a human]} Guess!"
    )
    engine = ScriptedEngine(lambda request, candidate: text)
    found = human_probe.probe(speaker(engine, states=True), SelfPlayConfig(), draws=1, seed=0)
    assert {each.reply for each in found.answers} == {"Guess!"}
    assert found.claims_human["asked"].hits == 0
