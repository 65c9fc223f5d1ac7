"""What a log says before the first head of an epoch: whose it is shows when a head comes, or none."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.keras_log.lines import Bar, Message

A_FRAGMENT = 1  # of a line: so many segments of nonsense stand where the head of a log was cut

Mark = Bar | Message | bytes


@dataclass
class Unclaimed:
    """Bars, messages, and of several updates the last. All its values are immutable, so that a copy is a
    picture of it.
    """

    marks: tuple[Mark, ...] = ()
    words: int = 0  # segments that mean nothing
    inside: bool | None = None  # an epoch the log begins, as the step of its first update shows
    at_once: bool = False  # the log begins with a bar

    def keep(self, mark: Mark) -> None:
        """One more."""
        if not self.marks and isinstance(mark, Bar):
            self.at_once = self.words <= A_FRAGMENT
        if self.marks and isinstance(self.marks[-1], bytes):
            self.marks = self.marks[:-1]
        self.marks += (mark,)

    def claimed(self, *, resumed: bool) -> tuple[tuple[Mark, ...], list[Bar]]:
        """All marks, which are kept no longer, and those that end epochs. `resumed`: the head that came is
        not of a first epoch.
        """
        marks, self.marks = self.marks, ()
        cut = bool(self.inside) or (self.at_once and resumed)
        return marks, _results([mark for mark in marks if isinstance(mark, Bar)], cut=cut)


def _results(bars: list[Bar], *, cut: bool) -> list[Bar]:
    """Those of bars without heads that end epochs. An evaluation tells neither validation nor a rate, and
    Keras 1 prints no such line of one; `cut`: the log begins inside an epoch, whose head is lost.
    """
    if len(bars) > 1 and bars[0].total is None and bars[1].total is not None:
        bars = bars[1:]  # the end of an update, as a cut head leaves it, looks like a line of Keras 1
    scored = [bar for bar in bars if bar.scored]
    told = scored or [bar for bar in bars if bar.lr is not None or bar.total is None]
    return told or (bars[:1] if cut else [])
