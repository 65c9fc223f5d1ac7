"""What TensorFlow makes of a model before the first step: once, and no more than that step is worth."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from trainer.layers.device import on_gpu


def leave_as_traced() -> None:
    """Have graphs run as they were traced, where there is no GPU to rewrite them for.

    On a processor the rewriting delays the first step by a second or two, and those after it are hardly the
    faster for it: with an LSTM they are slower (docs/performance.md).
    """
    if not on_gpu():
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def trace_once(model: Any, targets: Any) -> None:
    """Make the variables that the first step would make, of `targets` as the loss takes them: a step that has
    made some is traced a second time by TensorFlow, which takes seconds.
    """
    model.optimizer.build(model.trainable_variables)
    model.compute_metrics(None, tf.constant(targets[:1]), tf.zeros((1, model.output_shape[-1])))
    model.reset_metrics()
