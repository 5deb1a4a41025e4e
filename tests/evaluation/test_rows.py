"""The rows behind the figures: all of them, in a CSV file that is inside the page."""

import csv
from base64 import b64decode
from io import StringIO
from pathlib import Path

from sage_core.evaluation.quality import Measurements
from sage_core.evaluation.rows import SHOWN, Rows, judged, judged_name, measured, replies
from sage_core.evaluation.winrate import summarise
from sage_core.schema import Judgement, Order, Trajectory, TrajectoryTurn, Verdict


def saved(rows: Rows) -> list[list[str]]:
    """What a browser saves."""
    kind, content = rows.csv.split(",")
    assert kind == "data:text/csv;charset=utf-8;base64"
    return list(csv.reader(StringIO(b64decode(content).decode(), newline="")))


def test_the_csv_has_every_row_and_any_text() -> None:
    texts = ['a "quoted", text', "two\nlines", "=1+1", "caf\N{LATIN SMALL LETTER E WITH ACUTE}", ""]
    rows = tuple((number, texts[number % 5]) for number in range(SHOWN + 1))
    table = Rows("x", "Replies of m1: all", ("number", "text"), rows)
    assert saved(table) == [["number", "text"], *([str(number), text] for number, text in rows)]
    assert len(table.shown) == SHOWN
    assert table.file == "replies-of-m1-all.csv"


def verdicts(judge: str, *items: tuple[Verdict, Verdict]) -> list[Judgement]:
    orders: tuple[Order, Order] = ("ab", "ba")
    return [
        Judgement(f"s{number}", judge, "m0", "m1", order, verdict, "")
        for number, both in enumerate(items)
        for order, verdict in zip(orders, both, strict=True)
    ]


def test_the_verdicts_of_a_pair_are_those_that_its_summary_counts() -> None:
    found = verdicts(
        "a judge: #1", ("model_b", "model_b"), ("model_a", "model_b"), ("tie", "unparsed")
    )
    (pair,) = summarise(found)
    (rows,) = judged(found)
    assert rows.name == judged_name("a judge: #1", "m0", "m1")
    assert " " not in rows.name
    assert rows.rows == (("s0", "m1", "m1"), ("s1", "m0", "m1"), ("s2", "tie", "unparsed"))
    assert pair.n + pair.unparsed == len(rows.rows)


def test_a_missing_order_is_an_empty_cell() -> None:
    (rows,) = judged(verdicts("x", ("model_a", "tie"))[:1])
    assert rows.rows == (("s0", "m0", ""),)


def test_replies_have_their_states_apart() -> None:
    said = (
        "{u_motivation: venting, u_emotion: sad, u_topic: [cat, dog]} "
        "{a_motivation: sympathy, a_emotion: caring, a_topic: []} Oh no! When?"
    )
    turns = (TrajectoryTurn("user", "My cat!", ()), TrajectoryTurn("assistant", said, (), cut=True))
    (rows,) = replies({"m1": [Trajectory("t", "s", "My cat!", "sad", turns)]})
    row = dict(zip(rows.columns, rows.rows[0], strict=True))
    assert len(rows.rows) == 1
    assert row["reply"] == "Oh no! When?"
    assert row["user topic"] == "cat; dog"
    assert (row["words"], row["question"], row["cut off"], row["turn"]) == (3, 1, 1, 1)


def test_a_measure_has_the_mean_and_number_of_each_situation(tmp_path: Path) -> None:
    found = [
        Measurements("m0", "e", 2, {}, {"reply_words": {"s1": [2.0, 4.0], "s2": [5.0]}}),
        Measurements("m1", "e", 2, {}, {"reply_words": {"s2": [1.0]}, "cut_share": {"s1": [0.0]}}),
    ]
    words, cut = measured(found)
    assert words.columns == ("situation", "m0", "m0: n", "m1", "m1: n")
    assert words.rows == (("s1", 3.0, 2, None, 0), ("s2", 5.0, 1, 1.0, 1))
    assert cut.columns == ("situation", "m1", "m1: n")
