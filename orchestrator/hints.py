"""What is worth a word about the course of a training: plateau, overfitting, flat lines, chance, no number.

Pure functions over Progress. A hint says what is seen in the figures, never what to make of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from orchestrator.progress import METRIC, Progress

PLATEAU_EPOCHS = 5  # without a better val_accuracy
FLAT_EPOCHS = 8  # with the very same value
RISING_EPOCHS = 3  # of val_loss since its lowest, while the training loss falls
OVERFITTING = 0.15  # accuracy this far above val_accuracy
CHANCE_EPOCHS = 5  # before nothing better than chance is worth a word

Kind = Literal["not a number", "flat", "chance", "overfitting", "plateau"]


@dataclass(frozen=True)
class Hint:
    """One of them, in words."""

    kind: Kind
    text: str


def hints(progress: Progress) -> list[Hint]:
    """All that hold now, the gravest first."""
    found = (look(progress) for look in _LOOKS)
    return [hint for hint in found if hint]


def _not_a_number(progress: Progress) -> Hint | None:
    last = progress.last
    bad = [name for name, value in last.metrics.items() if value is None] if last else []
    if not bad:
        return None
    whole = [p.epoch for p in progress.points if all(p.metrics.get(name) is not None for name in bad)]
    since = f"since epoch {whole[-1] + 1}" if whole else "from the first epoch on"
    return Hint("not a number", f"{', '.join(bad)} not a number {since}")


def _flat(progress: Progress) -> Hint | None:
    for name in ("loss", METRIC):
        values = _values(progress, name)
        run = _unchanged(values)
        if run >= FLAT_EPOCHS and math.isfinite(values[-1]):
            return Hint("flat", f"{name} {values[-1]:.4g} for {run} epochs")
    return None


def _chance(progress: Progress) -> Hint | None:
    best, found = progress.best, progress.dataset
    if best is None or found is None or len(progress.points) < CHANCE_EPOCHS or not found.counts:
        return None
    largest = max(found.counts.values()) / max(1, sum(found.counts.values()))
    value = best.metrics[METRIC]
    if value is None or value > largest:
        return None
    return Hint("chance", f"no better than always saying the largest class, {largest:.2f}")


def _overfitting(progress: Progress) -> Hint | None:
    loss, val_loss = _values(progress, "loss"), _values(progress, "val_loss")
    known = [(v, i) for i, v in enumerate(val_loss) if math.isfinite(v)]
    lowest = min(known, default=(math.nan, len(val_loss)))[1]
    since = len(val_loss) - 1 - lowest
    if since >= RISING_EPOCHS and loss[-1] < loss[lowest] and val_loss[-1] > val_loss[lowest]:
        return Hint("overfitting", f"val_loss was lowest at epoch {progress.points[lowest].epoch}")
    gap = progress.gap
    if gap is not None and gap > OVERFITTING:
        return Hint("overfitting", f"accuracy is {gap:.2f} above {METRIC}")
    return None


def _plateau(progress: Progress) -> Hint | None:
    best, last = progress.best, progress.last
    if best is None or last is None or last.epoch - best.epoch < PLATEAU_EPOCHS:
        return None
    return Hint("plateau", f"no better {METRIC} in {last.epoch - best.epoch} epochs")


_LOOKS: tuple[Callable[[Progress], Hint | None], ...] = (
    _not_a_number,
    _flat,
    _chance,
    _overfitting,
    _plateau,
)


def _values(progress: Progress, name: str) -> list[float]:
    values = (point.metrics.get(name) for point in progress.points)
    return [math.nan if value is None else value for value in values]


def _unchanged(values: list[float]) -> int:
    """How many of the last values are the same."""
    count = 0
    for value in reversed(values):
        if value != values[-1]:
            break
        count += 1
    return count
