"""Several classifiers in one model: each learns for itself, together they answer."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from trainer.layers.masked import PACKAGE

# Keeps the logarithm finite, and is far below what a member in float32 ever says.
_LEAST_PROBABILITY = 1e-30


@keras.saving.register_keras_serializable(package=PACKAGE)
class Committee(keras.layers.Layer):  # type: ignore[misc]
    """Logits of the members, (batch, classes) each, to (batch, classes) probabilities: their mean.

    While training it is the geometric mean, not brought to a sum of 1: its negative logarithm is the mean of
    the members' own cross-entropies, so with `CommitteeCrossentropy` no member leans on another.
    """

    def call(self, inputs: list[Any], training: bool = False) -> Any:
        """Probabilities."""
        logits = ops.stack(inputs, axis=1)
        if training:
            return ops.exp(ops.mean(ops.log_softmax(logits, axis=-1), axis=1))
        return ops.mean(ops.softmax(logits, axis=-1), axis=1)

    def compute_output_shape(self, input_shape: list[Any]) -> Any:
        """As that of each member."""
        return tuple(input_shape[0])


@keras.saving.register_keras_serializable(package=PACKAGE)
class CommitteeCrossentropy(keras.losses.Loss):  # type: ignore[misc]
    """Cross-entropy with rows of class shares, of probabilities that need not sum to 1.

    Keras' own would bring them to that sum first, and a member would be pushed away from the others.
    """

    def __init__(
        self, label_smoothing: float = 0.0, name: str = "committee_crossentropy", **kwargs: Any
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.label_smoothing = label_smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """One number for each clip."""
        y_true = ops.cast(y_true, y_pred.dtype)
        shares = y_true * (1 - self.label_smoothing) + self.label_smoothing / y_pred.shape[-1]
        return -ops.sum(shares * ops.log(ops.maximum(y_pred, _LEAST_PROBABILITY)), axis=-1)

    def get_config(self) -> dict[str, Any]:
        """All that `__init__` needs."""
        return {**super().get_config(), "label_smoothing": self.label_smoothing}
