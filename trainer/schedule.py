"""The one controller of the learning rate: warm-up, then plateau, then, where asked for, cosine. Pure Python.

A single object decides the rate of every epoch, because two that share an optimizer overwrite each other.
Its state is a small dict that travels in checkpoints.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

EXTENDED_WARMUP_EPOCHS = 3
# As keras.callbacks.ReduceLROnPlateau: what counts as a better loss.
MIN_DELTA = 1e-4


@dataclass(frozen=True)
class Plan:
    """What a recipe asks for. Rates are absolute, epochs count from 1 and `epochs` is the last planned one.

    `low` is the rate of epoch 1, and `high` is reached in epoch `warmup`: 1 is without warm-up. Plateau and
    cosine end at `floor`, which is `low` where it is None. Without `cosine_from` the plateau goes on.
    """

    epochs: int
    low: float = 5e-6
    high: float = 3e-4
    warmup: int = 8
    factor: float = 0.3
    patience: int = 5
    cosine_from: int | None = 20
    floor: float | None = None

    def fitted(self) -> Plan:
        """The plan for a run too short for it.

        One that does not reach its cosine has a quarter warm-up and the cosine from the middle on; without
        a cosine the warm-up takes half of the run at most.
        """
        if self.cosine_from is None:
            return replace(self, warmup=max(1, min(self.warmup, self.epochs // 2)))
        if self.epochs >= self.cosine_from:
            return self
        warmup = max(1, min(self.warmup, self.epochs // 4))
        return replace(self, warmup=warmup, cosine_from=max(warmup + 1, self.epochs // 2 + 1))


class Schedule:
    """Says the rate of an epoch and learns from its validation loss.

    `level` is the rate that the plateau has come down to; the cosine starts from it and never changes it, so
    its factors cannot compound.
    """

    def __init__(self, plan: Plan, state: dict[str, Any] | None = None) -> None:
        self.plan = plan.fitted()
        state = state or {}
        self._lr: float | None = state.get("lr")
        self._first: int = state.get("first", 1)
        self._level: float = state.get("level", self.plan.high)
        self._best: float | None = state.get("best")
        self._wait: int = state.get("wait", 0)

    @classmethod
    def extended(cls, plan: Plan, *, lr: float, first_epoch: int) -> Schedule:
        """Extended training: a short warm-up to `lr`, then the plateau alone."""
        return cls(plan, {"lr": lr, "first": first_epoch, "level": lr})

    @property
    def state(self) -> dict[str, Any]:
        """All that a resume needs, fit for JSON."""
        return {
            "lr": self._lr,
            "first": self._first,
            "level": self._level,
            "best": self._best,
            "wait": self._wait,
        }

    def rate(self, epoch: int) -> float:
        """The rate that `epoch` trains at."""
        if epoch < self._warm_at:
            return self._warming(epoch)
        if self._cosine_began(epoch):
            return self._cosine(epoch)
        return self._level

    def observe(self, epoch: int, val_loss: float | None) -> str | None:
        """Take in the validation loss of `epoch`; a sentence when that lowers the rate, else None.

        Losses during warm-up move the best so far but cost no patience, and the cosine asks nobody.
        """
        if val_loss is not None and math.isfinite(val_loss) and self._is_better(val_loss):
            self._best, self._wait = val_loss, 0
            return None
        if epoch < self._warm_at or self._cosine_began(epoch):
            return None
        self._wait += 1
        return self._lower() if self._wait >= self.plan.patience else None

    @property
    def _warm_at(self) -> int:
        """The first epoch at the full rate."""
        return self.plan.warmup if self._lr is None else self._first + EXTENDED_WARMUP_EPOCHS - 1

    @property
    def _floor(self) -> float:
        lowest = self.plan.low if self.plan.floor is None else self.plan.floor
        return min(lowest, self._lr or self.plan.high)

    def _cosine_began(self, epoch: int) -> bool:
        start = self.plan.cosine_from
        return self._lr is None and start is not None and epoch >= start

    def _is_better(self, val_loss: float) -> bool:
        return self._best is None or val_loss < self._best - MIN_DELTA

    def _warming(self, epoch: int) -> float:
        if self._lr is not None:
            return self._lr * (epoch - self._first + 1) / EXTENDED_WARMUP_EPOCHS
        done = (epoch - 1) / (self.plan.warmup - 1)
        return self.plan.low + (self.plan.high - self.plan.low) * done

    def _cosine(self, epoch: int) -> float:
        start = self.plan.cosine_from or 1
        span = max(1, self.plan.epochs - start)
        done = min(1.0, (epoch - start) / span)
        floor = min(self._floor, self._level)
        return floor + (self._level - floor) * (1 + math.cos(math.pi * done)) / 2

    def _lower(self) -> str | None:
        before, self._wait = self._level, 0
        self._level = max(self._floor, self._level * self.plan.factor)
        if self._level == before:
            return None
        why = f"val_loss stood still for {self.plan.patience} epochs"
        return f"learning rate {before:.3g} → {self._level:.3g}: {why}"
