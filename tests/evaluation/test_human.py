"""Preferences of people: each layout, other labels, and a judge against them."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sage_core.errors import DataError
from sage_core.evaluation.calibration import SIDES, calibration, drawn
from sage_core.evaluation.human import HumanItem, HumanPreferences, read_human
from sage_core.schema import Judgement, Trajectory, TrajectoryTurn, Verdict


def chat(*texts: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]


def arena(winner: Any, a: str = "x", b: str = "y", **more: Any) -> dict[str, Any]:
    said = {a: chat("Hi", f"I am {a}", "And?", "More"), b: chat("Hi", f"I am {b}", "And?", "No")}
    return {"question_id": 81, "model_a": a, "model_b": b, "winner": winner, "turn": 1,
            "conversation_a": said[a], "conversation_b": said[b], **more}  # fmt: skip


def written(path: Path, records: list[Any], kind: str = "jsonl") -> Path:
    file = path / f"human.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(records), file)
    elif kind == "json":
        file.write_text(json.dumps(records))
    else:
        file.write_text("\n".join(json.dumps(record) for record in records))
    return file


def said(trajectory: Trajectory) -> list[str]:
    return [turn.content for turn in trajectory.turns]


def test_mt_bench_joins_the_votes_on_one_item(tmp_path: Path) -> None:
    records = [
        arena("model_a"),
        arena("model_b", a="y", b="x"),  # for x too, the sides changed
        arena("tie"),
        arena("model_b", turn=2),
    ]
    human = read_human(written(tmp_path, records))
    assert (human.layout, human.records, human.unused) == ("MT-bench", 4, {})
    first, second = human.items
    assert first.votes == ["model_a", "model_a", "tie"]
    assert (first.label, second.label) == ("model_a", "model_b")
    assert said(first.a) == ["Hi", "I am x"]  # the vote is on the first exchange
    assert said(second.b) == ["Hi", "I am y", "And?", "No"]
    assert first.a.situation_id == first.b.situation_id != second.a.situation_id


def test_a_tie_of_votes_is_a_tie(tmp_path: Path) -> None:
    (item,) = read_human(written(tmp_path, [arena("model_a"), arena("model_b")])).items
    assert item.label == "tie"


LLMBAR = {"input": "Say hi", "output_1": "Hi", "output_2": "No", "label": 2}
PANDALM = {"idx": 0, "instruction": "Add", "input": "1 and 1", "response1": "2", "response2": "3",
           "annotator1": 1, "annotator2": 0, "annotator3": 1}  # fmt: skip
CHAT = {"chosen": chat("Hi", "Good"), "rejected": chat("Hi", "Bad")}


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
@pytest.mark.parametrize(
    ("record", "layout", "first", "second", "votes"),
    [
        (LLMBAR, "LLMBar", ["Say hi", "Hi"], ["Say hi", "No"], ["model_b"]),
        (PANDALM, "PandaLM", ["Add\n1 and 1", "2"], ["Add\n1 and 1", "3"],
         ["model_a", "tie", "model_a"]),
        (CHAT, "chat preferences", ["Hi", "Good"], ["Hi", "Bad"], ["model_a"]),
    ],
)  # fmt: skip
def test_layouts(
    tmp_path: Path, record: dict[str, Any], layout: str, first: list[str], second: list[str],
    votes: list[Verdict], kind: str,
) -> None:  # fmt: skip
    human = read_human(written(tmp_path, [record], kind))
    (item,) = human.items
    assert (human.layout, said(item.a), said(item.b)) == (layout, first, second)
    assert item.votes == votes


def test_chosen_and_rejected_take_turns_and_may_be_texts(tmp_path: Path) -> None:
    prompt = [{"role": "system", "content": "Be kind"}, *chat("Hi", "Hello", "Well?")]
    records = [
        {"prompt": "Hi", "chosen": "Good", "rejected": "Bad"},
        {"prompt": prompt, "chosen": [{"role": "assistant", "content": "Good"}],
         "rejected": [{"role": "assistant", "content": "Bad"}]},
        {"prompt": prompt, "chosen": "Good", "rejected": "Bad"},
    ]  # fmt: skip
    one, two, three = read_human(written(tmp_path, records)).items
    assert (said(one.a), one.label) == (["Hi", "Good"], "model_a")
    assert (said(two.b), two.label) == (["Hi", "Hello", "Well?", "Good"], "model_b")
    assert said(three.a) == ["Hi", "Hello", "Well?", "Good"]


def test_other_labels_and_bad_records_are_counted_and_named(tmp_path: Path) -> None:
    file = written(tmp_path, [arena("model_a"), arena("tie (bothbad)"), arena(None), arena("tie")])
    file.write_text(file.read_text() + "\nno json\n\n")
    human = read_human(file)
    assert human.records == 5
    assert sum(human.unused.values()) + sum(len(each.votes) for each in human.items) == 5
    assert human.unused == {
        'label "tie (bothbad)", not model_a or model_b or tie (first: human.jsonl, line 2)': 1,
        "label null, not model_a or model_b or tie (first: human.jsonl, line 3)": 1,
        "not_json (first: human.jsonl, line 5)": 1,
    }


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "has no preference.*it is empty.*MT-bench"),
        ([{"a": 1, "b": 2}], r"fields \['a', 'b'\].*LLMBar: input"),
        ([{**LLMBAR, "label": 3}], "has no preference that can be used: 1 x label 3, not 1 or 2"),
        ([{**LLMBAR, "output_1": " "}], "1 x a reply that is no text or empty"),
        ([arena("tie", conversation_a=[])], "a conversation without messages"),
        ([arena("tie", conversation_a=[{"role": "bot", "content": "x"}])], "without role"),
    ],
)
def test_files_that_cannot_be_used(
    tmp_path: Path, records: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_human(written(tmp_path, records))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read as human preferences"):
        read_human(tmp_path / "none.jsonl")


def item(name: str, vote: Verdict, length_a: int = 10, length_b: int = 10) -> HumanItem:
    def played(length: int) -> Trajectory:
        turns = (TrajectoryTurn("user", "Hi", ()), TrajectoryTurn("assistant", "x" * length, ()))
        return Trajectory(name, name, "Hi", "", turns)

    return HumanItem(name, played(length_a), played(length_b), [vote])


def test_a_judge_against_people() -> None:
    """Of six items one is unparsed. Of the five: right, right, wrong, a tie of the judge, a tie of
    the people. The judge decides against the shorter one."""
    items = [
        item("long", "model_a", 30, 10),
        item("same", "model_b"),
        item("short", "model_b", 30, 10),
        item("tie of the judge", "model_a"),
        item("tie of people", "tie"),
        item("unread", "model_a"),
    ]
    verdicts: list[Verdict] = ["model_a", "model_b", "model_a", "tie", "model_b", "unparsed"]
    rows = [
        Judgement(each.item_id, "j", *SIDES, order, verdict, "", log_odds=1.0)
        for each, verdict in zip(items, verdicts, strict=True)
        for order in ("ab", "ba")
    ]
    human = HumanPreferences("LLMBar", 6, tuple(items), {})
    found = calibration("j", human, items, rows)
    assert (found.items, found.unparsed) == (6, 1)
    assert (found.same.hits, found.same.n) == (2, 5)
    assert (found.accuracy.hits, found.accuracy.n) == (2, 3)
    assert {name: (each.hits, each.n) for name, each in found.by_length.items()} == {
        "preferred one longer": (1, 1), "about as long": (1, 1), "preferred one shorter": (0, 1),
    }  # fmt: skip
    assert (found.soft.hits, found.soft.n) == (2, 5)
    assert found.kappa.n == 5
    assert found.people.n == 0
    assert found.in_words == "not shown to agree with people more often than chance"


def test_items_are_drawn_by_chance_in_order() -> None:
    human = HumanPreferences("x", 9, tuple(item(str(n), "tie") for n in range(9)), {})
    some = drawn(human, 4, seed=1)
    assert len(some) == 4
    assert some == sorted(some, key=lambda each: int(each.item_id)) == drawn(human, 4, seed=1)
    assert drawn(human, 0, 1) == drawn(human, 20, 1) == list(human.items)


def test_systems_messages_are_left_out(tmp_path: Path) -> None:
    system = [{"role": "system", "content": "x"}]
    record = {"chosen": [*system, *chat("Hi", "Good")], "rejected": [*system, *chat("Hi", "Bad")]}
    (found,) = read_human(written(tmp_path, [record])).items
    assert said(found.a) == ["Hi", "Good"]
