"""One call of fit(): what is known of it while it goes on, and when it is over."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from orchestrator.keras_log.lines import Bar
from orchestrator.progress import Progress
from trainer.contract import Ended


@dataclass(frozen=True)
class Fit:
    """One call of fit(), the first of a log being number 1.

    `epochs` is 0 where no head said how many. `begun` is the last epoch that began, and `whole` whether it
    also ended. `went_on` says that something was printed after it.
    """

    number: int
    epochs: int
    begun: int
    whole: bool
    went_on: bool
    ended: Ended | None
    progress: Progress


@dataclass
class Going:
    """A fit that goes on. All its values are immutable, so that a copy is a picture of it."""

    number: int
    first: int
    epochs: int
    begun: int
    told: bool = False  # Started was
    bare: bool = True  # nothing at all was printed below its head
    whole: bool = False
    went_on: bool = False
    total: int | None = None  # steps of an epoch
    open: bytes | None = None  # the last update on the way
    held: Bar | None = None  # what may be the last word
    last: Bar | None = None  # what was the last word on the epoch before
    more: tuple[Bar, ...] = ()  # such words once it was over: on epochs whose heads were lost, or better ones
    scored: bool = False  # an epoch had validation
    blank: bool = False  # an epoch had none
    lr: float | None = None
    next_lr: float | None = None
    said: Ended | None = None

    @property
    def complete(self) -> bool:
        """Whether all that was asked for is done."""
        return self.whole and self.begun == self.epochs

    @property
    def steps(self) -> int | None:
        """Of an epoch, by the one before or by its first update, which may be of an evaluation."""
        return self.last.total if self.last and self.last.total is not None else self.total

    def examines(self, bar: Bar) -> bool:
        """Whether it is of an evaluation, because the epoch has other steps. Bars above a line are, too."""
        if bar.scored or (bar.line and (bar.total is None or (self.held and not self.last))):
            return False
        return self.steps not in (None, bar.total)


def without_zeros(bar: Bar) -> Bar:
    """TensorFlow 2.0 prints validation as 0.0000e+00 until there is any."""
    validation = {name: value for name, value in bar.metrics.items() if name.startswith("val_")}
    if not validation or any(validation.values()):
        return bar
    metrics = {name: value for name, value in bar.metrics.items() if name not in validation}
    return dataclasses.replace(bar, metrics=metrics)
