"""Attention between the frames of a clip."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from trainer.layers.masked import PACKAGE, frame_weights


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
class AttentionMean(keras.layers.Layer):  # type: ignore[misc]
    """The mean over real frames of `keras.layers.Attention(use_scale=True)([x, x])`, at a third of the cost.

    The mean over queries of softmax(s·xxᵀ)x is the mean of the weights, times x: no product with each query's
    own weights. And as query and key are the same, both their gradients are one product.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        """The one weight, by Keras' name."""
        self.scale = self.add_weight(name="scale", shape=(), initializer="ones", dtype=self.dtype)
        super().build(input_shape)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> None:
        """None: what is left has no frames."""

    def call(self, inputs: Any, mask: Any = None) -> Any:
        """(batch, frames, dim) to (batch, dim)."""
        scores = self.scale * _with_each_other(inputs)
        real = frame_weights(inputs, mask)
        if mask is not None:
            scores = ops.where(ops.expand_dims(mask, 1), scores, -1e9)
        of_queries = real / ops.maximum(ops.sum(real, axis=1, keepdims=True), 1.0)
        weights = ops.sum(ops.softmax(scores) * of_queries, axis=1)
        return ops.sum(weights[..., None] * inputs, axis=1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Without frames."""
        return (input_shape[0], input_shape[-1])


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _with_each_other(x: Any) -> tuple[Any, Callable[[Any], Any]]:
    """xxᵀ: (batch, frames, dim) to (batch, frames, frames)."""

    def gradient(dy: Any) -> Any:
        return tf.matmul(dy + tf.linalg.matrix_transpose(dy), x)

    return tf.matmul(x, x, transpose_b=True), gradient
