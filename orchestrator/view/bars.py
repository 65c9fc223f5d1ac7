"""Waiting made visible on stderr: a bar where lines may be drawn over, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from rich.live import Live
from rich.text import Text

from orchestrator.view.figures import bar, duration, share, size
from orchestrator.view.terminal import Screen, say, screen
from orchestrator.view.text import clip, plain, words

REDRAWN_PER_SECOND = 8
SAID_EVERY = 5.0  # seconds; a pipe is read later, or by a machine
WORTH_TELLING = 2.0  # seconds before the time taken, or left, is shown

Unit = Literal["bytes", "files"]


class Report:
    """Called with what is done of how much; `phase` says what is done next."""

    def __init__(self, target: Screen, unit: Unit | None) -> None:
        self._target, self._unit = target, unit
        self._title = ""
        self._done = self._total = 0.0
        self._begun = self._said = time.monotonic()

    def __call__(self, done: float, total: float) -> None:
        """So much of so much."""
        self._done, self._total = done, total
        if not self._target.redraws and time.monotonic() - self._said >= SAID_EVERY:
            self._said = time.monotonic()
            say(f"{self._title}: {share(done, total):.0%}{self._figures()}")

    def phase(self, title: str) -> None:
        """What is done next; its share counts from nothing."""
        self._title, self._done, self._total = plain(title), 0.0, 0.0
        self._begun = self._said = time.monotonic()
        if not self._target.redraws:
            say(f"{self._title} ...")

    def line(self) -> Text:
        """Title, bar, figures: as much of it as fits."""
        width = self._target.width - 1
        if not self._total:
            spent = time.monotonic() - self._begun
            elapsed = f"  {duration(spent)}" if spent >= WORTH_TELLING else ""
            return words(clip(f"{self._title} …", width - len(elapsed)), elapsed)
        part = share(self._done, self._total)
        percent, told = f"  {part:>4.0%}", self._figures()
        if len(told) > width - 30:
            told = ""
        title = clip(self._title, width - len(percent) - len(told) - 8)
        room = width - len(plain(title)) - len(percent) - len(told) - 2
        filled, rest = bar(part, min(40, room))
        return words(title, "  ", (filled, "green"), (rest, "dim"), percent, told)

    def _figures(self) -> str:
        amounts = f", {self._amount(self._done)} of {self._amount(self._total)}" if self._unit else ""
        spent = time.monotonic() - self._begun
        if spent < WORTH_TELLING or not 0 < self._done < self._total:
            return amounts
        return f"{amounts}, {duration(spent / self._done * (self._total - self._done))} left"

    def _amount(self, count: float) -> str:
        return size(count) if self._unit == "bytes" else f"{count:.0f} {self._unit}"


@contextmanager
def progress(title: str, *, unit: Unit | None = None) -> Iterator[Report]:
    """A bar for as long as the block lasts; what it yields is called with (done, total)."""
    target = screen(sys.stderr)
    report = Report(target, unit)
    report.phase(title)
    if not target.redraws:
        yield report
        return
    # Only words may be moved above the bar: standard output is data's.
    with (
        target.restored(),
        Live(
            console=target,
            get_renderable=report.line,
            refresh_per_second=REDRAWN_PER_SECOND,
            transient=True,
            redirect_stdout=False,
        ),
    ):
        yield report
