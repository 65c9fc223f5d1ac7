"""Recipes as plain Keras computes them, every clip padded to one length: what ours are compared with.

python -m benchmarks.plain RUN_DIR      in place of python -m trainer RUN_DIR
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

from trainer import __main__ as trainer
from trainer import recipes


@contextlib.contextmanager
def layers() -> Iterator[None]:
    """Models that are built and traced in here compute our layers as Keras does; weights and files are the
    same.
    """
    import keras

    from trainer.layers import AttentionMean, Bidirectional, MaskedConv1D, Masking, NormalizedBidirectional

    with (
        mock.patch.object(Bidirectional, "call", keras.layers.Bidirectional.call),
        mock.patch.object(NormalizedBidirectional, "call", _normalized),
        mock.patch.object(MaskedConv1D, "call", _convolution),
        mock.patch.object(Masking, "call", keras.layers.Masking.call),
        mock.patch.object(AttentionMean, "call", _attention_mean),
    ):
        yield


def main(argv: list[str]) -> int:
    """Train so; returns the trainer's exit code."""
    prepare = recipes.preparation

    def padded(*asked: Any) -> Any:
        return dataclasses.replace(prepare(*asked), trim=False)

    with layers(), mock.patch.object(recipes, "preparation", padded):
        return trainer.main(argv)


def _normalized(
    self: Any, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool | None = None
) -> Any:
    """As two layers; `initial_state` is there because Keras compares names with those of `build`."""
    import keras

    x = self.normalization(sequences, training=training, mask=mask)
    return keras.layers.Bidirectional.call(self, x, mask=mask, training=training)


def _convolution(self: Any, inputs: Any, mask: Any = None) -> Any:
    import keras

    from trainer.layers.masked import without_padding

    return keras.layers.Conv1D.call(self, without_padding(inputs, mask))


def _attention_mean(self: Any, inputs: Any, mask: Any = None) -> Any:
    """As `keras.layers.Attention(use_scale=True)` and `GlobalAveragePooling1D`."""
    from keras import ops

    from trainer.layers.masked import frame_weights

    scores = self.scale * ops.matmul(inputs, ops.swapaxes(inputs, 1, 2))
    if mask is not None:
        scores = ops.where(ops.expand_dims(mask, 1), scores, -1e9)
    real = frame_weights(inputs, mask)
    attended = ops.matmul(ops.softmax(scores), inputs) * real
    return ops.sum(attended, axis=1) / ops.sum(real, axis=1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
