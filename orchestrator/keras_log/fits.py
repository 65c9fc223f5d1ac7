"""Marks to events: which call of fit() an epoch belongs to, when it is over, and how the fit ended.

What is said of an epoch may be unsaid by the next line: the bar's last update looks like its last word, and
a traceback may have been caught. So an epoch is told when Keras has said its last word on it, or has begun
the next one; and how a fit ended is told when the next one begins, or the log ends.
"""

from __future__ import annotations

import copy
import dataclasses

from orchestrator.keras_log.endings import Endings
from orchestrator.keras_log.fit import Fit, Going, without_zeros
from orchestrator.keras_log.lines import Bar, Fresh, Header, Mark, Message, Text, going, measures, steps
from orchestrator.keras_log.unclaimed import Unclaimed
from orchestrator.progress import METRIC, Progress, fold
from trainer.contract import AnyEvent, Ended, Epoch, Note, Saved, Started, Status

NEARLY_DONE = 0.8  # share of the steps, after which a second head of the same epoch is its validation's
UNCLAIMED = 10_000  # marks kept while no head of an epoch has come
NOT_KERAS = "----------"  # what the trainers of a well-known tutorial of PyTorch print below `Epoch 1/25`


class Fits:
    """The whole log so far. `take` answers the events of one more mark."""

    def __init__(self) -> None:
        self.done: tuple[Fit, ...] = ()
        self.endings = Endings()
        self._now: Going | None = None
        self._progress = Progress()
        self._unclaimed = Unclaimed()
        self._indent: int | None = None  # of the first head; what is indented otherwise is quoted
        self._known = False  # Keras itself was heard
        self._announced = False  # a fit was, which prints no head where it is asked for one epoch
        self._strangers = False  # heads were of another program
        self._out: list[AnyEvent] = []

    def copy(self) -> Fits:
        """A picture that may be gone on with."""
        other = copy.copy(self)
        other._now, other.endings, other._out = copy.copy(self._now), copy.copy(self.endings), []
        other._unclaimed = copy.copy(self._unclaimed)
        return other

    @property
    def wants_first(self) -> bool:
        """Whether the next bar is the first of its epoch, and so shows how many steps that has, or of all."""
        if self._now is None:
            return self._unclaimed.inside is None
        return not self._now.whole and self._now.total is None

    def murmur(self) -> None:
        """Something was printed that means nothing."""
        if self._now:
            self._now.bare = False
            self._now.went_on |= self._now.whole
        else:
            self._unclaimed.words += 1

    def first_update(self, update: bytes) -> None:
        """The first of a bar's updates on the way."""
        if measures(update) and self._now:
            self._now.total = steps(update)
        elif not self._now and (bar := going(update)):
            self._unclaimed.inside = bar.step > 1

    def update(self, update: bytes) -> list[AnyEvent]:
        """The last of them."""
        if measures(update):
            self._known = True
            self._begin_announced()
            if self._now:
                self._tell()
                self._now.open = update
                self._now.went_on |= self._now.whole
            else:
                self._keep(update)
            self._went_on()
        return self._taken()

    def take(self, mark: Mark) -> list[AnyEvent]:
        """What follows from it."""
        match mark:
            case Header():
                self._header(mark)
            case Bar():
                self._bar(mark)
            case Message():
                self._message(mark)
            case Fresh():
                self._fresh()
            case Text():
                self._text(mark)
        return self._taken()

    def close(self) -> list[AnyEvent]:
        """The log ends here."""
        if self._unclaimed.marks:
            self._claim(None)
        now = self._now
        if now and not now.told:
            if self._strangers:
                self._now = now = None
            else:
                self._tell()
        if now:
            self._end(now, next_one=False)
        elif self.endings.error:
            self._emit(Ended(0.0, _status(self.endings), self.endings.error))
        return self._taken()

    def _taken(self) -> list[AnyEvent]:
        out, self._out = self._out, []
        return out

    def _emit(self, event: AnyEvent) -> None:
        if isinstance(event, Started):
            self._progress = Progress()
        self._progress = fold(self._progress, [event])
        self._out.append(event)

    # Heads

    def _header(self, head: Header) -> None:
        if self._indent is None:
            self._indent = head.indent
        if head.indent not in (None, self._indent):
            return  # quoted
        if self._unclaimed.marks:
            self._claim(head)
        now = self._now
        if now and now.more:
            follows = head.epochs == now.epochs and head.epoch > now.begun
            self._count_more(now, head.epoch - now.begun - 1 if follows else None)
        if now and self._is_of_validation(now, head):
            return
        if now and not now.told and not self._known:
            # Two heads and not a word of Keras between them: another program prints them.
            self._strangers, self._now, now = True, None, None
        if now and head.epoch > now.begun and head.epochs == now.epochs:
            self._went_on()
            self._next(now, head.epoch)
            return
        if now and not self._is_of_a_loop(now, head):
            self._end(now, next_one=True)
        self._begin(head.epoch, head.epochs)

    def _is_of_validation(self, now: Going, head: Header) -> bool:
        """TensorFlow 1.14 and 1.15 print a head above the bar of an epoch's validation: the same once more,
        or that of the first epoch, glued to the last update.
        """
        again = head.epoch == now.begun or (head.epoch == 1 and head.indent is None)
        if not again or head.epochs != now.epochs or now.whole or now.open is None or self.endings.error:
            return False
        bar = going(now.open)
        return bar is not None and bar.total is not None and bar.step >= NEARLY_DONE * bar.total

    def _is_of_a_loop(self, now: Going, head: Header | None) -> bool:
        """Whether the last head is of a program that calls fit() again and again, and counts that."""
        if now.told or self.endings.error:
            return False
        return now.bare or head is None or head.epochs != now.epochs

    def _begin_announced(self) -> None:
        if self._announced and self._now is None:
            self._begin(1, 1)

    def _begin(self, epoch: int, epochs: int) -> None:
        self._announced = False
        self._now = Going(len(self.done) + 1, epoch, epochs, epoch)

    def _tell(self) -> None:
        now = self._now
        if now and not now.told:
            now.told = True
            self._emit(Started(0.0, now.number, now.first, now.epochs, ""))

    def _next(self, now: Going, epoch: int) -> None:
        """Keras goes on, so the epoch before is over, whatever was seen of it."""
        self._tell()
        if not now.whole:
            bar = now.held or (now.open and going(now.open))
            if bar and (bar.total is None or bar.step == bar.total):
                self._finish(now, without_zeros(bar))
        now.begun, now.whole, now.went_on = epoch, False, False
        now.total = now.open = now.held = now.said = None
        if now.next_lr is not None:
            now.lr, now.next_lr = now.next_lr, None

    # Bars

    def _bar(self, bar: Bar) -> None:
        now = self._now
        if self._indent is not None and bar.indent > self._indent + 1:
            return  # quoted: a bar with all its steps done begins where the head does
        if not bar.metrics:
            self._bare(now, bar)
            return
        self._known = True
        self._begin_announced()
        if (now := self._now) is None:
            self._keep(bar)
            return
        self._tell()
        if now.whole:
            self._after(now, bar)
        else:
            self._last_word(now, bar)
        self._went_on()

    def _bare(self, now: Going | None, bar: Bar) -> None:
        """A bar without metrics: a prediction, or the epoch of a loop that uses no more of Keras."""
        if now is None:
            return
        if now.whole:
            now.went_on = True
        elif not now.told or (now.last is None or not now.last.metrics):
            self._known = True
            self._tell()
            now.held = now.held or bar

    def _last_word(self, now: Going, bar: Bar) -> None:
        """All steps of something are done: of the epoch, or of an evaluation by a callback."""
        if now.examines(bar):
            return
        if bar.line or bar.scored or (now.blank and not now.scored):
            self._finish(now, bar)
        elif now.held is None or now.held.metrics in ({}, bar.metrics):
            now.held = bar

    def _after(self, now: Going, bar: Bar) -> None:
        """An epoch is over and no head of another came: an evaluation, or the head was lost. Of two lines of
        verbose 2 without validation, only the next head tells which one was of an evaluation by a callback.
        """
        now.went_on |= not bar.scored
        unlike = bar.metrics != (now.last and now.last.metrics)
        if now.complete or now.said or not unlike or not (bar.scored or (bar.line and not now.scored)):
            now.went_on = True
        elif now.epochs:
            now.more += (bar,)
        elif bar.scored:
            self._next(now, now.begun + 1)
            self._finish(now, bar)
            now.went_on = True

    def _count_more(self, now: Going, lost: int | None) -> None:
        """`lost` heads are missing before the one that goes on, None where no such comes: the last words that
        came are those of their epochs, and before, better ones on the epoch that seemed over. After an epoch
        that was the last, what tells no validation is an evaluation; a bar begun then is of one more epoch.
        """
        more, now.more = now.more, ()
        if lost is None:
            more = tuple(bar for bar in more if bar.scored)
            lost = len(more) if now.open else 0
        better = more[: max(0, len(more) - lost)]
        if better:
            self._finish(now, better[-1])
        for bar in more[len(better) :]:
            self._next(now, now.begun + 1)
            self._finish(now, bar)

    def _finish(self, now: Going, bar: Bar) -> None:
        now.whole, now.last = True, bar
        now.open = now.held = None
        now.scored |= bar.scored
        now.blank |= not bar.scored
        lr = now.lr if bar.lr is None else bar.lr
        self._emit(Epoch(0.0, now.begun, bar.metrics, lr, bar.seconds))

    # Before the first head

    def _keep(self, mark: Bar | Message | bytes) -> None:
        self._unclaimed.keep(mark)
        if len(self._unclaimed.marks) > UNCLAIMED:
            self._claim(None)

    def _claim(self, head: Header | None) -> None:
        """Of a log without heads, or whose beginning is cut, the epochs before the first head."""
        loose, found = self._unclaimed.claimed(resumed=head is not None and head.epoch > 1)
        if not found:
            return
        joins = head is not None and head.epoch > len(found)
        first = head.epoch - len(found) if head and joins else 1
        now = self._now = Going(len(self.done) + 1, first, head.epochs if head and joins else 0, first)
        self._tell()
        for mark in loose:
            if isinstance(mark, Message):
                self._message(mark)
            elif mark in found:
                found.remove(mark)
                if now.whole:
                    self._next(now, now.begun + 1)
                self._finish(now, mark)
            elif isinstance(mark, bytes) and now.whole and head is None:
                self._next(now, now.begun + 1)
                now.open = mark
        if head and not joins:
            self._end(now, next_one=True)

    # Words

    def _message(self, message: Message) -> None:
        now = self._now
        if now is None:
            self._keep(message)
            return
        if message.text.startswith("Epoch "):
            self._known = True
        if not self._known:
            return
        self._tell()
        match message.kind:
            case "saved":
                self._emit(Saved(0.0, "checkpoint", message.path, now.begun, message.value))
                return
            case "rate":
                now.lr, now.next_lr = message.value, None
            case "next_rate":
                now.next_lr = message.value
            case "early":
                now.said = Ended(0.0, "finished", "early stopping")
            case "invalid":
                now.said = Ended(0.0, "failed", message.text)
        self._emit(Note(0.0, message.text, "warning" if message.kind == "invalid" else "info"))

    def _fresh(self) -> None:
        self._known = self._announced = True
        if self._unclaimed.marks:
            self._claim(None)
        if self._now and not self._is_of_a_loop(self._now, None):
            self._end(self._now, next_one=True)
        self._now = None

    def _text(self, text: Text) -> None:
        self.endings.read(text.text)
        self.murmur()
        now = self._now
        if now and not self._known and text.text.strip() == NOT_KERAS:
            self._strangers, self._now = True, None

    def _went_on(self) -> None:
        """Keras was heard again, so what looked like the end was none."""
        error = self.endings.clear()
        if error:
            self._emit(Note(0.0, f"went on after {error}", "warning"))

    # Ends

    def _end(self, now: Going, *, next_one: bool) -> None:
        """The fit is over, because the next one begins or the log ends."""
        self._tell()
        self._count_more(now, None)
        if now.held and not now.whole and self._is_last_word(now, now.held):
            self._finish(now, now.held)
        ended = self._how(now, next_one)
        best = self._progress.best
        if ended and best:
            ended = dataclasses.replace(ended, best_epoch=best.epoch, best=best.metrics[METRIC])
        if ended:
            self._emit(ended)
        error, interrupted = self.endings.error, self.endings.interrupted
        if error and not next_one and (ended is None or ended.reason != error):
            self._emit(Ended(0.0, "stopped" if interrupted else "failed", error))
        if next_one:
            self.endings.clear()
        self.done += (Fit(now.number, now.epochs, now.begun, now.whole, now.went_on, ended, self._progress),)
        self._now = None

    def _is_last_word(self, now: Going, bar: Bar) -> bool:
        if not bar.metrics:
            return not self.endings.error
        return bar.sure or now.blank or not now.scored

    def _how(self, now: Going, next_one: bool) -> Ended | None:
        """None where the log does not say."""
        if now.said:
            return now.said
        if now.complete:
            return Ended(0.0, "finished", f"all {now.epochs} epochs are done")
        if self.endings.error:
            return Ended(0.0, _status(self.endings), self.endings.error)
        if self.endings.hinted and not now.whole:
            return Ended(0.0, "failed", self.endings.hinted)
        if now.whole and next_one:
            return Ended(0.0, "finished", f"over after epoch {now.begun}, and the next fit began")
        return None


def _status(endings: Endings) -> Status:
    return "stopped" if endings.interrupted else "failed"
