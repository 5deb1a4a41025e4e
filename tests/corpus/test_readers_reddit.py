"""Reply trees: Pushshift's dumps and ConvoKit's corpora."""

import bz2
import gzip
import json
import lzma
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
import zstandard

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.records import BadRecord, Post, Record
from sage_core.corpus.sources import read, sources

COMMENT: dict[str, Any] = {
    "id": "c1", "parent_id": "t1_c0", "link_id": "t3_s1", "author": "ann", "body": "hi",
    "created_utc": 1325376000, "subreddit": "AskReddit", "score": 1, "edited": False,
}  # fmt: skip
SUBMISSION: dict[str, Any] = {
    "id": "s1", "author": "bob", "title": "Why?", "selftext": "Tell me.", "subreddit": "AskReddit",
    "created_utc": 1325376000, "num_comments": 4,
}  # fmt: skip
UTTERANCE: dict[str, Any] = {
    "id": "u1", "speaker": "ann", "root": "u0", "reply_to": "u0", "timestamp": 1325376000,
    "text": "hi", "meta": {},
}  # fmt: skip
MISSING = object()


def changed(record: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {key: value for key, value in {**record, **changes}.items() if value is not MISSING}


def json_lines(*records: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def read_all(reader: str, path: Path, **more: Any) -> list[Record]:
    config = CorpusConfig.model_validate({"reader": reader, "input": path, **more})
    return [record for source in sources(config) for record in read(source, config)]


def read_one(tmp_path: Path, record: dict[str, Any], reader: str = "pushshift") -> Record:
    path = tmp_path / "x.jsonl"
    path.write_bytes(json_lines(record))
    (one,) = read_all(reader, path)
    return one


def test_a_comment_and_a_submission(tmp_path: Path) -> None:
    path = tmp_path / "RC_2012-01"
    path.write_bytes(json_lines(COMMENT, SUBMISSION))
    assert read_all("pushshift", path) == [
        Post("t1_c1", "t1_c0", "t3_s1", "ann", 1325376000, "r/AskReddit", "hi"),
        Post("t3_s1", "", "t3_s1", "bob", 1325376000, "r/AskReddit", "Why?\n\nTell me."),
    ]


@pytest.mark.parametrize(
    ("record", "field", "value"),
    [
        (changed(COMMENT, parent_id=None), "parent_id", "t3_s1"),
        (changed(COMMENT, parent_id=MISSING), "parent_id", "t3_s1"),
        (changed(COMMENT, author="[deleted]"), "author", ""),
        (changed(COMMENT, author=None), "author", ""),
        (changed(COMMENT, author=MISSING), "author", ""),
        (changed(COMMENT, created_utc="1325376000"), "created", 1325376000),
        (changed(COMMENT, created_utc=1325376000.9), "created", 1325376000),
        (changed(COMMENT, created_utc="1325376000.0"), "created", 1325376000),
        (changed(COMMENT, created_utc=None), "created", 0),
        (changed(COMMENT, created_utc=MISSING), "created", 0),
        (changed(COMMENT, body="a &gt; b &lt; c &amp;gt; &quot;"), "text", 'a > b < c > "'),
        (changed(COMMENT, body="&amp;#x200B;a&nbsp;b &#39;c&amp;#39;"), "text", "a b 'c'"),
        (changed(COMMENT, body="x\u200by ?a=1&copy=2&lt"), "text", "xy ?a=1&copy=2&lt"),
        (changed(COMMENT, id="t1_c1"), "post_id", "t1_c1"),
        (changed(COMMENT, link_id="s1"), "thread_id", "t3_s1"),
        (changed(COMMENT, parent_id="c0"), "parent_id", "t1_c0"),
        (changed(COMMENT, parent_id="s1"), "parent_id", "t3_s1"),
        (changed(COMMENT, parent_id="s1", link_id="s1"), "parent_id", "t3_s1"),
        (changed(SUBMISSION, id="t3_s1"), "post_id", "t3_s1"),
        (changed(SUBMISSION, selftext="[ Removed by Reddit ]"), "text", "Why?"),
        (changed(COMMENT, body="[deleted]"), "text", "[deleted]"),
        (changed(COMMENT, body=""), "text", ""),
        (changed(COMMENT, title="a title"), "post_id", "t1_c1"),
        (changed(SUBMISSION, selftext=""), "text", "Why?"),
        (changed(SUBMISSION, selftext=None), "text", "Why?"),
        (changed(SUBMISSION, selftext=MISSING), "text", "Why?"),
        (changed(SUBMISSION, selftext="[removed]"), "text", "Why?"),
        (changed(SUBMISSION, selftext="[deleted]"), "text", "Why?"),
        (changed(SUBMISSION, title="R&amp;D", selftext="&lt;3"), "text", "R&D\n\n<3"),
    ],
)
def test_fields_of_a_dump(
    tmp_path: Path, record: dict[str, Any], field: str, value: object
) -> None:
    post = read_one(tmp_path, record)
    assert isinstance(post, Post)
    found = getattr(post, field)
    assert (found.removeprefix(f"{tmp_path.name}/") if field.endswith("_id") else found) == value


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        *((changed(COMMENT, **{key: MISSING}), "missing_field")
          for key in ("id", "link_id", "subreddit", "body")),
        *((changed(COMMENT, **{key: None}), "missing_field")
          for key in ("id", "link_id", "subreddit", "body")),
        *((changed(COMMENT, **{key: 7}), "wrong_type")
          for key in ("id", "link_id", "subreddit", "body", "parent_id", "author")),
        *((changed(COMMENT, created_utc=value), "wrong_type")
          for value in ("soon", "nan", "inf", True, [], 1e30, 2**63)),
        *((changed(SUBMISSION, **{key: MISSING}), "missing_field")
          for key in ("id", "title", "subreddit")),
        (changed(SUBMISSION, selftext=7), "wrong_type"),
        ({}, "missing_field"),
    ],
)  # fmt: skip
def test_posts_without_what_they_need(tmp_path: Path, record: dict[str, Any], reason: str) -> None:
    bad = read_one(tmp_path, record)
    assert isinstance(bad, BadRecord)
    assert (bad.reason, bad.where) == (reason, "x.jsonl, line 1")
    assert bad.sample == json.dumps(record)[:200]


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [
        (".zst", zstandard.ZstdCompressor().compress),
        (".bz2", bz2.compress),
        (".xz", lzma.compress),
        (".gz", gzip.compress),
        (".ndjson", bytes),
    ],
)
def test_a_dump_with_every_kind_of_bad_line(
    tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes]
) -> None:
    """Good + bad == lines, and the bad ones are named where they stand."""
    lines = [
        json.dumps(COMMENT).encode(),
        b"{",
        b'{"body": "\xff"}',
        json.dumps(changed(COMMENT, body="y" * 3000)).encode(),
        b"",
        b"[1]",
        json.dumps(changed(COMMENT, id=3)).encode(),
        json.dumps(changed(COMMENT, id=None)).encode(),
        json.dumps(SUBMISSION).encode(),
    ]
    path = tmp_path / f"RC_2012-01{suffix}"
    path.write_bytes(compress(b"\n".join(lines)))
    records = read_all("pushshift", path, max_record_bytes=2000)
    assert [record.post_id for record in records if isinstance(record, Post)] == ["t1_c1", "t3_s1"]
    assert [(bad.reason, bad.where) for bad in records if isinstance(bad, BadRecord)] == [
        ("not_json", f"RC_2012-01{suffix}, line 2"),
        ("not_utf8", f"RC_2012-01{suffix}, line 3"),
        ("too_long", f"RC_2012-01{suffix}, line 4"),
        ("wrong_type", f"RC_2012-01{suffix}, line 6"),
        ("wrong_type", f"RC_2012-01{suffix}, line 7"),
        ("missing_field", f"RC_2012-01{suffix}, line 8"),
    ]


def test_a_broken_dump_beside_a_good_one(tmp_path: Path) -> None:
    posts = [changed(COMMENT, id=f"c{number}", body=f"{number * 7919 % 10007}" * 9)
             for number in range(20_000)]  # fmt: skip
    whole = zstandard.ZstdCompressor().compress(json_lines(*posts))
    (tmp_path / "2012").mkdir()
    (tmp_path / "2012" / "RC_2012-01.zst").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "RC_2012-02.zst").write_bytes(whole)
    records = read_all("pushshift", tmp_path)
    (bad,) = (record for record in records if isinstance(record, BadRecord))
    before = records.index(bad)
    assert bad.reason == "truncated"
    assert bad.where == f"2012/RC_2012-01.zst, line {before + 1}"
    assert 0 < before < 20_000
    ids = [record.post_id for record in records if isinstance(record, Post)]
    whole_ids = [f"t1_c{number}" for number in range(20_000)]
    assert ids == whole_ids[:before] + whole_ids


def test_an_utterance(tmp_path: Path) -> None:
    corpus = tmp_path / "movie-corpus"
    corpus.mkdir()
    (corpus / "utterances.jsonl").write_bytes(
        json_lines(
            changed(UTTERANCE, id="u0", speaker="bob", reply_to=None, timestamp=None, text="hello"),
            UTTERANCE,
        )
    )
    (corpus / "conversations.json").write_text("{ broken", encoding="utf-8")
    expected = [
        Post("movie-corpus/u0", "", "movie-corpus/u0", "bob", 0, "movie-corpus", "hello"),
        Post(
            "movie-corpus/u1",
            "movie-corpus/u0",
            "movie-corpus/u0",
            "ann",
            1325376000,
            "movie-corpus",
            "hi",
        ),
    ]
    for path in (tmp_path, corpus, corpus / "utterances.jsonl"):
        assert read_all("convokit", path) == expected


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"speaker": {"id": "ann", "meta": {}}}, "author", "ann"),
        ({"speaker": MISSING, "user": "ann"}, "author", "ann"),
        ({"speaker": MISSING, "user": {"id": "ann"}}, "author", "ann"),
        ({"speaker": None}, "author", ""),
        ({"speaker": {"id": None}}, "author", ""),
        ({"speaker": "[deleted]"}, "author", ""),
        ({"root": MISSING, "conversation_id": "k"}, "thread_id", "k"),
        ({"root": None, "conversation_id": "k"}, "thread_id", "k"),
        ({"reply_to": MISSING, "reply-to": "r"}, "parent_id", "r"),
        ({"reply_to": MISSING}, "parent_id", ""),
        ({"timestamp": "12.5"}, "created", 12),
        ({"timestamp": "2012-01-01"}, "created", 0),
        ({"timestamp": MISSING}, "created", 0),
        ({"id": 17}, "post_id", "17"),
    ],
)
def test_fields_of_an_utterance(
    tmp_path: Path, changes: dict[str, Any], field: str, value: object
) -> None:
    post = read_one(tmp_path, changed(UTTERANCE, **changes), "convokit")
    assert isinstance(post, Post)
    found = getattr(post, field)
    assert (found.removeprefix(f"{tmp_path.name}/") if field.endswith("_id") else found) == value


@pytest.mark.parametrize(
    ("reader", "record", "words"),
    [
        ("pushshift", changed(COMMENT, author=5), "'author' is 5, not a text"),
        ("pushshift", changed(COMMENT, created_utc="soon"), "'created_utc' is 'soon', not a time"),
        ("pushshift", changed(COMMENT, created_utc=[1]), "'created_utc' is [1], not a time"),
        ("pushshift", changed(COMMENT, created_utc=2**63), f"'created_utc' is {2**63}, not a time"),
        ("pushshift", changed(COMMENT, body=["x"]), "'body' is ['x'], not a text"),
        ("convokit", changed(UTTERANCE, speaker=MISSING), "'speaker' and 'user' are missing"),
        ("convokit", changed(UTTERANCE, root=MISSING), "'root' or 'conversation_id' is missing"),
        ("convokit", changed(UTTERANCE, text=3), "'text' is 3, not a text"),
    ],
)
def test_the_wrong_field_of_a_post_is_named(
    tmp_path: Path, reader: str, record: dict[str, Any], words: str
) -> None:
    bad = read_one(tmp_path, record, reader)
    assert isinstance(bad, BadRecord)
    assert words in bad.detail


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"id": MISSING}, "missing_field"),
        ({"root": MISSING}, "missing_field"),
        ({"text": None}, "missing_field"),
        ({"speaker": MISSING}, "missing_field"),
        ({"text": 7}, "wrong_type"),
        ({"id": True}, "wrong_type"),
        ({"reply_to": ["u0"]}, "wrong_type"),
        ({"speaker": 1.5}, "wrong_type"),
    ],
)
def test_utterances_without_what_they_need(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    bad = read_one(tmp_path, changed(UTTERANCE, **changes), "convokit")
    assert isinstance(bad, BadRecord)
    assert (bad.reason, bad.where) == (reason, "x.jsonl, line 1")


def test_the_zip_of_a_corpus(tmp_path: Path) -> None:
    utterances = json_lines(*(changed(UTTERANCE, id=f"u{n}") for n in range(1000))) + b"{\n"
    path = tmp_path / "subreddit-Cornell.zip"
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        archive.writestr("subreddit-Cornell/conversations.json", "{}")
        archive.writestr("subreddit-Cornell/utterances.jsonl", utterances)
    *posts, bad = read_all("convokit", tmp_path)
    assert [(post.post_id, post.source) for post in posts if isinstance(post, Post)] == [
        (f"subreddit-Cornell/u{n}", "subreddit-Cornell") for n in range(1000)
    ]
    where = "subreddit-Cornell.zip/subreddit-Cornell/utterances.jsonl, line 1001"
    assert bad == BadRecord("not_json", where, "{", "unexpected end of data at character 2")
    # A byte of the data that is wrong: what is before it, then one bad record.
    broken = bytearray(path.read_bytes())
    broken[broken.index(b"utterances.jsonl") + 2000] ^= 0xFF
    path.write_bytes(bytes(broken))
    records = read_all("convokit", path)
    assert len(records) < 1001
    assert isinstance(records[-1], BadRecord)
    assert Counter(r.reason for r in records if isinstance(r, BadRecord))["truncated"] == 1
    # Without its end a zip has no list of files; without utterances it is none of ours.
    path.write_bytes(bytes(broken[:-100]))
    assert read_all("convokit", path) == [
        BadRecord("truncated", path.name, "", "File is not a zip file")
    ]
    with ZipFile(path, "w") as archive:
        archive.writestr("corpus.json", "{}")
    assert read_all("convokit", path) == [BadRecord("missing_field", path.name, "corpus.json")]
