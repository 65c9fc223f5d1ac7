"""The LSTM of both directions, computed faster than Keras does on a processor, with the same result.

Keras multiplies every frame with the input kernel inside the loop over frames, differentiates that loop step
by step, and runs one loop after the other. Here the loop holds what depends on the frame before, and nothing
else (as in Appleyard, Kociský and Blunsom, https://arxiv.org/abs/1604.01946):

* one product for the inputs of all real frames, all gates and both directions, before the loop;
* both directions in one loop, which XLA compiles for `BLOCK` frames at a time, so that clips of any length
  run without another compilation;
* a backward loop written by hand, which yields the gradients of the gates; the weights' gradients are single
  products after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from trainer.layers.masked import PACKAGE, without_padding

# Frames in one compiled loop. More would make short clips pay for long blocks, fewer the calls be felt.
BLOCK = 16
# Input, forget, candidate, output: the order of columns in Keras' kernels.
_GATES = 4


@keras.saving.register_keras_serializable(package=PACKAGE)
class Bidirectional(keras.layers.Bidirectional):  # type: ignore[misc]
    """Keras' `Bidirectional` of its `LSTM`: the same weights, files, random numbers and results, but faster.

    Takes `keras.layers.LSTM` with tanh, sigmoid and a bias, and concatenates the directions; all of its
    dropouts, regularizers and constraints. Raises ValueError for anything else.
    """

    def __init__(self, layer: Any, **kwargs: Any) -> None:
        super().__init__(layer, **kwargs)
        for one in self._directions:
            _refuse_others(one)
        if self.merge_mode != "concat" or not self.backward_layer.go_backwards:
            raise ValueError("the directions of this layer are concatenated, forward first")

    @property
    def _directions(self) -> tuple[Any, Any]:
        return self.forward_layer, self.backward_layer

    def call(
        self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool | None = None
    ) -> Any:
        """(batch, frames, dim) to (batch, frames, 2 * units), zeros in the padding; or without
        `return_sequences` to (batch, 2 * units), the last states.
        """
        if initial_state is not None:
            raise ValueError("this layer starts from zeros")
        return _run(self._directions, sequences, mask, bool(training), self.return_sequences)


def _refuse_others(layer: Any) -> None:
    if not isinstance(layer, keras.layers.LSTM):
        raise ValueError(f"this layer computes keras.layers.LSTM, not {type(layer).__name__}")
    cell = layer.cell
    named = (cell.activation, cell.recurrent_activation)
    if named != (keras.activations.tanh, keras.activations.sigmoid) or not cell.use_bias:
        raise ValueError("this layer computes an LSTM with tanh, sigmoid and a bias")
    if layer.stateful or layer.return_state:
        raise ValueError("this layer neither keeps nor returns states")


def _run(directions: Sequence[Any], x: Any, mask: Any, training: bool, return_sequences: bool) -> Any:
    """What the LSTMs in `directions` make of `x`, side by side."""
    inputs, hidden = _dropout_masks(directions, x, training)
    packed = mask is not None and inputs is None
    real = tf.ones(tf.shape(x)[:2], tf.bool) if mask is None else tf.cast(mask, tf.bool)
    steps = _Steps.of(directions, real, packed)
    rows = _project_frames(directions, steps.real(x)) if packed else _project_clips(directions, x, inputs)
    kernel = tf.stack(_weights(directions, "recurrent_kernel"))
    states = _recurrence(rows, kernel, hidden, steps.source, steps.target, steps.keep)
    if not return_sequences:
        return tf.concat(tf.unstack(states[-1], len(directions)), axis=-1)
    return without_padding(steps.in_time(states), mask)


def _weights(directions: Sequence[Any], name: str) -> list[Any]:
    """Of every direction, in the precision that the layer computes in."""
    return [tf.convert_to_tensor(getattr(one.cell, name)) for one in directions]


def _dropout_masks(directions: Sequence[Any], x: Any, training: bool) -> tuple[Any, Any]:
    """Of the inputs (directions, gates or 1, batch, dim) and of the states (directions, gates, batch, units),
    each drawn once and constant over time; None where nothing is dropped. Drawn as Keras' cells draw them.
    """
    if not training:
        return None, None
    found: tuple[list[Any], list[Any]] = [], []
    for one in directions:
        cell = one.cell
        state = tf.zeros((tf.shape(x)[0], cell.units), x.dtype)
        for made, drawn in zip(
            found, (cell.get_dropout_mask(x[:, 0, :]), cell.get_recurrent_dropout_mask(state)), strict=True
        ):
            if drawn is not None:
                made.append(tf.stack(drawn) if isinstance(drawn, list) else drawn[None])
        cell.reset_dropout_mask()
        cell.reset_recurrent_dropout_mask()
    inputs, hidden = (tf.stack(made) if made else None for made in found)
    return inputs, hidden


def _project_frames(directions: Sequence[Any], frames: Any) -> Any:
    """(n, dim) to (n * directions, 4 * units): the share of the input in every gate."""
    kernel = tf.concat(_weights(directions, "kernel"), axis=1)
    bias = tf.concat(_weights(directions, "bias"), axis=0)
    return tf.reshape(tf.matmul(frames, kernel) + bias, (-1, kernel.shape[1] // len(directions)))


def _project_clips(directions: Sequence[Any], x: Any, masks: Any) -> Any:
    """The same of (batch, frames, dim), with dropped inputs.

    Each clip has one mask for all its frames, so not the frames are multiplied with it but the kernel: one
    product for all gates, where masked frames would need one for each.
    """
    if masks is None:
        return _project_frames(directions, tf.reshape(x, (-1, x.shape[-1])))
    dim, columns = directions[0].cell.kernel.shape
    kernel = tf.reshape(tf.stack(_weights(directions, "kernel"), axis=1), (dim, len(directions), _GATES, -1))
    bias = tf.concat(_weights(directions, "bias"), axis=0)
    each = kernel * tf.transpose(masks, (2, 3, 0, 1))[..., None]
    product = tf.matmul(x, tf.reshape(each, (-1, dim, len(directions) * columns)))
    return tf.reshape(product + bias, (-1, columns))


@dataclass(frozen=True)
class _Steps:
    """Which frame is computed when: at step s one direction is at frame s, the other at the last but s.

    Steps are rounded up to whole blocks. `source` (steps, directions, batch) is the row of the projection
    that a step takes, `target` (rows,) the step that a row is for, `keep` whether there is a real frame:
    where there is none, the state stays as it is. `rows` (batch, frames) is the place of a frame among all
    that are projected.
    """

    backwards: tuple[bool, ...]
    mask: Any
    rows: Any
    source: Any
    target: Any
    keep: Any

    @classmethod
    def of(cls, directions: Sequence[Any], mask: Any, packed: bool) -> _Steps:
        """`packed` is whether real frames alone are projected. `mask` (batch, frames)."""
        backwards = tuple(bool(one.go_backwards) for one in directions)
        batch, frames = tf.unstack(tf.shape(mask))
        if packed:
            counted = tf.cumsum(tf.reshape(tf.cast(mask, tf.int32), (-1,))) - 1
            rows = tf.reshape(tf.maximum(counted, 0), (batch, frames))
        else:
            rows = tf.reshape(tf.range(batch * frames), (batch, frames))
        sides = range(len(backwards))
        source = [_ordered(rows * len(backwards) + side, backwards[side]) for side in sides]
        keep = [_ordered(mask, back) for back in backwards]
        steps = [tf.range(frames)[::-1] if back else tf.range(frames) for back in backwards]
        places = [(steps[side] * len(backwards) + side) * batch + tf.range(batch)[:, None] for side in sides]
        target = tf.stack(places, axis=-1)
        if packed:
            target = tf.boolean_mask(target, mask)
        more = [[0, -frames % BLOCK], [0, 0], [0, 0]]
        return cls(
            backwards,
            mask,
            rows,
            tf.pad(tf.stack(source, axis=1), more),
            tf.reshape(target, (-1,)),
            tf.pad(tf.stack(keep, axis=1), more),
        )

    def real(self, x: Any) -> Any:
        """(batch, frames, dim) to the real frames alone, (n, dim)."""

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def pack(x: Any) -> tuple[Any, Callable[[Any], Any]]:
            def gradient(dy: Any) -> Any:
                return without_padding(tf.gather(dy, self.rows), self.mask)

            return tf.boolean_mask(x, self.mask), gradient

        return pack(x)

    def in_time(self, states: Any) -> Any:
        """(steps, directions, batch, units) to (batch, frames, directions * units), as the clip runs."""
        states = states[: tf.shape(self.rows)[1]]
        sides = [
            tf.reverse(states[:, i], [0]) if back else states[:, i] for i, back in enumerate(self.backwards)
        ]
        return tf.transpose(tf.concat(sides, axis=-1), (1, 0, 2))


def _ordered(values: Any, backwards: bool) -> Any:
    """(batch, frames) to (steps, batch)."""
    values = tf.transpose(values)
    return tf.reverse(values, [0]) if backwards else values


# A function of its own, for where there is no other around it: what XLA compiles has no gradient by itself.
@tf.function  # type: ignore[untyped-decorator]
def _recurrence(rows: Any, kernel: Any, masks: Any, source: Any, target: Any, keep: Any) -> Any:
    """The states after every step, (steps, directions, batch, units).

    `rows` is the input's share, `kernel` (directions, units, 4 * units); `masks` (directions, 4, batch,
    units) what is left of the states for each gate, or None; the others are of `_Steps`.
    """
    batch = tf.shape(keep)[2]
    count, units = kernel.shape[:2]

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def run(rows: Any, kernel: Any) -> tuple[Any, Callable[[Any], tuple[Any, Any]]]:
        zeros = tf.zeros((count, batch, units), rows.dtype)

        def forward(carried: Any, source: Any, keep: Any) -> Any:
            return _forward_block(carried, tf.gather(rows, source), keep, kernel, masks)

        def backward(carried: Any, *block: Any) -> Any:
            return _backward_block(carried, *block, kernel, masks)

        states, cells, gates = _in_blocks(forward, (zeros, zeros), (source, keep), 3)

        def gradient(d_states: Any) -> tuple[Any, Any]:
            known = (d_states, cells, gates, keep)
            (d_gates,) = _in_blocks(backward, (zeros, zeros), known, 1, backwards=True)
            d_rows = tf.gather(tf.reshape(d_gates, (-1, _GATES * units)), target)
            before = tf.concat([zeros[None], states[:-1]], axis=0)
            return d_rows, _kernel_gradient(before, d_gates, masks)

        return states, gradient

    return run(rows, kernel)


def _in_blocks(
    step: Callable[..., Any],
    carried: tuple[Any, ...],
    sequences: Sequence[Any],
    made: int,
    backwards: bool = False,
) -> list[Any]:
    """`step(carried, *block)` for one block of `BLOCK` steps after the other, or from the last to the first;
    it returns what is carried on and `made` sequences, which come back whole.
    """
    blocks = tf.shape(sequences[0])[0] // BLOCK
    cut = [tf.reshape(x, tf.concat([[blocks, BLOCK], tf.shape(x)[1:]], 0)) for x in sequences]
    dtype = carried[0].dtype
    arrays = tuple(
        tf.TensorArray(dtype, blocks, element_shape=(BLOCK, None, None, None)) for _ in range(made)
    )

    def body(i: Any, carried: Any, arrays: Any) -> Any:
        at = blocks - 1 - i if backwards else i
        carried, found = step(carried, *(x[at] for x in cut))
        return i + 1, carried, tuple(a.write(at, x) for a, x in zip(arrays, found, strict=True))

    _, _, arrays = tf.while_loop(lambda i, *_: i < blocks, body, (0, carried, arrays))
    return [array.concat() for array in arrays]


@tf.function(jit_compile=True)  # type: ignore[untyped-decorator]
def _forward_block(carried: Any, z: Any, keep: Any, kernel: Any, masks: Any) -> Any:
    """Keras' equations. Returns (h, c) after the block; h after each step, c before it, and the gates."""

    def step(carried: Any, z: Any, keep: Any) -> Any:
        h, c = carried
        i, f, g, o = tf.split(z + _times_kernel(h, kernel, masks), _GATES, axis=-1)
        i, f, g, o = tf.sigmoid(i), tf.sigmoid(f), tf.tanh(g), tf.sigmoid(o)
        real, after = keep[..., None], f * c + i * g
        h = tf.where(real, o * tf.tanh(after), h)
        return (h, tf.where(real, after, c)), (h, c, tf.concat([i, f, g, o], axis=-1))

    return _step_by_step(step, carried, (z, keep), 3)


@tf.function(jit_compile=True)  # type: ignore[untyped-decorator]
def _backward_block(
    carried: Any, d_states: Any, cells: Any, gates: Any, keep: Any, kernel: Any, masks: Any
) -> Any:
    """The same backwards. Returns the gradients of (h, c) before the block; and of the gates' sums."""

    def step(carried: Any, d_state: Any, c: Any, gates: Any, keep: Any) -> Any:
        real = keep[..., None]
        i, f, g, o = tf.split(gates, _GATES, axis=-1)
        d_h, d_c = carried[0] + d_state, carried[1]
        passed = [tf.where(real, 0.0, d) for d in (d_h, d_c)]
        d_h, d_c = (tf.where(real, d, 0.0) for d in (d_h, d_c))
        squashed = tf.tanh(f * c + i * g)
        d_c += d_h * o * (1 - squashed**2)
        sums = (
            d_c * g * i * (1 - i),
            d_c * c * f * (1 - f),
            d_c * i * (1 - g**2),
            d_h * squashed * o * (1 - o),
        )
        d_gates = tf.concat(sums, axis=-1)
        return (passed[0] + _times_kernel_back(d_gates, kernel, masks), passed[1] + d_c * f), (d_gates,)

    return _step_by_step(step, carried, (d_states, cells, gates, keep), 1, backwards=True)


def _step_by_step(
    step: Callable[..., Any],
    carried: tuple[Any, ...],
    sequences: Sequence[Any],
    made: int,
    backwards: bool = False,
) -> Any:
    """As `_in_blocks` with single steps, inside of what XLA compiles."""
    arrays = tuple(tf.TensorArray(carried[0].dtype, BLOCK) for _ in range(made))

    def body(i: Any, carried: Any, arrays: Any) -> Any:
        at = BLOCK - 1 - i if backwards else i
        carried, found = step(carried, *(x[at] for x in sequences))
        return i + 1, carried, tuple(a.write(at, x) for a, x in zip(arrays, found, strict=True))

    _, carried, arrays = tf.while_loop(
        lambda i, *_: i < BLOCK, body, (0, carried, arrays), maximum_iterations=BLOCK
    )
    return carried, [array.stack() for array in arrays]


def _times_kernel(h: Any, kernel: Any, masks: Any) -> Any:
    """(directions, batch, units) to (directions, batch, 4 * units)."""
    if masks is None:
        return tf.matmul(h, kernel)
    product = tf.matmul(h[:, None] * masks, _by_gate(kernel))
    return tf.concat(tf.unstack(product, axis=1), axis=-1)


def _times_kernel_back(d_gates: Any, kernel: Any, masks: Any) -> Any:
    """(directions, batch, 4 * units) to (directions, batch, units)."""
    if masks is None:
        return tf.matmul(d_gates, kernel, transpose_b=True)
    split = tf.stack(tf.split(d_gates, _GATES, axis=-1), axis=1)
    return tf.reduce_sum(tf.matmul(split, _by_gate(kernel), transpose_b=True) * masks, axis=1)


def _by_gate(kernel: Any) -> Any:
    """(directions, units, 4 * units) to (directions, 4, units, units)."""
    return tf.stack(tf.split(kernel, _GATES, axis=-1), axis=1)


def _kernel_gradient(before: Any, d_gates: Any, masks: Any) -> Any:
    """Of the recurrent kernel: over all steps at once. `before` are the states before each of them."""
    count, units = before.shape[1], before.shape[-1]
    sides = []
    for side in range(count):
        h, d = before[:, side], d_gates[:, side]
        if masks is None:
            sides.append(_outer(h, d))
            continue
        parts = zip(tf.unstack(masks[side], _GATES), tf.split(d, _GATES, axis=-1), strict=True)
        sides.append(tf.concat([_outer(h * mask, part) for mask, part in parts], axis=-1))
    return tf.ensure_shape(tf.stack(sides), (count, units, _GATES * units))


def _outer(rows: Any, columns: Any) -> Any:
    """The sum over steps and batch of rows times columns."""
    return tf.matmul(
        tf.reshape(rows, (-1, rows.shape[-1])),
        tf.reshape(columns, (-1, columns.shape[-1])),
        transpose_a=True,
    )
