"""The LSTM of both directions, computed faster than Keras does on a processor, with the same result.

Keras multiplies every frame with the input kernel inside the loop over frames, padding too, and derives that
loop step by step. Here the loop holds what depends on the frame before, and nothing else (as in Appleyard,
Kočiský and Blunsom, https://arxiv.org/abs/1604.01946):

* one product for the inputs of all real frames and all gates, before the loop;
* the loop compiled, and its way back written by hand (`recurrence.py`); the loops of the two directions do
  not wait for each other, so they take a core each.

On a GPU all that cuDNN can compute is left to it, in Keras' own way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from trainer.layers.device import on_gpu
from trainer.layers.masked import PACKAGE, without_padding
from trainer.layers.recurrence import BLOCK, GATES, recurrence


@keras.saving.register_keras_serializable(package=PACKAGE)
class Bidirectional(keras.layers.Bidirectional):  # type: ignore[misc]
    """Keras' `Bidirectional` of its `LSTM`: the same weights, files, random numbers and results, but faster.

    Takes `keras.layers.LSTM` with tanh, sigmoid and a bias, and concatenates the directions; all of its
    dropouts, regularizers and constraints. Raises ValueError for anything else.

    With `shared_dropout` all clips of a batch drop the same inputs and states, others for each gate and
    batch. What is dropped of all clips may as well be dropped of the weights, and what is left is an LSTM
    without dropout: less to compute, and on a GPU something that cuDNN knows.

    With `bfloat16` inputs are multiplied with their kernel in that precision, in half the time where the
    processor knows it: of factors and products 8 bits are kept, so results differ in the third digit.
    """

    def __init__(
        self, layer: Any, bfloat16: bool = False, shared_dropout: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(layer, **kwargs)
        self.bfloat16, self.shared_dropout = bfloat16, shared_dropout
        for one in (self.forward_layer, self.backward_layer):
            _refuse_others(one)
        if self.merge_mode != "concat" or not self.backward_layer.go_backwards:
            raise ValueError("the directions of this layer are concatenated, forward first")

    def call(
        self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool | None = None
    ) -> Any:
        """(batch, frames, dim) to (batch, frames, 2 * units), zeros in the padding; or without
        `return_sequences` to (batch, 2 * units), the last states.
        """
        if initial_state is not None:
            raise ValueError("this layer starts from zeros")
        frames = _Frames.of(sequences, mask)
        rows = frames.pack(sequences)
        affine = self._affine(rows, bool(training))
        sides = []
        for one in (self.forward_layer, self.backward_layer):
            weights, inputs, hidden = _dropped_out(one.cell, sequences, bool(training), self.shared_dropout)
            if on_gpu() and hidden is None and (inputs is None or len(inputs) == 1):
                kept = sequences if affine is None else sequences * affine[0] + affine[1]
                kept = kept if inputs is None else kept * inputs[0][:, None]
                sides.append(_by_cudnn(one, kept, mask, weights))
            else:
                shares = _shares(rows, frames.clips, weights, inputs, affine, self.bfloat16)
                states = recurrence(shares, weights[1], hidden, *frames.steps(one.go_backwards))
                sides.append(
                    frames.in_time(states, one.go_backwards) if self.return_sequences else states[-1]
                )
        found = tf.concat(sides, axis=-1)
        return without_padding(found, mask) if self.return_sequences else found

    def _affine(self, rows: Any, training: bool) -> tuple[Any, Any] | None:
        """What inputs are multiplied by, and what is added, (dim,) each, before all else; None is nothing.

        `rows` (rows, dim) are the real frames.
        """
        return None

    def get_config(self) -> dict[str, Any]:
        """All that `__init__` needs."""
        own = {"bfloat16": self.bfloat16, "shared_dropout": self.shared_dropout}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package=PACKAGE)
class NormalizedBidirectional(Bidirectional):
    """BatchNormalization, then `Bidirectional`, with the result of the two layers.

    A dimension is normalised by a factor and a summand. Here the kernel takes the factor and the bias the
    summand, so that frames that are data are multiplied as they are: there is no gradient of theirs to
    compute, which of the three products of a step with all frames is one.
    """

    def __init__(self, layer: Any, **kwargs: Any) -> None:
        super().__init__(layer, **kwargs)
        self.normalization = _Normalization(name="normalization")

    def build(self, sequences_shape: Any, initial_state_shape: Any = None) -> None:
        """The normalisation's weights too."""
        self.normalization.build(sequences_shape)
        super().build(sequences_shape, initial_state_shape)

    def _affine(self, rows: Any, training: bool) -> tuple[Any, Any] | None:
        return self.normalization.affine(rows, training)


@keras.saving.register_keras_serializable(package=PACKAGE)
class _Normalization(keras.layers.BatchNormalization):  # type: ignore[misc]
    """Over real frames, as Keras normalises those of a mask."""

    def affine(self, rows: Any, training: bool) -> tuple[Any, Any]:
        """The factor and the summand of each dimension, (dim,) each, for frames (rows, dim).

        In training by the frames' own mean and variance, and the moving ones follow.
        """
        mean, variance = (tf.convert_to_tensor(w) for w in (self.moving_mean, self.moving_variance))
        if training and self.trainable:
            # Keras adds the same, for a batch that has no frame.
            count = tf.cast(tf.shape(rows)[0], rows.dtype) + keras.config.epsilon()
            now = tf.reduce_sum(rows, 0) / count
            spread = tf.reduce_sum(tf.square(rows - now), 0) / count
            for moving, before, found in (
                (self.moving_mean, mean, now),
                (self.moving_variance, variance, spread),
            ):
                moving.assign(before * self.momentum + found * (1 - self.momentum))
            mean, variance = now, spread
        factor = tf.convert_to_tensor(self.gamma) * tf.math.rsqrt(variance + self.epsilon)
        return factor, tf.convert_to_tensor(self.beta) - mean * factor


def _refuse_others(layer: Any) -> None:
    if not isinstance(layer, keras.layers.LSTM):
        raise ValueError(f"this layer computes keras.layers.LSTM, not {type(layer).__name__}")
    cell = layer.cell
    named = (cell.activation, cell.recurrent_activation)
    if named != (keras.activations.tanh, keras.activations.sigmoid) or not cell.use_bias:
        raise ValueError("this layer computes an LSTM with tanh, sigmoid and a bias")
    if layer.stateful or layer.return_state:
        raise ValueError("this layer neither keeps nor returns states")


@dataclass(frozen=True)
class _Frames:
    """Which frames of a batch are real, and where each is among those that are multiplied with the kernel.

    `packed` are real frames alone. `rows` (batch, frames) is the place of a frame, in the padding any place;
    `clips` (rows,) says whose frame each is.
    """

    mask: Any
    rows: Any
    clips: Any
    packed: bool

    @classmethod
    def of(cls, x: Any, mask: Any) -> _Frames:
        """`mask` (batch, frames), or None where all are real."""
        shape = tf.shape(x)[:2]
        clips = tf.broadcast_to(tf.range(shape[0])[:, None], shape)
        if mask is None:
            rows = tf.reshape(tf.range(shape[0] * shape[1]), shape)
            return cls(tf.ones(shape, tf.bool), rows, tf.reshape(clips, (-1,)), packed=False)
        mask = tf.cast(mask, tf.bool)
        counted = tf.cumsum(tf.reshape(tf.cast(mask, tf.int32), (-1,))) - 1
        rows = tf.reshape(tf.maximum(counted, 0), shape)
        return cls(mask, rows, tf.boolean_mask(clips, mask), packed=True)

    def pack(self, x: Any) -> Any:
        """(batch, frames, any) to (rows, any)."""
        if not self.packed:
            return tf.reshape(x, (-1, *x.shape[2:]))

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def pack(x: Any) -> tuple[Any, Callable[[Any], Any]]:
            def gradient(dy: Any) -> Any:
                return without_padding(tf.gather(dy, self.rows), self.mask)

            return tf.boolean_mask(x, self.mask), gradient

        return pack(x)

    def steps(self, backwards: bool) -> tuple[Any, Any, Any]:
        """When each is computed, in one direction: the row of a step and whether it is a real frame, both
        (steps, batch) for whole blocks of steps; and (rows,) the place of a row among all steps.
        """
        batch, frames = tf.unstack(tf.shape(self.rows))
        order = tf.range(frames)[::-1] if backwards else tf.range(frames)
        places = order * batch + tf.range(batch)[:, None]
        places = tf.boolean_mask(places, self.mask) if self.packed else tf.reshape(places, (-1,))
        found = [tf.gather(tf.transpose(x), order) for x in (self.rows, self.mask)]
        return *(tf.pad(x, [[0, -frames % BLOCK], [0, 0]]) for x in found), places

    def in_time(self, states: Any, backwards: bool) -> Any:
        """(steps, batch, units) to (batch, frames, units), as the clip runs."""
        # Its gradient is a padding, which is cheaper than that of `states[:frames]`.
        cut = tf.slice(states, [0, 0, 0], tf.stack([tf.shape(self.rows)[1], -1, -1]))
        states = tf.ensure_shape(cut, (None, *states.shape[1:]))
        return tf.transpose(tf.reverse(states, [0]) if backwards else states, (1, 0, 2))


def _by_cudnn(lstm: Any, x: Any, mask: Any, weights: Sequence[Any]) -> Any:
    """Of one direction, (batch, frames, units), or the last (batch, units); padding must be at the end."""
    # Keras chooses cuDNN by layer, and the weights of a layer with dropout are not those to compute with: so
    # what it calls then is called from here. It has no public name; the environment is locked to one Keras.
    from keras.src import backend

    cell, zeros = lstm.cell, tf.zeros((tf.shape(x)[0], lstm.cell.units), x.dtype)
    kinds = {"activation": cell.activation, "recurrent_activation": cell.recurrent_activation}
    how = {"return_sequences": True, "go_backwards": lstm.go_backwards}
    last, states, _ = backend.lstm(x, zeros, zeros, mask, *weights, **kinds, **how)
    if not lstm.return_sequences:
        return last
    return tf.reverse(states, [1]) if lstm.go_backwards else states


def _dropped_out(cell: Any, x: Any, training: bool, shared: bool) -> tuple[tuple[Any, ...], Any, Any]:
    """Kernel, recurrent kernel and bias; and the masks of inputs and of states that are left to apply."""
    kernel, recurrent, bias = (
        tf.convert_to_tensor(w) for w in (cell.kernel, cell.recurrent_kernel, cell.bias)
    )
    inputs, hidden = _dropout_masks(cell, x[:1] if shared else x, training)
    if not shared:
        return (kernel, recurrent, bias), inputs, hidden
    return (_masked(kernel, inputs), _masked(recurrent, hidden), bias), None, None


def _masked(kernel: Any, masks: Any) -> Any:
    """(any, 4 * units) with dropped rows, others for each gate: `masks` (gates or 1, 1, any), or None."""
    if masks is None:
        return kernel
    kernels = tf.split(kernel, masks.shape[0], axis=-1)
    return tf.concat([k * mask[0][:, None] for k, mask in zip(kernels, tf.unstack(masks), strict=True)], -1)


def _shares(rows: Any, clips: Any, weights: Sequence[Any], inputs: Any, affine: Any, bfloat16: bool) -> Any:
    """What inputs give to all gates: (rows, dim) to (rows, 4 * units)."""
    kernel, _, bias = weights
    if affine is not None:
        factor, summand = affine
        bias = bias + _constant(summand, clips, kernel, inputs)
        kernel = factor[:, None] * kernel
    if inputs is None:
        return _multiplied(rows, kernel, bfloat16) + bias
    return _dropped(rows, clips, kernel, inputs, bfloat16) + bias


def _constant(summand: Any, clips: Any, kernel: Any, inputs: Any) -> Any:
    """What one and the same frame, `summand` (dim,), gives in every place: (1 or rows, 4 * units)."""
    if inputs is None:
        return tf.matmul(summand[None], kernel)
    # For every clip once: of it the same dimensions are dropped in all frames.
    batch = tf.shape(inputs)[1]
    repeated = tf.tile(summand[None], (batch, 1))
    return tf.gather(_dropped(repeated, tf.range(batch), kernel, inputs, bfloat16=False), clips)


def _multiplied(x: Any, kernel: Any, bfloat16: bool) -> Any:
    if not bfloat16:
        return tf.matmul(x, kernel)
    return tf.cast(tf.matmul(tf.cast(x, tf.bfloat16), tf.cast(kernel, tf.bfloat16)), x.dtype)


def _dropout_masks(cell: Any, x: Any, training: bool) -> tuple[Any, Any]:
    """Of the inputs (gates or 1, batch, dim) and of the states (gates, batch, units), constant over time;
    None where nothing is dropped. Drawn as Keras' cells draw them, from the same seeds.
    """
    state = tf.zeros((tf.shape(x)[0], cell.units), x.dtype)
    if not training:
        if not cell.recurrent_dropout or on_gpu():
            return None, None
        # Ones where there could be others, so that what was compiled to train is used to predict too.
        return None, tf.ones((GATES, *tf.unstack(tf.shape(state))), x.dtype)
    drawn = (cell.get_dropout_mask(x[:, 0, :]), cell.get_recurrent_dropout_mask(state))
    cell.reset_dropout_mask()
    cell.reset_recurrent_dropout_mask()
    inputs, hidden = (tf.stack(m) if isinstance(m, list) else m if m is None else m[None] for m in drawn)
    return inputs, hidden


def _dropped(rows: Any, clips: Any, kernel: Any, masks: Any, bfloat16: bool) -> Any:
    """Inputs times kernel where inputs are dropped, others for each gate: (rows, dim) to (rows, 4 * units).

    `masks` (gates, batch, dim), one for all frames of a clip.
    """
    kernels = tf.split(kernel, masks.shape[0], axis=-1)
    kept = (rows * tf.gather(mask, clips) for mask in tf.unstack(masks))
    return tf.concat([_multiplied(x, k, bfloat16) for x, k in zip(kept, kernels, strict=True)], axis=-1)
