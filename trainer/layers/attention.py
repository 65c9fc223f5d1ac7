"""Attention between the frames of a clip."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from trainer.layers.masked import PACKAGE


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
