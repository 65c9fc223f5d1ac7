"""Layers that know padding from clip. A `.keras` file with one of them loads where this has been imported."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

PACKAGE = "ec2emo"


@keras.saving.register_keras_serializable(package=PACKAGE)
class MaskedConv1D(keras.layers.Conv1D):  # type: ignore[misc]
    """A convolution that sees zeros after a clip's end, whatever the layer before has made of the padding."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.supports_masking = True

    def call(self, inputs: Any, mask: Any = None) -> Any:
        """Convolve; the mask goes on as it is, so only padding "same" and stride 1 make sense."""
        if mask is not None:
            inputs = ops.where(ops.expand_dims(mask, -1), inputs, 0.0)
        return super().call(inputs)


@keras.saving.register_keras_serializable(package=PACKAGE)
class MaskedMaxPool1D(keras.layers.Layer):  # type: ignore[misc]
    """The largest of every `size` frames, of real ones alone. A pooled frame is real if any of them was.

    A last window that is not full is pooled too: where a clip's end falls must not hang on its padding.
    """

    def __init__(self, size: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.size = size

    def call(self, inputs: Any, mask: Any = None) -> Any:
        """(batch, frames, dim) to (batch, frames / size, dim)."""
        if mask is None:
            mask = ops.ones(ops.shape(inputs)[:2], "bool")
        lowest = float(np.finfo(np.float32).min)
        hidden = ops.where(ops.expand_dims(mask, -1), inputs, lowest)
        pooled = ops.max(self._windows(hidden, lowest), axis=2)
        return ops.where(ops.expand_dims(self.compute_mask(inputs, mask), -1), pooled, 0.0)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        """Of the pooled frames; None when there was none."""
        if previous_mask is None:
            return None
        # As numbers, because not every backend pads truth values.
        flags = ops.cast(ops.expand_dims(previous_mask, -1), "int32")
        flags = ops.reshape(flags, (-1, inputs.shape[1], 1))
        return ops.any(self._windows(flags, 0)[..., 0] > 0, axis=2)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Rounded up."""
        batch, frames, dim = input_shape
        return (batch, -(-frames // self.size), dim)

    def get_config(self) -> dict[str, Any]:
        """All that `__init__` needs."""
        return {**super().get_config(), "size": self.size}

    def _windows(self, x: Any, filler: float) -> Any:
        """(batch, windows, size, dim)."""
        _, frames, dim = x.shape
        x = ops.pad(x, [[0, 0], [0, -frames % self.size], [0, 0]], constant_values=filler)
        return ops.reshape(x, (-1, -(-frames // self.size), self.size, dim))


@keras.saving.register_keras_serializable(package=PACKAGE)
class SelfAttention(keras.layers.Layer):  # type: ignore[misc]
    """softmax(QKᵀ/√dim)V with learned projections, over real frames alone; one head.

    Without `scaled` the scores are not divided by √dim, as in some models that others are measured against.
    """

    def __init__(self, dim: int, scaled: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.dim, self.scaled = dim, scaled
        self.query, self.key, self.value = (
            keras.layers.Dense(dim, name=name) for name in ("query", "key", "value")
        )

    def build(self, input_shape: Any) -> None:
        """Here and not in `call`, so that the weights are there before they are loaded."""
        for projection in (self.query, self.key, self.value):
            projection.build(input_shape)
        super().build(input_shape)

    def call(self, inputs: Any, mask: Any = None) -> Any:
        """(batch, frames, any) to (batch, frames, dim)."""
        scores = ops.matmul(self.query(inputs), ops.swapaxes(self.key(inputs), -1, -2))
        if self.scaled:
            scores = scores / math.sqrt(self.dim)
        if mask is not None:
            scores = ops.where(ops.expand_dims(mask, 1), scores, -1e9)
        return ops.matmul(ops.softmax(scores), self.value(inputs))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """As many frames as came in."""
        return (*input_shape[:-1], self.dim)

    def get_config(self) -> dict[str, Any]:
        """All that `__init__` needs."""
        return {**super().get_config(), "dim": self.dim, "scaled": self.scaled}


@keras.saving.register_keras_serializable(package=PACKAGE)
class Limit(keras.layers.Layer):  # type: ignore[misc]
    """Values no further from 0 than `largest`."""

    def __init__(self, largest: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.largest = largest

    def call(self, inputs: Any) -> Any:
        """Element by element."""
        return ops.clip(inputs, -self.largest, self.largest)

    def get_config(self) -> dict[str, Any]:
        """All that `__init__` needs."""
        return {**super().get_config(), "largest": self.largest}
