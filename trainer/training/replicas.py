"""Several GPUs of one machine: each takes an equal share of every batch, and all take the same step.

What is learnt is what one GPU would learn, but for two things that each replica does by itself: dropping out,
and BatchNormalization's moments, which are of its share of the batch.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from trainer.training.stopping import RunFailed

ALL = "all"


def strategy(gpus: str, batch_size: int) -> Any:
    """The `tf.distribute.Strategy` to build and train the model under: mirrored over all GPUs where `gpus` is
    "all" and there are several, else TensorFlow's own for one.

    A machine without a GPU is one processor, unless TensorFlow was told to divide it. Raises RunFailed for a
    batch that cannot be divided equally.
    """
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if gpus != ALL or len(devices) == 1:
        return tf.distribute.get_strategy()
    if rest := batch_size % len(devices):
        near = batch_size - rest or len(devices)
        raise RunFailed(
            f"a batch of {batch_size} clips cannot be divided equally among {len(devices)} GPUs: deploy with "
            f"--batch-size {near}, or with --gpus one"
        )
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def agree(model: Any) -> None:
    """Moments that each replica has followed by itself become their mean on all: what is measured, what is
    saved and what a resume goes on from are one model.
    """
    if model.distribute_strategy.num_replicas_in_sync > 1:
        for weight in model.non_trainable_weights:
            weight.assign(keras.ops.convert_to_numpy(weight))


def told(shares: int, batch_size: int) -> str:
    """For people."""
    if shares == 1:
        return "all GPUs were asked for, and there is one: it trains alone"
    return f"trains on {shares} GPUs, {batch_size // shares} clips of every batch on each"
