"""Noise and MixUp: what makes training batches harder than the clips are. Real frames alone are touched."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.data.dataset import NOT_PADDING

Floats32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Batch:
    """Normalised clips (n, frames, dim) with zeros after each one's length; what is asked of each, and how
    much each counts. Targets are class indices, or rows of class shares.
    """

    frames: Floats32
    lengths: npt.NDArray[np.intp]
    targets: npt.NDArray[Any]
    weights: Floats32

    @property
    def real(self) -> npt.NDArray[np.bool_]:
        """(n, frames): which frames are of the clip."""
        found: npt.NDArray[np.bool_] = np.arange(self.frames.shape[1]) < self.lengths[:, None]
        return found


def add_noise(batch: Batch, deviation: float, random: np.random.Generator) -> Batch:
    """Normal noise on every value of every real frame."""
    frames, real = batch.frames.copy(), batch.real
    count = int(real.sum())
    frames[real] += np.float32(deviation) * random.standard_normal((count, frames.shape[2]), dtype=np.float32)
    return replace(batch, frames=frames)


def mix(batch: Batch, alpha: float, random: np.random.Generator) -> Batch:
    """MixUp (https://arxiv.org/abs/1710.09412): each clip with a partner of its batch, shares from a Beta.

    The mix is as long as its larger half: a trace of a longer partner must not make padding real. The loss is
    linear in the target, so one row and one weight can count each half by its own class's weight:
    w·CE(t) = s·w₁·CE(t₁) + (1-s)·w₂·CE(t₂) for w = s·w₁ + (1-s)·w₂ and t the weighted mean of t₁ and t₂.
    """
    n = len(batch.frames)
    drawn = random.beta(alpha, alpha, n)
    share: Floats32 = np.maximum(drawn, 1 - drawn).astype(np.float32)
    partner = random.permutation(n)
    frames = _mean(share, batch.frames, batch.frames[partner])
    real = batch.real
    frames[~real] = 0
    frames[real & ~frames.any(axis=2)] = NOT_PADDING
    first: Floats32 = share * batch.weights
    second: Floats32 = (1 - share) * batch.weights[partner]
    weights: Floats32 = first + second
    targets = _mean((first / weights).astype(np.float32), batch.targets, batch.targets[partner])
    return Batch(frames, batch.lengths, targets, weights)


def _mean(share: Floats32, first: Floats32, second: Floats32) -> Floats32:
    share = share.reshape(-1, *[1] * (first.ndim - 1))
    mixed: Floats32 = share * first + (1 - share) * second
    return mixed
