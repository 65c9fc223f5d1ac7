"""What frames are measured by: the statistics of all training clips, or those of one voice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.data.preparation import Adaptation

Floats = npt.NDArray[np.floating[Any]]
Floats32 = npt.NDArray[np.float32]

# A dimension that moves less than this over all training frames is constant, and is only centred.
LEAST_STD = 1e-5
# A real frame of zeros only would be taken for padding.
NOT_PADDING = 1e-6


@dataclass(frozen=True)
class Voice:
    """Mean and deviation, (parts, dim) each, of the parts of clips."""

    mean: Floats32
    std: Floats32

    def normalise(self, sequence: Floats, frames: int, out: Floats32) -> None:
        """Write the first `frames` of a (T, dim) clip, T not 0, into the (≥ T, dim) rows of `out`."""
        # One row serves all frames; several are picked for each.
        part = parts_of(len(sequence), len(self.mean))[:frames] if len(self.mean) > 1 else slice(None)
        np.subtract(sequence[:frames], self.mean[part], out=out, dtype=np.float32)
        out /= self.std[part]
        out[~out.any(axis=1)] = NOT_PADDING


@dataclass(frozen=True)
class Normaliser:
    """Per-dimension statistics of the training frames, and the length that clips are brought to."""

    mean: Floats32
    std: Floats32
    frames: int

    @property
    def general(self) -> Voice:
        """Anybody's."""
        return Voice(self.mean[None], self.std[None])

    def batch(self, sequences: Sequence[Floats], voices: Sequence[Voice] | None = None) -> Floats32:
        """(n, frames, dim) float32: normalised, each clip by its voice where these are given, cut off at the
        end, zeros after the end.
        """
        out = np.zeros((len(sequences), self.frames, len(self.mean)), np.float32)
        whose = [self.general] * len(out) if voices is None else voices
        for row, sequence, voice in zip(out, sequences, whose, strict=True):
            voice.normalise(sequence, self.frames, row[: len(sequence)])
        return out

    def voice(self, heard: Sequence[Floats], how: Adaptation) -> Voice:
        """Of a speaker of whom these (T, dim) clips were heard: the maximum a posteriori estimate of their
        moments (Gauvain and Lee 1994, https://doi.org/10.1109/89.279278).
        """
        counts = np.zeros((how.parts, 1))
        sums = np.zeros((2, how.parts, len(self.mean)))
        for sequence in heard:
            wide = sequence.astype(np.float64)
            there, starts, many = np.unique(
                parts_of(len(wide), how.parts), return_index=True, return_counts=True
            )
            counts[there, 0] += many
            sums[0, there] += np.add.reduceat(wide, starts)
            sums[1, there] += np.add.reduceat(wide**2, starts)
        # A part that no clip was long enough to have is as anybody's.
        own = np.where(counts > 0, len(heard) / (len(heard) + how.prior), 0.0)
        mean = self.mean.astype(np.float64)
        moments = (
            own * sums / np.maximum(counts, 1)
            + (1 - own) * np.stack([mean, mean**2 + self.std.astype(np.float64) ** 2])[:, None]
        )
        std = np.sqrt(np.maximum(moments[1] - moments[0] ** 2, 0.0))
        std[std < LEAST_STD] = 1.0
        return Voice(moments[0].astype(np.float32), std.astype(np.float32))


def parts_of(frames: int, parts: int) -> npt.NDArray[np.intp]:
    """In which of `parts` equal parts each frame of a clip lies."""
    return np.arange(frames) * parts // frames
