"""Bytes to events: segments to marks to fits, with all that needs no look left out."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator

from orchestrator.keras_log.fit import Fit
from orchestrator.keras_log.fits import Fits
from orchestrator.keras_log.lines import Bar, Mark, Text, bare, parse
from orchestrator.keras_log.segments import LONGEST, Segments
from trainer.contract import AnyEvent

# Updates of a bar on its way are nearly all of most logs, and one call passes over thousands of them. They
# say themselves that they are on the way: Keras 1 and 2 by the time that is left, Keras 3 by the dark end of
# the bar or the steps. To be passed over, one must end in a metric, to which nothing is glued.
_KERAS_2 = rb" *+\d++/(?:\d++|Unknown) \[[=>.]*+\] - ETA: "
_KERAS_3 = (
    rb"(?:\x1b\[1m)? *+(?P<step>\d++)/(?!(?P=step)[ \x1b])\d++(?:\x1b\[0m)? "
    rb"(?:\x1b\[32m[\xe2\x94\x81]*+\x1b\[0m)?(?:\x1b\[37m)?[\xe2\x94\x81]++(?:\x1b\[0m)? "
)
# All but a return, a new line, a backspace and E: a set of what it has is faster than one of what it lacks.
_MORE = rb"[\x00-\x07\t\x0b\x0c\x0e-DF-\xff]{0,4000}+"
_REST = _MORE + rb"(?:E(?!poch)" + _MORE + rb")*(?<=[\d ])"
_UPDATES = re.compile(
    b"|".join(rb"(?:" + bar + _REST + rb"[\x08\r\n]++)+" for bar in (_KERAS_2, _KERAS_3)),
)
_BAR_BEGINS = re.compile(rb"\s*(?:\x1b\[1m)?\s*\d+/(?:\d+|Unknown)(?:\x1b\[0m)? [\[\x1b\xe2]")
_BROKEN = re.compile(rb" -(?: ETA:?)?\s*\Z")  # an update, by a narrow window
_SEGMENT = re.compile(rb"[\r\n\x08]*+([^\r\n\x08]*+)")
_BEGIN_OF_AN_UPDATE = frozenset(b" \x1b0123456789")
# What any line has that means something here; the second begins with what few words contain.
_BEGINS = re.compile(
    rb"learning rate|slurmstepd|srun: |=>> PBS: |TERM_|mpirun noticed|Command term|Process finished"
    rb"|terminate called|nohup: |zsh: |\d+ +[Kk]illed"
)
_HOLDS = re.compile(
    rb"/(?:\d|Unknown|None|\?)|\ds - |E(?:poch |xception|rror)|Learning rate|Restoring model|Invalid loss"
    rb"|Train (?:on|for) |-{10}|Traceback|Killed|Terminated|Segmentation|Aborted|Bus error|Floating point"
    rb"|Hangup|Check failed|Fatal Python|: (?:can't open|error: |command not|No such|line \d)|\] .*illed"
)
LONGEST_WRAPPED = 8000  # characters of a line that was broken into several


class Reader:
    """One log, from its first byte on. The events are the same however the bytes are cut into pieces.

    Their `t` is 0.0, because a log has no clock. Each fit begins with Started, whose `attempt` is the
    number of the fit; what is pending, as how the last fit ended, is told by `close`.
    """

    def __init__(self) -> None:
        self._segments = Segments()
        self._fits = Fits()
        self._passed: bytes | None = None  # the last update of those that nobody looked at
        self._half: tuple[str, list[Mark]] | None = (
            None  # last words on an epoch, which the next line may go on
        )

    def feed(self, data: bytes) -> list[AnyEvent]:
        """The events that follow from the next bytes."""
        return list(self._read(self._segments.feed(data)))

    def close(self) -> list[AnyEvent]:
        """The events of a log that ends here: what was not certain yet, and how the last fit ended."""
        rest = self._segments.rest()[:LONGEST]
        return [*self._look(rest, ended=False), *self._settle(), *self._fits.close()]

    def ahead(self) -> list[AnyEvent]:
        """What `close` would answer now. Nothing changes by asking."""
        return self._copy().close()

    def fits(self) -> tuple[Fit, ...]:
        """Every fit of the log, as if it ended here."""
        end = self._copy()
        end.close()
        return end._fits.done

    def error(self) -> str | None:
        """What the program seems to have died of, if the log ends here."""
        end = self._copy()
        end.close()
        return end._fits.endings.error

    def _copy(self) -> Reader:
        other = copy.copy(self)
        other._fits = self._fits.copy()
        return other

    def _read(self, block: bytes) -> Iterator[AnyEvent]:
        at = 0
        while at < len(block):
            found = _SEGMENT.match(block, at)
            assert found is not None  # it also matches nothing
            begin, at = found.span(1)
            updates = begin < at and block[begin] in _BEGIN_OF_AN_UPDATE and _UPDATES.match(block, begin)
            if updates:
                yield from self._pass(block[begin:at], _last(updates[0]))
                at = updates.end()
            elif begin == at:
                pass  # breaks alone mean nothing
            elif self._is_dull(block, begin, min(at, begin + LONGEST)):
                self._fits.murmur()
            else:
                yield from self._look(block[begin : min(at, begin + LONGEST)])

    def _pass(self, first: bytes, last: bytes) -> Iterator[AnyEvent]:
        """Many updates: the first tells the steps of the epoch, the last how far it is."""
        yield from self._settle_half()
        if self._passed is None and self._fits.wants_first:
            self._fits.first_update(first)
        self._passed = last

    def _look(self, segment: bytes, *, ended: bool = True) -> Iterator[AnyEvent]:
        marks = parse(segment, ended=ended)
        first = marks[0] if marks else None
        if isinstance(first, Bar) and first.going:
            yield from self._pass(segment, segment)
            if marks[1:]:
                yield from self._settle_passed()
                yield from self._take(marks[1:])
            return
        broken = self._passed is not None and _BROKEN.search(self._passed)
        if broken and isinstance(first, Bar) and first.line and first.total is None:
            return  # the end of that update, which looks like a line of Keras 1
        yield from self._settle_passed()
        if marks == [first] and isinstance(first, Text) and self._half and self._joined(segment, ended):
            return
        yield from self._settle_half()
        if self._may_go_on(segment, marks):
            self._half = segment.decode("utf-8", "replace"), marks
        else:
            yield from self._take(marks)

    def _may_go_on(self, segment: bytes, marks: list[Mark]) -> bool:
        """Whether it is a bar, or what a narrow window has left of one: a part of the bar or of its time."""
        match marks:
            case [Bar()]:
                return True
            case [Text()]:
                return _BAR_BEGINS.match(segment) is not None
            case [Bar() as bar, Text()]:
                return not bar.metrics
        return False

    def _is_dull(self, block: bytes, begin: int, end: int) -> bool:
        """Whether a segment can mean nothing, seen from afar."""
        if self._half is not None or self._fits.endings.inside:
            return False
        return not (_BEGINS.match(block, begin, end) or _HOLDS.search(block, begin, end))

    def _joined(self, segment: bytes, ended: bool) -> bool:
        """Whether the segment is the second half of a line that was wrapped at the width of a window."""
        assert self._half is not None
        text, before = self._half
        more, dated = segment.decode("utf-8", "replace"), bare(segment)
        if len(text) + len(more) > LONGEST_WRAPPED:
            return False
        for join in dict.fromkeys((text + more, f"{text} {more}", text + dated)):
            marks = parse(join.encode(), ended=ended)
            if len(marks) == 1 and isinstance(marks[0], Bar) and marks[0].strict and marks != before:
                self._half = join, marks
                return True
        return False

    def _settle(self) -> Iterator[AnyEvent]:
        yield from self._settle_passed()
        yield from self._settle_half()

    def _settle_passed(self) -> Iterator[AnyEvent]:
        passed, self._passed = self._passed, None
        if passed is not None:
            yield from self._fits.update(passed)

    def _settle_half(self) -> Iterator[AnyEvent]:
        half, self._half = self._half, None
        if half:
            yield from self._take(half[1])

    def _take(self, marks: list[Mark]) -> Iterator[AnyEvent]:
        for mark in marks:
            yield from self._fits.take(mark)


def _last(updates: bytes) -> bytes:
    whole = updates.rstrip(b"\r\n\b")
    return whole[1 + max(whole.rfind(b"\n"), whole.rfind(b"\r"), whole.rfind(b"\b")) :]
