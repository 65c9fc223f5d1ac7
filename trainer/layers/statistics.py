"""From the frames of a clip to what is true of the whole clip; padding counts for nothing."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from trainer.layers.masked import PACKAGE, frame_weights

# Below any variance that features have once they are normalised.
_LEAST_VARIANCE = 1e-4


@keras.saving.register_keras_serializable(package=PACKAGE)
class ClipStandardization(keras.layers.Layer):  # type: ignore[misc]
    """Every dimension of a clip to mean 0 and deviation 1 over its own frames: who speaks, and how loud and
    through what, is mostly constant over a clip. A dimension that stands still becomes 0.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs: Any, mask: Any = None) -> Any:
        """(batch, frames, dim) to the same, zeros in the padding."""
        real = frame_weights(inputs, mask)
        count = ops.maximum(ops.sum(real, axis=1, keepdims=True), 1.0)
        centred = (inputs - ops.sum(inputs * real, axis=1, keepdims=True) / count) * real
        variance = ops.sum(ops.square(centred), axis=1, keepdims=True) / count
        return centred / ops.sqrt(variance + _LEAST_VARIANCE)


class _Statistics(keras.layers.Layer):  # type: ignore[misc]
    """Means and deviations over frames, once for each of `_parts` distributions of weight over them."""

    _parts: int

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        """None: there are no frames any more."""
        return None

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Means, then deviations."""
        return (input_shape[0], 2 * self._parts * input_shape[-1])

    def _moments(self, inputs: Any, shares: Any) -> Any:
        """`shares` (batch, frames, parts) sum to 1 over frames, and are 0 in the padding."""
        mean = ops.einsum("btd,btp->bpd", inputs, shares)
        square = ops.einsum("btd,btp->bpd", ops.square(inputs), shares)
        deviation = ops.sqrt(ops.maximum(square - ops.square(mean), _LEAST_VARIANCE))
        flat = (-1, self._parts * inputs.shape[-1])
        return ops.concatenate([ops.reshape(mean, flat), ops.reshape(deviation, flat)], axis=-1)


@keras.saving.register_keras_serializable(package=PACKAGE)
class AttentiveStatistics(_Statistics):
    """Mean and deviation weighted by attention, one pair for each head (https://arxiv.org/abs/1803.10963)."""

    def __init__(self, heads: int, units: int = 64, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads, self.units, self._parts = heads, units, heads
        self.hidden = keras.layers.Dense(units, activation="tanh", name="hidden")
        self.scores = keras.layers.Dense(heads, name="scores")

    def build(self, input_shape: Any) -> None:
        """Here and not in `call`, so that the weights are there before they are loaded."""
        self.hidden.build(input_shape)
        self.scores.build((*input_shape[:-1], self.units))
        super().build(input_shape)

    def call(self, inputs: Any, mask: Any = None) -> Any:
        """(batch, frames, dim) to (batch, 2 * heads * dim)."""
        scores = self.scores(self.hidden(inputs))
        scores = ops.where(frame_weights(inputs, mask) > 0, scores, -1e9)
        return self._moments(inputs, ops.softmax(scores, axis=1))

    def get_config(self) -> dict[str, Any]:
        """All that `__init__` needs."""
        return {**super().get_config(), "heads": self.heads, "units": self.units}


@keras.saving.register_keras_serializable(package=PACKAGE)
class SegmentStatistics(_Statistics):
    """Mean and deviation in each of `segments` overlapping parts of a clip, so that order is not lost.

    The weight of a frame in a part falls linearly from the part's middle to those of its neighbours.
    """

    def __init__(self, segments: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.segments = self._parts = segments

    def call(self, inputs: Any, mask: Any = None) -> Any:
        """(batch, frames, dim) to (batch, 2 * segments * dim)."""
        real = frame_weights(inputs, mask)
        count = ops.maximum(ops.sum(real, axis=1, keepdims=True), 1.0)
        place = (ops.cumsum(real, axis=1) - 0.5) / count * (self.segments + 1)
        middles = ops.reshape(ops.arange(1, self.segments + 1, dtype=inputs.dtype), (1, 1, -1))
        # A clip of a few frames leaves parts without any: those take a little of all.
        weights = (ops.maximum(1.0 - ops.abs(place - middles), 0.0) + 1e-6) * real
        return self._moments(inputs, weights / ops.maximum(ops.sum(weights, axis=1, keepdims=True), 1e-12))

    def get_config(self) -> dict[str, Any]:
        """All that `__init__` needs."""
        return {**super().get_config(), "segments": self.segments}
