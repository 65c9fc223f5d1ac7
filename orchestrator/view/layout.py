"""Items on a page of a given width: labelled values and sentences, and which of them fit a window."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from orchestrator.view.text import words, wrap

LABEL = 10  # cells: `accuracy` and two spaces


@dataclass(frozen=True)
class Item:
    """Lines that stay or go together. Where there is no room, those of the highest rank go first."""

    lines: tuple[Text, ...]
    rank: int = 0


BLANK = Item((words(),), 12)


class Page:
    """Makes items that are no wider than the page."""

    def __init__(self, console: Console, width: int) -> None:
        self._console, self.width = console, width

    def field(self, label: str, value: Text, *, lines: int = 2, rank: int = 0, indent: int = LABEL) -> Item:
        """A label and its value, which goes on below itself."""
        return self.hanging(words(f"{label:<{indent}}"), value, lines=lines, rank=rank)

    def hanging(self, label: Text, value: Text, *, lines: int, rank: int = 0) -> Item:
        """As `field`, with a label that has its styles and its width already."""
        indent = cell_len(label.plain)
        made = []
        for i, line in enumerate(wrap(value, self._console, self.width - indent, lines)):
            text = (words(" " * indent) if i else label.copy()).append_text(line)
            text.truncate(self.width)
            made.append(text)
        return Item(tuple(made), rank)

    def sentence(self, *parts: str | tuple[str, str], lines: int = 2, rank: int = 0) -> Item:
        """Words over the whole width."""
        return Item(tuple(wrap(words(*parts), self._console, self.width, lines)), rank)


def fit(items: Iterable[Item], height: int | None) -> Text:
    """The items that `height` lines have room for, all without one."""
    kept = list(items)
    while height is not None and len(kept) > 1 and sum(len(item.lines) for item in kept) > height:
        # Of equal ranks the lower one goes: a page is read from the top.
        del kept[max(range(len(kept)), key=lambda i: (kept[i].rank, i))]
    return Text("\n", no_wrap=True, overflow="crop").join(line for item in kept for line in item.lines)
