"""What the model is computed on."""

from __future__ import annotations

import tensorflow as tf


def on_gpu() -> bool:
    """Whether TensorFlow sees a GPU; what it computes is then left to cuDNN where that knows how."""
    return bool(tf.config.list_physical_devices("GPU"))
