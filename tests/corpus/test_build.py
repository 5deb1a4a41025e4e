"""Whole corpora, from files to tables: nothing is lost, whatever the number of processes."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from scripted_engine import ScriptedEngine

from sage_core.annotation import annotate
from sage_core.config.annotation import AnnotationConfig
from sage_core.config.conversation import ConversationConfig
from sage_core.config.corpus import CorpusConfig
from sage_core.conversation import of_annotated, view
from sage_core.corpus.build import (
    DIALOGUES,
    FUNNEL,
    REJECTED,
    load_funnel,
    split_of,
    training_dialogues,
)
from sage_core.corpus.card import CARD
from sage_core.corpus.ingest import QUARANTINE
from sage_core.corpus.sentiment import analyser
from sage_core.corpus.tables import ROW_GROUP, RowWriter, read_dialogues
from sage_core.errors import ConfigError, DataError
from sage_core.sac import utterance_of
from sage_core.schema import AnnotatedDialogue, Dialogue, Rejection, with_roles
from sage_core.steps.local import build_corpus
from sage_core.storage import read_rows, write_rows

PAPER_STEPS = ["turns", "question", "words", "sentiment"]
FILES = {DIALOGUES, REJECTED, FUNNEL, QUARANTINE, CARD}


def made(folder: Path) -> tuple[list[Dialogue], list[Rejection], list[Any]]:
    """The tables of a corpus, after a check that their counts agree."""
    kept = read_rows(folder / DIALOGUES, Dialogue)
    rejected = read_rows(folder / REJECTED, Rejection)
    funnel: list[Any] = load_funnel(folder)
    assert {path.name for path in folder.iterdir()} == FILES
    first, *steps = funnel
    assert (first["step"], first["dropped"]) == ("read", 0)
    before = first["kept"]
    for step in steps:
        assert step["kept"] + step["dropped"] == before
        assert step["dropped"] == sum(row.reason == step["step"] for row in rejected)
        before = step["kept"]
    assert before == len(kept)
    assert len(kept) + len(rejected) == first["kept"]
    records = dict(first["records"])
    assert records["quarantined"] == first["quarantined"]
    assert records.pop("read") == sum(records.values())
    return kept, rejected, funnel


@pytest.mark.parametrize(("span", "kept"), [("whole", 11), ("longest_run", 782)])
def test_the_packaged_conversations_under_the_papers_rules(
    tmp_path: Path, span: str, kept: int
) -> None:
    build_corpus(CorpusConfig.model_validate({"span": span, "rules": "paper"}), tmp_path / "corpus")
    dialogues, rejected, funnel = made(tmp_path / "corpus")
    assert funnel[0]["kept"] == 7168
    assert len(dialogues) == kept
    steps = ["read", *(["span"] if span == "longest_run" else []), *PAPER_STEPS]
    assert [step["step"] for step in funnel] == steps
    ids = [row.dialogue_id for row in (*dialogues, *rejected)]
    assert len(set(ids)) == 7168
    # The rules once more, in plain words, on a part of what was kept.
    compound = analyser()
    for dialogue in dialogues[::20]:
        texts = [message.content for message in dialogue.messages]
        assert len(texts) > 4
        assert sum(len(text.split()) for text in texts) / len(texts) > 15
        assert any(text.rstrip()[-1:] == "?" for text in texts)
        assert min(map(compound, texts)) > 0.4


def comment(name: str, parent: str, thread: str, author: str, body: str) -> dict[str, Any]:
    return {
        "id": name, "parent_id": parent, "link_id": f"t3_{thread}", "author": author, "body": body,
        "created_utc": 1, "subreddit": "test",
    }  # fmt: skip


def reddit(threads: int) -> list[dict[str, Any]]:
    """Threads of eight comments: a path of six with a second leaf, and an orphan."""
    rows = []
    for number in range(threads):
        ids = [f"{number}x{turn}" for turn in range(6)]
        parents = [f"t3_{number}", *(f"t1_{name}" for name in ids[:-1])]
        rows += [
            comment(name, parent, str(number), f"u{turn % 2}", f"Is turn {turn} of {number} fine?")
            for turn, (name, parent) in enumerate(zip(ids, parents, strict=True))
        ]
        rows.append(comment(f"{number}y", f"t1_{ids[2]}", str(number), "u1", "Another answer."))
        rows.append(comment(f"{number}z", "t1_gone", str(number), "u2", "An orphan."))
    return rows


def write_lines(path: Path, rows: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_reddit_threads_whatever_the_order_and_the_number_of_processes(tmp_path: Path) -> None:
    rows = reddit(40)
    write_lines(tmp_path / "one" / "RC_2012-01", rows)
    shuffled = random.Random(0).sample(rows, len(rows))
    write_lines(tmp_path / "two" / "RC_2012-01", shuffled[:100])
    write_lines(tmp_path / "two" / "RC_2012-02", shuffled[100:])
    settings = {"reader": "pushshift", "rules": ("turns",), "records_per_partition": 50}
    results = []
    for folder, processes in (("one", 1), ("two", 1), ("two", 2)):
        output = tmp_path / f"out-{folder}-{processes}"
        config = CorpusConfig.model_validate({**settings, "input": tmp_path / folder})
        build_corpus(config, output, processes)
        made(output)
        results.append([(output / name).read_bytes() for name in sorted(FILES - {CARD})])
    assert results[0] == results[1] == results[2]
    dialogues, rejected, funnel = made(output)
    assert len(dialogues) == 40  # the path of six
    assert len(rejected) == 80  # the short leaf and the orphan
    assert funnel[0]["records"] == {"read": 320, "used": 320, "quarantined": 0}
    for dialogue in dialogues:
        assert len(dialogue.messages) == 6
        assert dialogue.source == "r/test"


def test_a_thread_is_in_one_split_and_splits_have_their_shares(tmp_path: Path) -> None:
    write_lines(tmp_path / "RC_2012-01", reddit(400))
    config = CorpusConfig(
        reader="pushshift",
        input=tmp_path / "RC_2012-01",
        rules=(),
        validation_share=0.2,
        test_share=0.1,
    )
    build_corpus(config, tmp_path / "out")
    dialogues, _, _ = made(tmp_path / "out")
    splits: dict[str, set[str]] = {}
    for dialogue in dialogues:
        splits.setdefault(dialogue.thread_id, set()).add(dialogue.split)
    assert len(splits) == 400
    assert all(len(split) == 1 for split in splits.values())
    counts = [sum({name} == split for split in splits.values()) for name in ("validation", "test")]
    assert 50 <= counts[0] <= 110  # 80 expected; five standard deviations are 40
    assert 15 <= counts[1] <= 65  # 40 expected


def test_bad_records_are_counted_sampled_and_named(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "RC_2012-01", reddit(100))
    with path.open("ab") as stream:
        stream.write(b"{broken\n")
        stream.write(b'{"id": "1", "body": "no parent, no thread"}\n')
        stream.write(b'\xff\xfe{"id": 1}\n')
        for name, parent in (("p", "q"), ("q", "p")):
            row = comment(name, f"t1_{parent}", "cycle", "u", "round and round")
            stream.write(json.dumps(row).encode() + b"\n")
        big = comment("big", "t3_big", "big", "u", "x" * 10_000_000)
        stream.write(json.dumps(big).encode() + b"\n")
    build_corpus(CorpusConfig(reader="pushshift", input=path, rules=()), tmp_path / "out")
    _, _, funnel = made(tmp_path / "out")
    assert funnel[0]["quarantined"] == 6
    samples = [json.loads(line) for line in (tmp_path / "out" / QUARANTINE).open()]
    assert sorted(sample["reason"] for sample in samples) == [
        "missing_field", "not_json", "not_utf8", "parent_cycle", "parent_cycle", "too_long",
    ]  # fmt: skip
    assert "RC_2012-01, line 801" in [sample["where"] for sample in samples]
    assert all(len(sample["sample"]) <= 200 for sample in samples)


def test_too_many_bad_records_stop_the_run_and_leave_nothing(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", reddit(2))  # comments are no message lists
    with pytest.raises(DataError) as caught:
        build_corpus(CorpusConfig(reader="messages", input=path), tmp_path / "out")
    for part in ("16 of 16 records", "rows.jsonl", "corpus.max_bad_share", "'messages'", "line 1"):
        assert part in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_wrong_rule_is_named_before_anything_is_read(tmp_path: Path) -> None:
    rules = ("no_such_module:wrds",)
    config = CorpusConfig(reader="messages", input=tmp_path / "missing", rules=rules)
    with pytest.raises(ConfigError, match=r"corpus\.rules: .*'no_such_module:wrds' cannot"):
        build_corpus(config, tmp_path / "out")


def test_duplicates_are_dropped_across_partitions(tmp_path: Path) -> None:
    said = ["I went to the sea with my dog and we swam all day long.", "How was the water then?"]
    rows = [
        {"messages": [{"role": role, "content": f"{text} {number % (ROW_GROUP + 5)}"}
                      for role, text in zip(("user", "assistant"), said, strict=True)]}
        for number in range(ROW_GROUP + 10)
    ]  # fmt: skip
    path = write_lines(tmp_path / "rows.jsonl", rows)
    config = CorpusConfig(
        reader="messages", input=path, rules=("exact_duplicate",), records_per_partition=1
    )
    build_corpus(config, tmp_path / "out")
    dialogues, rejected, _ = made(tmp_path / "out")
    assert len(dialogues) == ROW_GROUP + 5
    assert [row.dialogue_id for row in rejected] == [
        f"rows.jsonl-{ROW_GROUP + 5 + number}" for number in range(1, 6)
    ]


def test_the_data_card_says_where_the_dialogues_are_from(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "RC_2012-01", reddit(3))
    config = CorpusConfig(reader="pushshift", input=path, rules=("turns",), licence="CC0-1.0")
    build_corpus(config, tmp_path / "out")
    card = (tmp_path / "out" / CARD).read_text()
    for part in ("license: CC0-1.0", "RC_2012-01", "`pushshift`", "| turns | 3 | 6 |", "min_turns"):
        assert part in card
    assert str(tmp_path) not in card


def test_the_split_of_a_thread_is_stable() -> None:
    config = CorpusConfig(validation_share=0.3, test_share=0.3)
    found = [split_of(f"thread {number}", config) for number in range(8)]
    assert found == [split_of(f"thread {number}", config) for number in range(8)]
    assert split_of("x", CorpusConfig(validation_share=0, test_share=0)) == "train"


def corpus_of(folder: Path, lengths: list[int], split: str = "train") -> Path:
    folder.mkdir(exist_ok=True)
    with RowWriter(folder / DIALOGUES, Dialogue) as writer:
        for number, length in enumerate(lengths):
            turns = with_roles(f"turn {turn}" for turn in range(length))
            writer.write(Dialogue(f"d{number}", "test", "t", turns, split))  # type: ignore[arg-type]
    steps = [{"step": "read", "kept": 3, "dropped": 0}, {"step": "words", "kept": 0, "dropped": 3}]
    (folder / FUNNEL).write_text(json.dumps(steps))
    return folder


@pytest.mark.parametrize(
    ("max_turns", "expected"),
    [(0, [4, 6, 2, 6]), (4, [4, 4, 2, 4]), (5, [4, 4, 2, 4]), (3, [2, 2, 2, 2])],
)
def test_training_dialogues_are_cut_to_whole_exchanges(
    tmp_path: Path, max_turns: int, expected: list[int]
) -> None:
    """Of 5, 6, 1, 2 and 7 turns: the odd last ones go, and one turn alone is no exchange."""
    corpus = corpus_of(tmp_path, [5, 6, 1, 2, 7])
    found = training_dialogues(corpus, CorpusConfig(max_turns=max_turns), 0)
    assert [len(dialogue.messages) for dialogue in found] == expected
    assert {dialogue.messages[-1].role for dialogue in found} == {"assistant"}
    kept = {
        dialogue.dialogue_id: dialogue.messages for dialogue in read_dialogues(corpus / DIALOGUES)
    }
    for dialogue in found:
        assert kept[dialogue.dialogue_id][: len(dialogue.messages)] == dialogue.messages


@pytest.mark.parametrize(
    ("max_turns", "expected"), [(0, [3, 5]), (5, [3, 5]), (4, [3, 3]), (2, [])]
)
def test_an_opening_of_the_assistant_stays_in_training(
    tmp_path: Path, max_turns: int, expected: list[int]
) -> None:
    """Of 1, 2, 3 and 6 turns that the assistant opens: a last turn of the user's goes, and so
    does a dialogue without a reply to the user."""
    with RowWriter(tmp_path / DIALOGUES, Dialogue) as writer:
        for length in (1, 2, 3, 6):
            turns = with_roles(f"turn {turn}" for turn in range(length + 1))[1:]
            writer.write(Dialogue(f"d{length}", "test", "t", turns, has_roles=True))
    (tmp_path / FUNNEL).write_text("[]")
    config = CorpusConfig(max_turns=max_turns)
    if not expected:
        with pytest.raises(DataError):
            training_dialogues(tmp_path, config, 0)
        return
    found = training_dialogues(tmp_path, config, 0)
    assert [len(dialogue.messages) for dialogue in found] == expected
    for dialogue in found:
        assert dialogue.messages[0].role == dialogue.messages[-1].role == "assistant"


@pytest.mark.parametrize("span", ["whole", "longest_run"])
@pytest.mark.parametrize("reader", ["messages", "sharegpt"])
def test_an_opening_of_the_assistant_goes_through_to_training_text(
    tmp_path: Path, reader: str, span: str
) -> None:
    """From the file to State-Action Chains; longest_run cuts off a first turn that is not kind."""
    lists, role, content = (
        ("conversations", "from", "value")
        if reader == "sharegpt"
        else ("messages", "role", "content")
    )
    talk = [
        ("assistant", "Hello, I love to help you! How are you?"),
        ("user", "I am so happy, thank you!"),
        ("assistant", "That is wonderful, my friend! What else?"),
    ]
    unkind = [("user", "You are a horrible, stupid, bad thing.")] if span == "longest_run" else []
    row = {lists: [{role: by, content: text} for by, text in (*unkind, *talk)]}
    path = write_lines(tmp_path / "talks.jsonl", [row])
    config = CorpusConfig.model_validate(
        {"reader": reader, "input": path, "span": span, "min_turns": 3, "test_share": 0,
         "validation_share": 0, "rules": ["turns", "question", "sentiment", "exact_duplicate"]}
    )  # fmt: skip
    build_corpus(config, tmp_path / "out")
    (kept,) = training_dialogues(tmp_path / "out", config, 0)
    assert [(message.role, message.content) for message in kept.messages] == talk
    assert kept.has_roles

    answer = {"motivation": "joy", "emotion": "glad", "topics": ["help"]}
    engine = ScriptedEngine(lambda request, candidate: json.dumps(answer))
    write_rows(tmp_path / "sac", annotate([kept], engine, AnnotationConfig(), 0), AnnotatedDialogue)
    (annotated,) = read_rows(tmp_path / "sac", AnnotatedDialogue)
    assert [(turn.role, turn.utterance) for turn in annotated.turns] == talk
    profile = ConversationConfig().agent
    for states in (True, False):
        seen = view(of_annotated(annotated), profile, states=states)
        said = [(m.role, utterance_of(m.content)) for m in seen.messages]
        assert said == [("user", profile.ask), *talk]  # the assistant opens: there is no consent
        assert seen.loss[:2] == ("none", "none")


def test_the_sample_depends_on_the_seed(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, [4] * 30)
    config = CorpusConfig(max_dialogues=5)
    drawn = training_dialogues(corpus, config, 1)
    assert len({dialogue.dialogue_id for dialogue in drawn}) == 5
    assert training_dialogues(corpus, config, 1) == drawn
    assert training_dialogues(corpus, config, 2) != drawn


def test_other_splits_are_kept_from_training(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, [4] * 3, split="test")
    with pytest.raises(DataError):
        training_dialogues(corpus, CorpusConfig(), 0)


def test_an_empty_corpus_names_the_thresholds_and_the_counts(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        training_dialogues(corpus_of(tmp_path, []), CorpusConfig(), 0)
    message = str(caught.value)
    for threshold in ("corpus.min_turns", "corpus.min_mean_words", "corpus.min_sentiment"):
        assert threshold in message
    assert "read: 3, words: 0" in message


def test_tables_have_the_fixed_columns(tmp_path: Path) -> None:
    build_corpus(CorpusConfig(max_read=10), tmp_path / "out")
    columns = set(pq.read_schema(tmp_path / "out" / DIALOGUES).names)
    assert {"dialogue_id", "source", "thread_id", "messages", "split"} <= columns


def test_a_sort_without_memory_says_which_setting_to_raise(tmp_path: Path) -> None:
    write_lines(tmp_path / "RC_2012-01", reddit(20))
    config = CorpusConfig(reader="pushshift", input=tmp_path / "RC_2012-01", sort_memory_mb=1)
    with pytest.raises(ConfigError, match=r"corpus\.sort_memory_mb = 1 "):
        build_corpus(config, tmp_path / "out")
