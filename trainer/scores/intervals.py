"""How sure a score is: 95 % percentile intervals by bootstrap, over speakers where there are enough of them.

Clips of one speaker are alike, so that drawing clips anew tells less than it seems to. With `ENOUGH` speakers
or more, whole speakers are drawn instead, and that is the interval to believe. All three scores are functions
of the confusion alone, so what is drawn are confusions, not clips. numpy alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

LEVEL = 0.95
RESAMPLES = 1000
ENOUGH = 5
_SEED = 42

Pair = tuple[float, float]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Bounds:
    """Lower and upper bound of each score."""

    accuracy: Pair
    uar: Pair
    macro_f1: Pair


@dataclass(frozen=True)
class Intervals:
    """`by_clip` is always there; `by_speaker` where all speakers are known and there are enough of them."""

    by_clip: Bounds
    by_speaker: Bounds | None
    speakers: int | None

    @property
    def resampled(self) -> Literal["speakers", "clips"]:
        """What the interval to believe was drawn over."""
        return "speakers" if self.by_speaker else "clips"

    @property
    def believed(self) -> Bounds:
        """The interval to believe."""
        return self.by_speaker or self.by_clip

    def to_dict(self) -> dict[str, Any]:
        """Fit for JSON: the bounds to believe, what they were drawn over, and those over clips."""
        return {
            "level": LEVEL,
            "resampled": self.resampled,
            "resamples": RESAMPLES,
            "speakers": self.speakers,
            **_listed(self.believed),
            "by_clip": _listed(self.by_clip),
        }


def estimate(
    labels: npt.NDArray[np.integer[Any]],
    guesses: npt.NDArray[np.integer[Any]],
    *,
    classes: int,
    speakers: Sequence[str | None],
) -> Intervals:
    """The intervals of guessing `guesses` where `labels` are right; the same for the same input."""
    cells = labels.astype(np.int64) * classes + guesses
    random = np.random.default_rng(_SEED)
    share = np.bincount(cells, minlength=classes**2) / len(cells)
    by_clip = _bounds(random.multinomial(len(cells), share, RESAMPLES), classes)
    if None in speakers:
        return Intervals(by_clip, None, None)
    each = _of_each_speaker(cells, [str(s) for s in speakers], classes)
    if len(each) < ENOUGH:
        return Intervals(by_clip, None, len(each))
    drawn = random.multinomial(len(each), np.full(len(each), 1 / len(each)), RESAMPLES)
    return Intervals(by_clip, _bounds(drawn @ each, classes), len(each))


def _of_each_speaker(cells: Counts, speakers: list[str], classes: int) -> Counts:
    """(speakers, classes²): the confusion of each, flat."""
    names, who = np.unique(speakers, return_inverse=True)
    flat = np.bincount(who * classes**2 + cells, minlength=len(names) * classes**2)
    return flat.reshape(len(names), classes**2)


def _bounds(drawn: Counts, classes: int) -> Bounds:
    """From (resamples, classes²) confusions. A class that a draw misses does not count in that draw."""
    confusion = drawn.reshape(-1, classes, classes)
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    there, guessed = confusion.sum(axis=2), confusion.sum(axis=1)
    occurs = there > 0
    n = occurs.sum(axis=1)
    recall = hits / np.maximum(there, 1)
    f1 = 2 * hits / np.maximum(there + guessed, 1)
    return Bounds(
        accuracy=_percentiles(hits.sum(axis=1) / there.sum(axis=1)),
        uar=_percentiles((recall * occurs).sum(axis=1) / n),
        macro_f1=_percentiles((f1 * occurs).sum(axis=1) / n),
    )


def _percentiles(values: npt.NDArray[np.float64]) -> Pair:
    low, high = np.percentile(values, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)


def _listed(bounds: Bounds) -> dict[str, list[float]]:
    return {name: list(pair) for name, pair in vars(bounds).items()}
