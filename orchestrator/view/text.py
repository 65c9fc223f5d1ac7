"""Text for a terminal: whatever a machine sent, made inert, wrapped and clipped to cells."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Callable

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Span, Text

LONGEST = 2000  # characters of one line that anybody reads
_LOOKED_AT = 64 * 1024  # of a line of many megabytes the rest is not even looked at

# ECMA-48 in its 7-bit and 8-bit forms. Strings (OSC, DCS, SOS, PM, APC) lose what they carry; one that is
# never closed loses the rest of its line, as it would on a terminal.
_SEQUENCES = re.compile(
    r"(?:\x1b[\]PX^_]|[\x90\x98\x9d\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|\x1b[ -/]*[0-~]?"
)
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co"})
# Terminals disagree on the width of what these make of the character before them, so lines would wrap.
_RESHAPING = (range(0xFE00, 0xFE10), range(0xE0100, 0xE01F0), range(0x1F3FB, 0x1F400))


class _Kept(dict[int, str | None]):
    """What becomes of a character; filled as characters are met."""

    def __missing__(self, point: int) -> str | None:
        character = chr(point)
        kept: str | None = character
        if character.isspace():
            kept = " "
        elif unicodedata.category(character) in _UNSEEN or any(point in r for r in _RESHAPING):
            kept = None
        self[point] = kept
        return kept


_KEPT = _Kept()


def plain(text: str) -> str:
    """One line that a terminal can only print: no escape sequences, no characters that act or hide.

    Every kind of white space becomes a space. A line over `LONGEST` ends in an ellipsis.
    """
    if len(text) <= LONGEST and text.isascii() and text.isprintable():
        return text
    kept = _SEQUENCES.sub("", text[:_LOOKED_AT]).translate(_KEPT)
    if len(kept) > LONGEST or len(text) > _LOOKED_AT:
        return kept[: LONGEST - 1] + "…"
    return kept


def plain_lines(text: str) -> list[str]:
    """`plain` for text of several lines."""
    return [plain(line) for line in text.replace("\r\n", "\n").split("\n")]


def words(*parts: str | tuple[str, str]) -> Text:
    """Text from strings and (string, style) pairs, each made `plain`. The view makes no Text otherwise.

    Neighbours that look alike are one span, and Text is made once: a chart has a part for each character.
    """
    said, spans = "", list[Span]()
    for part in parts:
        string, style = (part, "") if isinstance(part, str) else part
        begin = len(said)
        said += plain(string)
        if style and spans and (spans[-1].style, spans[-1].end) == (style, begin):
            begin = spans.pop().start
        if style and len(said) > begin:
            spans.append(Span(begin, len(said), style))
    return Text(said, spans=spans, no_wrap=True, end="")


def clip(text: str, width: int) -> str:
    """At most `width` cells, with an ellipsis where something is missing."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, max(0, width - 1)).rstrip() + "…" if width > 0 else ""


def wrap(text: Text, console: Console, width: int, lines: int) -> list[Text]:
    """At most `lines` lines of at most `width` cells, an ellipsis where something is missing."""
    if cell_len(text.plain) <= width and "\n" not in text.plain:
        whole = text.copy()
        whole.rstrip()
        return [whole]
    wrapped = list(text.wrap(console, max(1, width), overflow="fold", no_wrap=False))
    kept = wrapped[: max(1, lines)]
    if len(kept) < len(wrapped):
        kept[-1].truncate(max(0, width - 1))
        kept[-1].append("…")
    for line in kept:
        line.rstrip()
    return kept


# Each for one of the same width, so that what fitted still fits.
_ASCII = {chr(0x2800 + dots): " .':"[bool(dots & 0xE4) + 2 * bool(dots & 0x1B)] for dots in range(256)}
_ASCII |= dict(zip("…·–−×━─┄│▁▂▃▄▅▆▇█●○▪✓■✗•°“”‘’", ".---x=-~|.:-=+*#@*o-+#x*o\"\"''", strict=True))


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    met = error.object[error.start : error.end]
    return "".join(_ASCII.get(c, "?") for c in met), error.end


# The name of an error handler for streams that cannot write every character.
FALLBACK = "ec2emo.fallback"
_handler: Callable[[UnicodeError], tuple[str, int]] = _in_ascii
codecs.register_error(FALLBACK, _handler)
