"""Which frames are padding, and pooling that knows them from clip."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

PACKAGE = "ec2emo"


@keras.saving.register_keras_serializable(package=PACKAGE)
class Masking(keras.layers.Masking):  # type: ignore[misc]
    """Frames of nothing but zeros are padding. Zeros they are: Keras' own writes them once more."""

    def call(self, inputs: Any) -> Any:
        """The same."""
        return tf.identity(inputs)


class _Pool1D(keras.layers.Layer):  # type: ignore[misc]
    """Every `size` frames become one, which is real if any of them was.

    A last window that is not full is pooled too: where a clip's end falls must not hang on its padding.
    """

    def __init__(self, size: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.size = size

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        """Of the pooled frames; None when there was none."""
        if previous_mask is None:
            return None
        return self._largest(ops.cast(ops.expand_dims(previous_mask, -1), "float32"), 0.0)[..., 0] > 0

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Rounded up."""
        batch, frames, dim = input_shape
        return (batch, None if frames is None else -(-frames // self.size), dim)

    def get_config(self) -> dict[str, Any]:
        """All that `__init__` needs."""
        return {**super().get_config(), "size": self.size}

    def _largest(self, x: Any, filler: float) -> Any:
        """Of every window; the last is filled up."""
        return ops.max_pool(self._filled(x, filler), self.size, self.size, "valid", "channels_last")

    def _mean(self, x: Any) -> Any:
        """Of every window, the last filled up with zeros."""
        return ops.average_pool(self._filled(x, 0.0), self.size, self.size, "valid", "channels_last")

    def _filled(self, x: Any, filler: float) -> Any:
        """Longer by all but one frame of a window: as many whole windows as frames ask for, rounded up."""
        return ops.pad(x, [[0, 0], [0, self.size - 1], [0, 0]], constant_values=filler)


@keras.saving.register_keras_serializable(package=PACKAGE)
class MaskedMaxPool1D(_Pool1D):
    """The largest of every `size` frames, of real ones alone."""

    def call(self, inputs: Any, mask: Any = None) -> Any:
        """(batch, frames, dim) to (batch, frames / size, dim)."""
        if mask is None:
            mask = ops.ones(ops.shape(inputs)[:2], "bool")
        lowest = float(np.finfo(np.float32).min)
        hidden = ops.where(ops.expand_dims(mask, -1), inputs, lowest)
        pooled = self._largest(hidden, lowest)
        return without_padding(pooled, self.compute_mask(inputs, mask))


@keras.saving.register_keras_serializable(package=PACKAGE)
class MaskedMeanPool1D(_Pool1D):
    """The mean of every `size` frames, of real ones alone."""

    def call(self, inputs: Any, mask: Any = None) -> Any:
        """(batch, frames, dim) to (batch, frames / size, dim)."""
        real = frame_weights(inputs, mask)
        share = self._mean(real)
        return self._mean(inputs * real) / ops.where(share > 0, share, 1.0)


def without_padding(inputs: Any, mask: Any) -> Any:
    """(batch, frames, ...) with zeros where the mask says padding."""
    if mask is None:
        return inputs
    return ops.where(ops.reshape(mask, (*ops.shape(mask), *[1] * (len(inputs.shape) - 2))), inputs, 0.0)


def frame_weights(inputs: Any, mask: Any) -> Any:
    """(batch, frames, 1): 1 for real frames, 0 for padding."""
    if mask is None:
        return ops.ones_like(inputs[..., :1])
    return ops.expand_dims(ops.cast(mask, inputs.dtype), -1)
