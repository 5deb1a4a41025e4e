"""Words, questions and the reach of sentiment in other languages than English."""

# ruff: noqa: RUF001 - letters of other scripts that look like Latin ones

import json
from pathlib import Path

import pytest

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.build import load_funnel
from sage_core.corpus.card import CARD
from sage_core.corpus.filters import filters
from sage_core.corpus.records import DIALOGUES
from sage_core.corpus.rules.near_duplicate import shingles
from sage_core.languages import asks, is_latin, is_question, words
from sage_core.schema import Dialogue, with_roles
from sage_core.steps.local import build_corpus
from sage_core.storage import read_rows

CHINESE = ["你好，我今天非常高兴见到你。", "我也很高兴！你喜欢吃什么？", "我最喜欢吃妈妈做的饺子。"]
ARABIC = ["مرحبا، أنا سعيد جدا اليوم لأنني رأيتك", "كيف حالك يا صديقي العزيز؟", "أنا بخير شكرا لك"]
ENGLISH = ["I love this, it is wonderful!", "So great, are you happy?", "I am so glad, thank you!"]
DULL = ["The bus leaves at nine.", "From where?", "From the station."]


def dialogue(*said: str) -> Dialogue:
    return Dialogue("d", "test", "d", with_roles(said))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("It's  two-word, - text!", ["It's", "two-word,", "-", "text!"]),
        ("Ça va très bien…", ["Ça", "va", "très", "bien…"]),
        ("أنا بخير شكرا", ["أنا", "بخير", "شكرا"]),
        ("안녕하세요 여러분", ["안녕하세요", "여러분"]),
        ("我今天非常高兴。", ["我", "今天", "非常", "高兴"]),
        ("สวัสดีครับ ผมชื่อ", ["สวัสดี", "ครับ", "ผม", "ชื่อ"]),
        ("my 今天 day", ["my", "今天", "day"]),
        ("😀 今天 😀", ["😀", "今天", "😀"]),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Why?", True), ("Why? ", True), ("Why?!", False), ("Why", False), ("", False),
        ("你呢？", True), ("كيف حالك؟", True), ("Τι κάνεις;", True), ("Τι κάνεις\u037e", True),
        ("I see;", False), ("Ինչպե՞ս ես", True), ("እንዴት ነህ፧", True), ("What⁇", True),
        ("什么﹖", True), ("你好。", False),
    ],
)  # fmt: skip
def test_questions(text: str, expected: bool) -> None:
    assert is_question(text) is expected
    (rule,) = filters(CorpusConfig(rules=("question",)))
    assert rule.keeps(dialogue("x", text)) is expected


def test_a_question_within_a_text() -> None:
    assert asks("Why? I see.")
    assert asks("为什么？好的。")
    assert not asks("I see.")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("hello", True), ("", True), ("😀 12", True), ("naïve café", True), ("你好", False),
     ("Привет", False), ("ok 你好你好", False), ("hello, 你好!", True), ("ﬁne", True)],
)  # fmt: skip
def test_which_script(text: str, expected: bool) -> None:
    assert is_latin([text]) is expected


@pytest.mark.parametrize("said", [CHINESE, ARABIC])
def test_sentiment_does_not_apply_to_other_scripts(said: list[str]) -> None:
    (rule,) = filters(CorpusConfig(rules=("sentiment",)))
    assert rule.applies
    assert not rule.applies(dialogue(*said))
    assert rule.keeps(dialogue(*said))
    assert rule.applies(dialogue(*DULL))
    assert not rule.keeps(dialogue(*DULL))
    assert rule.keeps(dialogue(*ENGLISH))


@pytest.mark.parametrize(
    ("language", "kept"), [("", ["sentiment"]), ("en", []), ("de", ["sentiment", "frequent_word"])]
)
def test_the_language_of_the_configuration(language: str, kept: list[str]) -> None:
    """A Chinese dialogue under the rules that are about English."""
    rules = ("sentiment", "frequent_word")
    found = filters(CorpusConfig(rules=rules, language=language))
    assert [rule.name for rule in found if rule.keeps(dialogue(*CHINESE))] == kept


def test_chinese_words_make_shingles() -> None:
    assert len(shingles(dialogue(*CHINESE))) > 10


@pytest.mark.parametrize("span", ["whole", "longest_run"])
def test_chinese_and_arabic_dialogues_survive_and_the_funnel_says_what_did_not_apply(
    tmp_path: Path, span: str
) -> None:
    path = tmp_path / "x.jsonl"
    rows = [
        {"dialogue_id": name, "messages": [
            {"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said)
        ]}
        for name, said in (("zh", CHINESE), ("ar", ARABIC), ("en", ENGLISH), ("dull", DULL))
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    config = CorpusConfig.model_validate(
        {"reader": "messages", "input": path, "span": span, "min_turns": 3, "min_mean_words": 3}
    )
    build_corpus(config, tmp_path / "out")
    found = read_rows(tmp_path / "out" / DIALOGUES, Dialogue)
    assert [row.dialogue_id for row in found] == ["zh", "ar", "en"]
    funnel = {step["step"]: step for step in load_funnel(tmp_path / "out")}
    assert funnel["sentiment"]["not_applied"] == 2
    assert "not_applied" not in funnel["words"]
    assert ("span" in funnel) == (span == "longest_run")
    if span == "longest_run":
        assert funnel["span"]["not_applied"] == 2
    card = (tmp_path / "out" / CARD).read_text("utf-8")
    assert "`sentiment` did not apply to 2 dialogues" in card
    assert "VADER with the lexicon of `" in card
