"""What makes training batches harder than the clips are. Real frames alone are touched, and stay real."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.data.normaliser import NOT_PADDING

Floats32 = npt.NDArray[np.float32]

# The longest blanked span, as a share of the clip's frames and of the dimensions.
_FRAMES_BLANKED = 1 / 6
_DIMENSIONS_BLANKED = 1 / 8
# Values of noise that are drawn for a batch, unless a clip has more.
_LEAST_NOISE = 1 << 16


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
    """Normal noise on every value of every real frame.

    Drawing it would take longer than all else that is done to a batch. So it is drawn once for all clips, and
    each begins at another of its values and goes on with the first after the last: within a clip all are
    independent, and hardly ever do two clips have the same noise in the same place.
    """
    frames = np.zeros(batch.frames.shape, np.float32)
    dim = batch.frames.shape[2]
    drawn = random.standard_normal(max(_LEAST_NOISE, frames[0].size), dtype=np.float32)
    drawn *= np.float32(deviation)
    around = np.concatenate([drawn, drawn])
    starts = random.integers(len(drawn), size=len(frames))
    for found, clip, length, start in zip(frames, batch.frames, batch.lengths, starts, strict=True):
        noise = around[start : start + length * dim].reshape(length, dim)
        np.add(clip[:length], noise, out=found[:length])
    return replace(batch, frames=frames)


def stretch(batch: Batch, share: float, random: np.random.Generator) -> Batch:
    """Each clip at a tempo of its own: longer or shorter by up to `share`, cut off where the batch ends."""
    n, longest, _ = batch.frames.shape
    wanted = np.rint(batch.lengths * random.uniform(1 - share, 1 + share, n))
    lengths = np.clip(wanted, 1, longest).astype(np.intp)
    steps = (batch.lengths - 1) / np.maximum(wanted - 1, 1)
    frames = _between(batch.frames, np.arange(longest) * steps[:, None], batch.lengths - 1)
    return _tidy(replace(batch, frames=frames, lengths=lengths))


def warp(batch: Batch, share: float, random: np.random.Generator) -> Batch:
    """Each clip from a vocal tract of its own: frequencies times up to 1 ± `share`, and shifted by up to a
    third as much of the bands (vocal tract length perturbation, Jaitly and Hinton 2013).
    """
    n, _, dim = batch.frames.shape
    factor = random.uniform(1 - share, 1 + share, (n, 1))
    shift = random.uniform(-share / 3, share / 3, (n, 1)) * dim
    bands = np.swapaxes(batch.frames, 1, 2)
    warped = _between(bands, np.arange(dim) * factor + shift, np.full(n, dim - 1))
    return _tidy(replace(batch, frames=np.ascontiguousarray(np.swapaxes(warped, 1, 2))))


def blank(batch: Batch, spans: int, random: np.random.Generator) -> Batch:
    """So many spans of frames and of dimensions become 0, the mean (SpecAugment,
    https://arxiv.org/abs/1904.08779).
    """
    n, longest, dim = batch.frames.shape
    frames = batch.frames.copy()
    for _ in range(spans):
        frames[_spans(batch.lengths, longest, _FRAMES_BLANKED, random)] = 0
        hidden = _spans(np.full(n, dim), dim, _DIMENSIONS_BLANKED, random)
        np.copyto(frames, 0, where=hidden[:, None, :])
    return _tidy(replace(batch, frames=frames))


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
    frames = np.zeros(batch.frames.shape, np.float32)
    for found, clip, other, part, length in zip(
        frames, batch.frames, partner, share, batch.lengths, strict=True
    ):
        np.multiply(clip[:length], part, out=found[:length])
        found[:length] += (1 - part) * batch.frames[other, :length]
    first: Floats32 = share * batch.weights
    second: Floats32 = (1 - share) * batch.weights[partner]
    weights: Floats32 = first + second
    of_first = (first / weights).astype(np.float32)[:, None]
    targets = of_first * batch.targets + (1 - of_first) * batch.targets[partner]
    return _tidy(Batch(frames, batch.lengths, targets, weights))


def _between(values: Floats32, places: npt.NDArray[np.floating[Any]], last: npt.NDArray[np.intp]) -> Floats32:
    """(n, any, dim) read along its second axis at `places` (n, m), between two neighbours in proportion; no
    further than `last` (n,).
    """
    places = np.clip(places, 0, last[:, None])
    before = places.astype(np.intp)
    share = (places - before).astype(np.float32)[..., None]
    row = np.arange(len(values))[:, None]
    found: Floats32 = values[row, before] * (1 - share)
    found += values[row, np.minimum(before + 1, last[:, None])] * share
    return found


def _spans(
    sizes: npt.NDArray[np.intp], longest: int, share: float, random: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """(n, longest): one span in each row within its size, up to `share` of it long."""
    length = np.floor(random.uniform(0, 1, len(sizes)) * (sizes * share + 1))
    start = np.floor(random.uniform(0, 1, len(sizes)) * (sizes - length + 1))
    place = np.arange(longest)
    found: npt.NDArray[np.bool_] = (place >= start[:, None]) & (place < (start + length)[:, None])
    return found


def _tidy(batch: Batch) -> Batch:
    """Padding is zeros, and no real frame is all zeros."""
    frames, real = batch.frames, batch.real
    frames[~real] = 0
    frames[real & ~frames.any(axis=2)] = NOT_PADDING
    return batch
