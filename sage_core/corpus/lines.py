"""Lines of plain and compressed files, streamed, and the JSON objects on them.

The suffix says how a file is compressed: ``.zst`` (windows up to 2 GiB, as ``zstd --long=31`` makes
them; decoding takes that much memory), ``.bz2``, ``.xz``, ``.gz``, anything else is plain. Frames
that follow each other are read as one, zeros between and after them are padding. Lines end in a
line feed.
"""

import bz2
import lzma
import zlib
from codecs import BOM_UTF8, utf_8_decode
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from io import BufferedReader
from pathlib import Path, PurePath
from typing import IO, Any, Protocol, cast
from zipfile import BadZipFile

import orjson
import zstandard

from sage_core.corpus.records import SAMPLE_CHARACTERS, BadRecord

_CHUNK_BYTES = 2**20
# What a read decompresses to is held at once, and 4 bytes of zstd may hold 128 KiB.
_COMPRESSED_CHUNK_BYTES = 512


class _Frame(Protocol):
    """A decompressor of one frame (bz2: stream; gzip: member)."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


_FRAMES: dict[str, Callable[[], _Frame]] = {
    # Frames of one ZstdDecompressor share its state, and files may be read side by side.
    ".zst": lambda: zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj(),
    ".bz2": bz2.BZ2Decompressor,
    ".xz": lzma.LZMADecompressor,
    ".gz": partial(zlib.decompressobj, 16 + zlib.MAX_WBITS),  # 16: gzip's head and checksum
}
COMPRESSED = tuple(_FRAMES)


class TruncatedError(Exception):
    """A compressed file ends early or is corrupt from here on."""


class Chunked(Protocol):
    """A binary stream that gives what it has before it fails, which ``read`` may not."""

    def read1(self, size: int, /) -> bytes: ...


def read_lines(path: Path, where: str, max_bytes: int) -> Iterator[tuple[int, bytes] | BadRecord]:
    """The lines of ``path`` with their numbers, from 1; blank ones are left out.

    ``where`` names the file in bad records: ``too_long`` for a line over ``max_bytes``, which is
    never held whole, and at the end ``truncated`` for what is lost of a damaged file, or
    for a last line that breaks off within a JSON object.
    """
    return split_lines(read_chunks(path), where, max_bytes)


def split_lines(
    chunks: Iterable[bytes], where: str, max_bytes: int
) -> Iterator[tuple[int, bytes] | BadRecord]:
    """The lines of a file that is read in chunks; see :func:`read_lines`."""
    number = 0
    rest = b""  # of the line under way; cut after max_bytes + 1, and so still seen to be too long
    try:
        for chunk in chunks:
            lines = chunk.split(b"\n")
            lines[0] = rest if len(rest) > max_bytes else rest + lines[0]
            rest = lines.pop()[: max_bytes + 1]
            for line in lines:
                number += 1
                if len(line) > max_bytes:
                    yield bad_record("too_long", f"{where}, line {number}", line)
                elif line and not line.isspace():
                    yield number, line
    except TruncatedError:
        yield bad_record("truncated", f"{where}, line {number + 1}", rest)
        return
    if len(rest) > max_bytes:
        yield bad_record("too_long", f"{where}, line {number + 1}", rest)
    elif _is_begun(rest):
        detail = "the file ends within an object, as a download that stopped early does"
        yield bad_record("truncated", f"{where}, line {number + 1}", rest, detail)
    elif rest and not rest.isspace():
        yield number + 1, rest


def _is_begun(line: bytes) -> bool:
    """Whether a line is the beginning of an object, as its end would make it one."""
    if not line.lstrip().startswith(b"{"):
        return False
    text, _ = utf_8_decode(line, "replace")  # without the bytes of a character that is cut
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return error.pos >= len(text)
    return False


def parse_json(line: bytes, where: str) -> dict[str, Any] | BadRecord:
    """The JSON object on a line, or ``not_utf8``, ``not_json`` or ``wrong_type`` (no object)."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        if not is_utf8(line):
            return bad_record("not_utf8", where, line)
        return bad_record("not_json", where, line, f"{error.msg} at character {error.pos + 1}")
    if isinstance(value, dict):
        return value
    return bad_record("wrong_type", where, line, "it is not an object")


def is_utf8(line: bytes) -> bool:
    """Whether ``line`` is a text."""
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def bad_record(reason: str, where: str, raw: bytes, detail: str = "") -> BadRecord:
    """A refused record with its first characters; what is no text is not shown."""
    head = raw[: 4 * SAMPLE_CHARACTERS]  # a character has up to 4 bytes
    if is_binary(head):
        return BadRecord(reason, where, f"({len(raw)} bytes, not text)", detail)
    sample = head.decode("utf-8", "replace")
    return BadRecord(reason, where, sample[:SAMPLE_CHARACTERS], detail)


def is_binary(head: bytes) -> bool:
    """Whether bytes are no text in any encoding: they hold a zero, or a tenth of their characters
    are control characters or no UTF-8."""
    text = head.decode("utf-8", "replace")
    odd = sum(1 for each in text if each == "\ufffd" or (each < " " and each not in "\t\n\r\f"))
    return b"\0" in head or odd > max(8, len(text) // 10)


def uncompressed(path: PurePath) -> PurePath:
    """``path`` without the suffix of its compression."""
    return path.with_suffix("") if path.suffix.lower() in COMPRESSED else path


def read_chunks(path: Path) -> Iterator[bytes]:
    """The decompressed bytes of ``path``, without a byte order mark.

    Raises:
        TruncatedError: after all that could be read of a damaged file.
    """
    new_frame = _FRAMES.get(path.suffix.lower())
    with path.open("rb", buffering=_CHUNK_BYTES) as file:
        if new_frame:
            yield from _intact(_frames(file, new_frame))
        else:
            yield from stream_chunks(cast(BufferedReader, file))


def stream_chunks(stream: Chunked) -> Iterator[bytes]:
    """The bytes of a stream that is open already; see :func:`read_chunks`."""
    return _intact(iter(lambda: stream.read1(_CHUNK_BYTES), b""))


def _intact(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """``chunks``, with one error for all the ways in which decompression fails."""
    try:
        yield next(chunks, b"").removeprefix(BOM_UTF8)
        yield from chunks
    except (EOFError, BadZipFile, lzma.LZMAError, zlib.error, zstandard.ZstdError):
        raise TruncatedError from None
    except OSError as error:
        if error.errno is not None:  # the disk's; that of bz2 has no number
            raise
        raise TruncatedError from None


def _frames(file: IO[bytes], new_frame: Callable[[], _Frame]) -> Iterator[bytes]:
    """The libraries' own readers stop in silence: zstandard's at the end of a file within a frame,
    bz2's and lzma's at a later frame with a broken head.
    """
    frame = None
    empty = True
    while data := file.read(_COMPRESSED_CHUNK_BYTES):
        empty = False
        while data := data if frame else data.lstrip(b"\0"):
            frame = frame or new_frame()
            chunk = frame.decompress(data)
            data = b""
            if frame.eof:
                data, frame = frame.unused_data, None
            if chunk:
                yield chunk
    if frame or empty:
        raise EOFError
