"""Values kept within bounds."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from trainer.layers.masked import PACKAGE


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
