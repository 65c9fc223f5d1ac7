"""The loop over frames of an LSTM, forward and backward.

It is compiled by XLA for `BLOCK` frames at a time, so that clips of any length run without another
compilation. The backward loop is written by hand and yields the gradients of the gates; those of the weights
are products after it, over all frames at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

# Frames in one compiled loop. More would make short clips pay for long blocks, fewer the calls be felt.
BLOCK = 16
# Input, forget, candidate, output: the order of columns in Keras' kernels.
GATES = 4


# A function of its own, for where there is no other around it: what XLA compiles has no gradient by itself.
@tf.function(autograph=False)  # type: ignore[untyped-decorator]
def recurrence(rows: Any, kernel: Any, masks: Any, source: Any, keep: Any, places: Any) -> Any:
    """The states after every step, (steps, batch, units).

    `rows` (rows, 4 * units) is the input's share, `kernel` (units, 4 * units); `masks` (4, batch, units) what
    is left of the states for each gate, or None; the others are of `_Frames.steps`.
    """
    batch, units = tf.shape(keep)[1], kernel.shape[0]

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def run(rows: Any, kernel: Any) -> tuple[Any, Callable[[Any], tuple[Any, Any]]]:
        zeros = tf.zeros((batch, units), rows.dtype)

        def forward(carried: Any, source: Any, keep: Any) -> Any:
            return _forward_block(carried, tf.gather(rows, source), keep, kernel, masks)

        def backward(carried: Any, *block: Any) -> Any:
            return _backward_block(carried, *block, kernel, masks)

        states, cells, gates = _in_blocks(forward, (zeros, zeros), (source, keep), 3)

        def gradient(d_states: Any) -> tuple[Any, Any]:
            known = (d_states, cells, gates, keep)
            (d_gates,) = _in_blocks(backward, (zeros, zeros), known, 1, backwards=True)
            d_rows = tf.gather(tf.reshape(d_gates, (-1, GATES * units)), places)
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
    arrays = tuple(tf.TensorArray(dtype, blocks, element_shape=(BLOCK, None, None)) for _ in range(made))

    def body(i: Any, carried: Any, arrays: Any) -> Any:
        at = blocks - 1 - i if backwards else i
        carried, found = step(carried, *(x[at] for x in cut))
        return i + 1, carried, tuple(a.write(at, x) for a, x in zip(arrays, found, strict=True))

    _, _, arrays = tf.while_loop(lambda i, *_: i < blocks, body, (0, carried, arrays))
    return [array.concat() for array in arrays]


@tf.function(jit_compile=True, autograph=False)  # type: ignore[untyped-decorator]
def _forward_block(carried: Any, z: Any, keep: Any, kernel: Any, masks: Any) -> Any:
    """Keras' equations. Returns (h, c) after the block; h after each step, c before it, and the gates."""

    def step(carried: Any, z: Any, keep: Any) -> Any:
        h, c = carried
        i, f, g, o = tf.split(z + _times_kernel(h, kernel, masks), GATES, axis=-1)
        i, f, g, o = tf.sigmoid(i), tf.sigmoid(f), tf.tanh(g), tf.sigmoid(o)
        real, after = keep[..., None], f * c + i * g
        h = tf.where(real, o * tf.tanh(after), h)
        return (h, tf.where(real, after, c)), (h, c, tf.concat([i, f, g, o], axis=-1))

    return _step_by_step(step, carried, (z, keep), 3)


@tf.function(jit_compile=True, autograph=False)  # type: ignore[untyped-decorator]
def _backward_block(
    carried: Any, d_states: Any, cells: Any, gates: Any, keep: Any, kernel: Any, masks: Any
) -> Any:
    """The same backwards. Returns the gradients of (h, c) before the block; and of the gates' sums."""

    def step(carried: Any, d_state: Any, c: Any, gates: Any, keep: Any) -> Any:
        real = keep[..., None]
        i, f, g, o = tf.split(gates, GATES, axis=-1)
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
    """(batch, units) to (batch, 4 * units)."""
    if masks is None:
        return tf.matmul(h, kernel)
    return tf.concat(tf.unstack(tf.matmul(h * masks, _by_gate(kernel))), axis=-1)


def _times_kernel_back(d_gates: Any, kernel: Any, masks: Any) -> Any:
    """(batch, 4 * units) to (batch, units)."""
    if masks is None:
        return tf.matmul(d_gates, kernel, transpose_b=True)
    product = tf.matmul(tf.stack(tf.split(d_gates, GATES, axis=-1)), _by_gate(kernel), transpose_b=True)
    return tf.reduce_sum(product * masks, axis=0)


def _by_gate(kernel: Any) -> Any:
    """(units, 4 * units) to (4, units, units)."""
    return tf.stack(tf.split(kernel, GATES, axis=-1))


def _kernel_gradient(before: Any, d_gates: Any, masks: Any) -> Any:
    """Of the recurrent kernel: over all steps at once. `before` are the states before each of them."""
    if masks is None:
        return _outer(before, d_gates)
    parts = zip(tf.unstack(masks, GATES), tf.split(d_gates, GATES, axis=-1), strict=True)
    return tf.concat([_outer(before * mask, part) for mask, part in parts], axis=-1)


def _outer(rows: Any, columns: Any) -> Any:
    """The sum over steps and batch of rows times columns."""
    rows, columns = (tf.reshape(x, (-1, x.shape[-1])) for x in (rows, columns))
    return tf.matmul(rows, columns, transpose_a=True)
