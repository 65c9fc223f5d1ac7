"""Curves in braille, eight dots a character: training and validation over each other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.text import Text

from orchestrator.view.figures import number
from orchestrator.view.text import clip, words

LABEL = 7  # cells: a figure and a space
# The bit of each dot of a braille character, by row from the top and column (Unicode, block 2800).
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_BLANK = 0x2800


@dataclass(frozen=True)
class Line:
    """A course of values, None where there is no number. A dotted one is told from others without colour;
    `mark` is the index of a value and a sign to put there.
    """

    name: str
    values: Sequence[float | None]
    style: str
    dotted: bool = False
    mark: tuple[int, str] | None = None


@dataclass(frozen=True)
class Chart:
    """Lines over each other, the first on top, and all marks above them."""

    title: str
    lines: tuple[Line, ...]

    def drawn(self, width: int, rows: int) -> list[Text]:
        """A title and `rows` lines, each of `width` cells."""
        plot = width - LABEL
        known = [v for line in self.lines for v in line.values if v is not None and math.isfinite(v)]
        low, high = (min(known), max(known)) if known else (0.0, 0.0)
        canvas = _Canvas(plot, rows, low, high)
        for line in reversed(self.lines):
            canvas.draw(line)
        for line in reversed(self.lines):
            canvas.mark(line)
        labels = {0: number(high), rows - 1: number(low)} if known else {}
        body = [
            words(f"{clip(labels.get(y, ''), LABEL - 1):>{LABEL - 1}} ", *canvas.row(y)) for y in range(rows)
        ]
        return [self._head(width), *body]

    def _head(self, width: int) -> Text:
        legend = words(f"{'':{LABEL}}", (self.title, "bold"))
        for line in self.lines:
            sign = line.mark[1] if line.mark else "┄" if line.dotted else "━"
            legend.append_text(words("  ", (f"{sign} {line.name}", line.style)))
        legend.truncate(width, pad=True)
        return legend


class _Canvas:
    """Dots and the style of each character; what is drawn later lies on top."""

    def __init__(self, width: int, rows: int, low: float, high: float) -> None:
        self._width, self._rows, self._low, self._high = width, rows, low, high
        self._bits = [[0] * width for _ in range(rows)]
        self._styles = [[""] * width for _ in range(rows)]
        self._marks: dict[tuple[int, int], tuple[str, str]] = {}

    def draw(self, line: Line) -> None:
        before: tuple[int, int] | None = None
        for i in range(len(line.values)):
            here = self._place(line, i)
            for x, y in _between(before or here, here) if here else ():
                if not (line.dotted and x % 2):
                    self._dot(x, y, line.style)
            before = here

    def mark(self, line: Line) -> None:
        if line.mark and (place := self._place(line, line.mark[0])):
            x, y = place
            self._marks[y // 4, x // 2] = line.mark[1], f"bold {line.style}"

    def row(self, y: int) -> Iterator[tuple[str, str]]:
        for x in range(self._width):
            if (y, x) in self._marks:
                yield self._marks[y, x]
            else:
                yield chr(_BLANK + self._bits[y][x]), self._styles[y][x]

    def _dot(self, x: int, y: int, style: str) -> None:
        self._bits[y // 4][x // 2] |= _DOTS[y % 4][x % 2]
        self._styles[y // 4][x // 2] = style

    def _place(self, line: Line, i: int) -> tuple[int, int] | None:
        """Of a value, in dots from the top left."""
        value, last = line.values[i], len(line.values) - 1
        if value is None or not math.isfinite(value):
            return None
        # Halved before subtracting, so that no difference is more than a float can hold.
        span = self._high / 2 - self._low / 2
        share = (value / 2 - self._low / 2) / span if span > 0 else 0.5
        x = round(i / last * (2 * self._width - 1)) if last else 0
        return x, round((1 - share) * (4 * self._rows - 1))


def _between(a: tuple[int, int] | None, b: tuple[int, int] | None) -> Iterator[tuple[int, int]]:
    """The dots of a straight line."""
    assert a is not None and b is not None
    steps = max(abs(b[0] - a[0]), abs(b[1] - a[1]), 1)
    for step in range(steps + 1):
        yield (
            round(a[0] + (b[0] - a[0]) * step / steps),
            round(a[1] + (b[1] - a[1]) * step / steps),
        )


def beside(left: Sequence[Text], right: Sequence[Text], gap: int) -> list[Text]:
    """Two drawings of the same height, next to each other."""
    return [
        words().append_text(a).append_text(words(" " * gap)).append_text(b)
        for a, b in zip(left, right, strict=True)
    ]
