"""Convolution over frames that knows padding from clip, and on a processor does not multiply it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from trainer.layers import winograd
from trainer.layers.device import on_gpu
from trainer.layers.masked import PACKAGE, without_padding

# Rows are a multiple of so many frames long: of few lengths, as each is prepared for when it first comes.
_ROUND = 8


@keras.saving.register_keras_serializable(package=PACKAGE)
class MaskedConv1D(keras.layers.Conv1D):  # type: ignore[misc]
    """A convolution that sees zeros after a clip's end, whatever the layer before has made of the padding.

    Takes padding "same" and stride 1: the mask goes on as it is. Raises ValueError for anything else.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.supports_masking = True
        if self.padding != "same" or self.strides != (1,) or self.groups != 1:
            raise ValueError("this convolution keeps all frames: padding 'same', stride 1 and one group")

    def call(self, inputs: Any, mask: Any = None) -> Any:
        """(batch, frames, dim) to (batch, frames, filters), zeros in the padding."""
        if mask is None:
            return super().call(inputs)
        if on_gpu():
            return without_padding(super().call(without_padding(inputs, mask)), mask)
        reach = self.dilation_rate[0] * (self.kernel_size[0] - 1)
        rows = _Rows.of(mask, before=reach // 2, after=reach - reach // 2)
        found = self._winograd(rows, inputs) if self._has_winograd() else self._convolved(rows, inputs)
        return rows.unpack(self.activation(found + self.bias if self.use_bias else found))

    def _has_winograd(self) -> bool:
        near = self.kernel_size[0] in winograd.TAPS and self.dilation_rate == (1,)
        return near and self.compute_dtype == "float32"

    def _winograd(self, rows: _Rows, inputs: Any) -> Any:
        tiles = rows.pack(inputs, rows.tiles(winograd.OUTPUTS, winograd.points(self.kernel_size[0])))
        return winograd.convolve(tiles, self.kernel)

    def _convolved(self, rows: _Rows, inputs: Any) -> Any:
        dilation = self.dilation_rate[0]
        seen = rows.pack(inputs, rows.windows())
        found = ops.conv(seen, self.kernel, padding="valid", dilation_rate=dilation)
        return tf.reshape(found, (-1, self.filters))


@dataclass(frozen=True)
class _Rows:
    """The real frames of a batch without its padding, in as many rows of one length as the batch has clips.

    Clips follow each other, from row to row too, with so much padding between them as a frame can see.
    `source` (batch * length,) says which frame of the batch, counted through, lies in a place, or one more
    than there are for padding; `places` (batch, frames) is its opposite, in the padding any place.
    """

    mask: Any
    source: Any
    places: Any
    length: Any
    before: int
    after: int

    @classmethod
    def of(cls, mask: Any, before: int, after: int) -> _Rows:
        """`mask` (batch, frames); a frame sees so many before and after it."""
        mask = tf.cast(mask, tf.bool)
        clips, frames = tf.unstack(tf.shape(mask))
        gap = max(before, after)
        around = tf.pad(tf.cast(mask, tf.float32), [[0, 0], [gap, gap]])
        kept = tf.nn.max_pool1d(around[..., None], gap + 1, 1, "VALID")[..., 0]
        counted = tf.cumsum(tf.reshape(tf.cast(kept, tf.int32), (-1,)))
        places = tf.reshape(counted - 1, (clips, frames + gap))[:, :frames]
        length = -(-counted[-1] // (clips * _ROUND)) * _ROUND
        # All padding goes to one place behind the others, and is cut off with it.
        nothing, end = clips * frames, clips * length
        source = tf.tensor_scatter_nd_update(
            tf.fill([end + 1], nothing),
            tf.reshape(tf.where(mask, places, end), (-1, 1)),
            tf.range(nothing),
        )[:-1]
        return cls(mask, source, tf.where(mask, places, 0), length, before, after)

    def windows(self) -> Any:
        """(batch, before + length + after) places, for `pack`: rows overlap by what is seen."""
        starts = tf.range(tf.shape(self.mask)[0]) * self.length
        return starts[:, None] + tf.range(self.before + self.length + self.after)

    def tiles(self, outputs: int, width: int) -> Any:
        """(width, tiles) places, for `pack`: tiles begin at every `outputs`-th frame, a divisor of 8."""
        return tf.range(width)[:, None] + tf.range(0, tf.size(self.source), outputs)

    def pack(self, x: Any, places: Any) -> Any:
        """(batch, frames, dim) to (*places, dim). The first place is the first that the first frame sees."""
        clips, frames = tf.unstack(tf.shape(self.mask))
        nothing = clips * frames
        source = tf.pad(self.source, [[self.before, self.after]], constant_values=nothing)
        return tf.gather(_and_zeros(x), tf.gather(source, places))

    def unpack(self, x: Any) -> Any:
        """(batch * length, dim) to (batch, frames, dim), zeros in the padding."""

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def unpack(x: Any) -> tuple[Any, Callable[[Any], Any]]:
            def gradient(dy: Any) -> Any:
                # Each frame lies in one place: what TensorFlow would add up is read instead.
                return tf.gather(_and_zeros(dy), self.source)

            return without_padding(tf.gather(x, self.places), self.mask), gradient

        return unpack(x)


def _and_zeros(x: Any) -> Any:
    """(batch, frames, dim) to (batch * frames + 1, dim), the last one zeros."""
    return tf.pad(tf.reshape(x, (-1, x.shape[-1])), [[0, 1], [0, 0]])
