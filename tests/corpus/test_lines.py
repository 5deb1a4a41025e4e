"""Lines: every compression, damage of every kind, and no line held that is over the limit."""

import bz2
import gzip
import io
import json
import lzma
import random
import tracemalloc
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import orjson
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from sage_core.corpus.lines import (
    TruncatedError,
    parse_json,
    read_lines,
    split_lines,
    uncompressed,
)
from sage_core.corpus.readers.arrays import split_array
from sage_core.corpus.records import SAMPLE_CHARACTERS, BadRecord

LIMIT = 2**22
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    ".zst": zstandard.ZstdCompressor().compress,
    ".bz2": bz2.compress,
    ".xz": partial(lzma.compress, preset=0),
    ".gz": gzip.compress,
}


def long_window_frame(data: bytes) -> bytes:
    """One frame as ``zstd --long=31`` makes it of a stream: a window of 2 GiB, no content size."""
    parameters = zstandard.ZstdCompressionParameters(
        window_log=31, hash_log=17, chain_log=17, compression_level=1
    )
    frame = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return frame.compress(data) + frame.flush()


def read(path: Path, max_bytes: int = LIMIT) -> list[tuple[int, bytes] | BadRecord]:
    return list(read_lines(path, path.name, max_bytes))


@cache
def noise(count: int) -> list[bytes]:
    """Lines that hardly compress, so that half of a file holds about half of them."""
    draw = random.Random(0)
    return [json.dumps({"n": n, "x": draw.randbytes(50).hex()}).encode() for n in range(count)]


@pytest.mark.parametrize("suffix", [*COMPRESSORS, ".ndjson", ".ZST", ""])
def test_numbers_blank_lines_and_a_last_line_without_its_end(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"RC_2012-01{suffix}"
    compress = COMPRESSORS.get(suffix.lower(), bytes)
    path.write_bytes(compress(b"\xef\xbb\xbfone\n\n  \t\r\ntwo\r\n\xff\nlast"))
    assert read(path) == [(1, b"one"), (4, b"two\r"), (5, b"\xff"), (6, b"last")]


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_frames_that_follow_each_other_are_one_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    compress = COMPRESSORS[suffix]
    path.write_bytes(compress(b"one\ntw") + compress(b"") + compress(b"o\nthree\n") + bytes(8))
    assert read(path) == [(1, b"one"), (2, b"two"), (3, b"three")]


def test_a_long_window(tmp_path: Path) -> None:
    lines = noise(12_000)
    data = b"\n".join(lines)
    assert len(data) > 2**20
    frame = long_window_frame(data)
    with pytest.raises(zstandard.ZstdError, match="memory"):  # what a reader as it comes does
        zstandard.ZstdDecompressor().stream_reader(io.BytesIO(frame)).read()
    path = tmp_path / "RC.zst"
    path.write_bytes(frame + frame)
    read_back = read(path)
    assert len(read_back) == 23_999
    assert read_back[:11_999] == list(enumerate(lines[:-1], start=1))
    assert read_back[11_999] == (12_000, lines[-1] + lines[0])


@pytest.mark.parametrize("suffix", COMPRESSORS)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_file_that_ends_early(tmp_path: Path, suffix: str, share: float) -> None:
    """What is read is a beginning of the lines, and the damage is one record, the last."""
    lines = noise(20_000)
    data = COMPRESSORS[suffix](b"\n".join(lines) + b"\n")
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(data[: int(len(data) * share)])
    *good, bad = read(path)
    assert isinstance(bad, BadRecord)
    assert bad.reason == "truncated"
    assert bad.where == f"broken{suffix}, line {len(good) + 1}"
    assert good == list(enumerate(lines[: len(good)], start=1))
    assert lines[len(good)].startswith(bad.sample.encode())
    # bz2's blocks of 900 kB are the largest unit that is lost.
    assert len(good) >= len(lines) * share - 900_000 / len(lines[-1])
    assert share != 0.5 or good


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_a_broken_frame_after_a_whole_one(tmp_path: Path, suffix: str) -> None:
    compress = COMPRESSORS[suffix]
    second = bytearray(compress(b"three\n" * 1000))
    second[1] ^= 0xFF
    path = tmp_path / f"x{suffix}"
    path.write_bytes(compress(b"one\ntwo\nthr") + bytes(second))
    assert read(path) == [
        (1, b"one"),
        (2, b"two"),
        BadRecord("truncated", f"x{suffix}, line 3", "thr"),
    ]


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_a_file_that_is_not_compressed_at_all(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b'{"body": "plain"}\n' * 10)
    assert read(path) == [BadRecord("truncated", f"x{suffix}, line 1", "")]


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_files_are_read_side_by_side(tmp_path: Path, suffix: str) -> None:
    lines = noise(20_000)
    path = tmp_path / f"x{suffix}"
    path.write_bytes(COMPRESSORS[suffix](b"\n".join(lines)))
    pairs = list(zip(read_lines(path, "a", LIMIT), read_lines(path, "b", LIMIT), strict=True))
    assert pairs == [((n, line), (n, line)) for n, line in enumerate(lines, start=1)]


def test_the_disks_errors_are_not_a_damaged_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.gz")
    with pytest.raises(IsADirectoryError):
        read(tmp_path)


@pytest.mark.parametrize("suffix", [".zst", ".gz", ""])
def test_a_long_line_is_never_held(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    long = b"y" * 100_000_000
    path.write_bytes(COMPRESSORS.get(suffix, bytes)(b"before\n" + long + b"\nafter\n" + long))
    del long
    tracemalloc.start()
    got = read(path, 1_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    sample = "y" * SAMPLE_CHARACTERS
    assert got == [
        (1, b"before"),
        BadRecord("too_long", f"x{suffix}, line 2", sample),
        (3, b"after"),
        BadRecord("too_long", f"x{suffix}, line 4", sample),
    ]
    # zstd packs such a line so tightly that one read of the file stands for 17 MB.
    assert peak < 60_000_000, peak


def test_the_limit_itself_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"1234\n12345\n1234")
    assert read(path, 4) == [
        (1, b"1234"),
        BadRecord("too_long", "x, line 2", "12345"),
        (3, b"1234"),
    ]


some_line = st.binary(max_size=12).filter(lambda line: b"{" not in line)  # begins no object


@given(st.lists(some_line), st.integers(1, 8), st.integers(1, 8), st.booleans())
def test_chunks_may_end_anywhere(
    lines: list[bytes], size: int, limit: int, truncated: bool
) -> None:
    """Kept, too long and blank lines together are all lines, whatever the chunks."""
    data = b"\n".join(lines)

    def chunks():  # type: ignore[no-untyped-def]
        for start in range(0, len(data), size):
            yield data[start : start + size]
        if truncated:
            raise TruncatedError

    whole = data.split(b"\n")
    last = whole.pop() if truncated else None
    expected: list[object] = []
    for number, line in enumerate(whole, start=1):
        if len(line) > limit:
            expected.append(("too_long", f"f, line {number}"))
        elif line.strip():
            expected.append((number, line))
    if last is not None:
        expected.append(("truncated", f"f, line {len(whole) + 1}"))
    got = split_lines(chunks(), "f", limit)
    assert [
        (item.reason, item.where) if isinstance(item, BadRecord) else item for item in got
    ] == expected


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not_json"),
        (b'{"a": NaN}', "not_json"),
        (b'{"a": Infinity}', "not_json"),
        (b'{"a": 1} {"b": 2}', "not_json"),
        (b'{"a": "\\ud800"}', "not_json"),  # half a surrogate pair is no text that can be written
        (b'{"a":' * 100_000, "not_json"),
        (b"[" * 100_000 + b"]" * 100_000, "not_json"),
        (b'{"a": "\xff"}', "not_utf8"),
        (b'{"a": "\xed\xa0\x80"}', "not_utf8"),
        (b"\x28\xb5\x2f\xfd", "not_utf8"),
        (b"[]", "wrong_type"),
        (b"3", "wrong_type"),
        (b"null", "wrong_type"),
        (b'"text"', "wrong_type"),
    ],
)
def test_what_is_no_json_object(line: bytes, reason: str) -> None:
    record = parse_json(line, "x, line 1")
    assert isinstance(record, BadRecord)
    assert (record.reason, record.where) == (reason, "x, line 1")
    assert record.sample == line.decode("utf-8", "replace")[:SAMPLE_CHARACTERS]


@pytest.mark.parametrize("cut", range(1, 24))
def test_a_plain_dump_that_breaks_off(tmp_path: Path, cut: int) -> None:
    """Wherever it does, the last line is a lost part and no mistake in the file; with all of its
    line, or its own end of line, it is what it is."""
    line = '{"a": "ä{b", "c": [1.5]}'.encode()
    path = tmp_path / "RC_x"
    path.write_bytes(line + b"\n" + line[:cut])
    first, last = read_lines(path, "x", 1000)
    assert first == (1, line)
    assert isinstance(last, BadRecord)
    assert (last.reason, last.where) == ("truncated", "x, line 2")
    assert "the file ends within an object" in last.detail
    for whole in (line, line[:cut] + b"\n", b"x" + line[:cut]):
        path.write_bytes(line + b"\n" + whole)
        assert [*read_lines(path, "x", 1000)][1] == (2, whole.rstrip(b"\n"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), json_values))
def test_every_json_object_is_read_as_the_standard_library_reads_it(
    value: dict[str, object],
) -> None:
    assert parse_json(orjson.dumps(value), "") == value
    assert parse_json(json.dumps(value).encode(), "") == value


@given(st.lists(json_values), st.integers(1, 7), st.sampled_from([None, 1]))
def test_an_array_is_cut_into_its_elements(
    values: list[object], size: int, indent: int | None
) -> None:
    """Whatever the chunks, elements parse to what the array holds."""
    data = json.dumps(values, indent=indent).encode()
    chunks = [data[start : start + size] for start in range(0, len(data), size)]
    numbers, elements = [], []
    for item in split_array(chunks, "f", LIMIT):
        assert not isinstance(item, BadRecord), item
        numbers.append(item[0])
        elements.append(json.loads(item[1]))
    assert elements == values
    assert numbers == list(range(1, len(values) + 1))


@given(st.lists(json_values, min_size=1), st.integers(1, 7), st.data())
def test_an_array_that_ends_early(values: list[object], size: int, data: st.DataObject) -> None:
    whole = json.dumps(values).encode()
    cut = whole[: data.draw(st.integers(1, len(whole) - 1))]
    chunks = [cut[start : start + size] for start in range(0, len(cut), size)]
    *good, bad = split_array(chunks, "f", LIMIT)
    assert isinstance(bad, BadRecord)
    assert (bad.reason, bad.where) == ("truncated", f"f, record {len(good) + 1}")
    elements = [json.loads(item[1]) for item in good if not isinstance(item, BadRecord)]
    assert elements == values[: len(good)]


def test_elements_over_the_limit_and_what_follows_an_array() -> None:
    data = b'[ {"a": 1}, "%s", [2,\n3] ]\n {"b": 1}' % (b'\\"],' * 100)
    for size in (1, 5, 1000):
        chunks = [data[start : start + size] for start in range(0, len(data), size)]
        first, second, third, fourth = split_array(chunks, "f", 20)
        assert (first, third) == ((1, b' {"a": 1}'), (3, b" [2,\n3] "))
        assert isinstance(second, BadRecord)
        assert (second.reason, second.where) == ("too_long", "f, record 2")
        assert isinstance(fourth, BadRecord)
        assert (fourth.reason, fourth.where) == ("not_json", "f, after the array")


def test_the_suffix_of_a_compression_is_taken_off() -> None:
    assert uncompressed(Path("a/b.jsonl.ZST")) == Path("a/b.jsonl")
    assert uncompressed(Path("a/b.c.json")) == Path("a/b.c.json")
