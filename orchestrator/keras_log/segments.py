"""Bytes as they come to segments: what a terminal shows between two breaks of a line.

New lines, returns and runs of backspaces are breaks alike, for Keras begins each update of its bar with one
of them, and empty segments mean nothing. Nothing here depends on where one piece of bytes ends and the next
begins.
"""

from __future__ import annotations

import codecs
import json
import re

LONGEST = 1 << 16  # bytes of a segment that are looked at; Keras writes some hundred
LONGEST_ENTRY = 1 << 17  # bytes: 16 KiB, each escaped as six, and what stands behind

_MARKS = (
    (codecs.BOM_UTF8, None),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_DECIDING = 8  # bytes that show an encoding, with a mark or without, or Docker
# rsyslog, and so SageMaker, writes a control character as # and three octal digits.
_ESCAPED = {b"#010": b"\b", b"#011": b"\t", b"#012": b"\n", b"#015": b"\r", b"#033": b"\x1b"}
_ESCAPES = re.compile(rb"#0(?:1[0125]|33)")
_DOCKER = b'{"log":"'
_SAID = re.compile(rb'\{"log":"((?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+)"')
_HALF_ESCAPE = re.compile(rb"#(?:0(?:1|3{1,2})?)?\Z")


class Segments:
    """Holds what is not whole yet: at most `LONGEST` bytes and a few."""

    def __init__(self) -> None:
        self._head: bytes | None = b""  # until the encoding is known
        self._decoder: codecs.IncrementalDecoder | None = None
        self._entries: Entries | None = None
        self._escape = b""
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """The segments that end in these bytes, as UTF-8 with their breaks; empty while none does."""
        data = self._unescaped(self._utf8(data))
        if b"\0" in data:
            data = data.replace(b"\0", b"")  # the hole that a truncation leaves under an open file
        end = 1 + max(data.rfind(b"\n"), data.rfind(b"\r"), data.rfind(b"\b"))
        if not end:
            self._rest += data[: max(0, LONGEST + 1 - len(self._rest))]
            return b""
        block = self._rest + data[:end]
        self._rest = data[end:][: LONGEST + 1]
        return block

    def rest(self) -> bytes:
        """What has not ended yet. Asking changes nothing."""
        rest = self._rest
        if self._head:
            rest += self._head.removeprefix(codecs.BOM_UTF8)
        return (rest + self._escape).replace(b"\0", b"")

    def _utf8(self, data: bytes) -> bytes:
        if self._head is not None:
            self._head += data
            if len(self._head) < _DECIDING:
                return b""
            data, self._head = self._begin(self._head), None
        if self._entries:
            return self._entries.feed(data)
        if self._decoder is None:
            return data
        return self._decoder.decode(data).encode("utf-8", "replace")

    def _begin(self, head: bytes) -> bytes:
        """Choose the encoding by the first bytes, which are given back without their mark."""
        for mark, encoding in _MARKS:
            if head.startswith(mark):
                self._decode_as(encoding)
                return head[len(mark) :]
        if head.startswith(_DOCKER):
            self._entries = Entries()
        first = [bool(byte) for byte in head[:4]]
        if first == [True, False, True, False]:
            self._decode_as("utf-16-le")
        elif first == [False, True, False, True]:
            self._decode_as("utf-16-be")
        return head

    def _decode_as(self, encoding: str | None) -> None:
        self._decoder = codecs.getincrementaldecoder(encoding)("replace") if encoding else None

    def _unescaped(self, data: bytes) -> bytes:
        data, self._escape = self._escape + data, b""
        half = _HALF_ESCAPE.search(data, max(0, len(data) - 3))
        if half:
            data, self._escape = data[: half.start()], half[0]
        if b"#" not in data:
            return data
        return _ESCAPES.sub(lambda found: _ESCAPED[found[0]], data)


class Entries:
    """What a program printed, from what Docker keeps of it: each line as JSON, a long one as several.

    An entry is written at once, so of one that has not ended nothing is told.
    """

    def __init__(self) -> None:
        self._line = b""

    def feed(self, data: bytes) -> bytes:
        """What the entries say that end in these bytes."""
        first, *more = data.split(b"\n")
        first = self._line + first[: LONGEST_ENTRY - len(self._line)]
        *whole, rest = first, *more
        self._line = rest[:LONGEST_ENTRY]
        return b"".join(map(_said, whole))


def _said(entry: bytes) -> bytes:
    """A line that is no such entry is told as it is."""
    match = _SAID.match(entry[:LONGEST_ENTRY])
    if match is None:
        return entry + b"\n"
    said: str = json.loads(b'"%s"' % match[1].decode("utf-8", "replace").encode())
    return said.encode("utf-8", "replace")
