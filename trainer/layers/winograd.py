"""Convolutions over frames with fewer products: minimal filtering (S. Winograd, Arithmetic Complexity of
Computations, 1980; A. Lavin and S. Gray, https://arxiv.org/abs/1509.09308).

A convolution is a product of polynomials, and those can be multiplied point by point: four neighbouring
outputs of five taps see eight frames, and take a matrix product at each of eight points where the sum over
taps takes twenty. Between frames and points are sums alone, for all dimensions at once.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

# That come from one tile. More would take fewer products yet, and points so large that rounding shows.
OUTPUTS = 4
# With fewer taps there are too few products to save for the sums; with more there are no good points left.
TAPS = (4, 5)
# Small, and of small inverses, to keep rounding small; infinity is one more.
_POINTS = (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)

Matrix = npt.NDArray[np.floating[Any]]


def points(taps: int) -> int:
    """How many frames a tile sees, and at how many points it is multiplied."""
    return OUTPUTS + taps - 1


def convolve(tiles: Any, kernel: Any) -> Any:
    """Frames that each tile sees (points, tiles, dim) and the kernel (taps, dim, filters), float32, to
    (tiles * OUTPUTS, filters).
    """
    taps, dim, filters = kernel.shape
    n = points(taps)
    of_outputs, of_taps, of_frames = (tf.constant(m, tiles.dtype) for m in _matrices(taps))
    seen = tf.reshape(of_frames @ tf.reshape(tiles, (n, -1)), (n, -1, dim))
    weights = tf.reshape(of_taps @ tf.reshape(kernel, (taps, -1)), (n, dim, filters))
    found = of_outputs @ tf.reshape(seen @ weights, (n, -1))
    by_output = tf.reshape(found, (OUTPUTS, -1, filters))
    return tf.reshape(tf.transpose(by_output, (1, 0, 2)), (-1, filters))


@cache
def _matrices(taps: int) -> tuple[Matrix, Matrix, Matrix]:
    """From points to outputs (OUTPUTS, points), from taps (points, taps) and from frames (points, points).

    The values of two polynomials at the points, multiplied, are those of their product, and the inverse of
    `_values` makes coefficients of them. That is the other way about than is needed here, frames being the
    sums and not the factors: so the outermost two are transposed.
    """
    return _values(taps, OUTPUTS).T, _values(taps, taps), np.linalg.inv(_values(taps, points(taps))).T


def _values(taps: int, coefficients: int) -> Matrix:
    """(points, coefficients): what takes a polynomial's coefficients to its values at the points."""
    finite = np.vander(_POINTS[: points(taps) - 1], coefficients, increasing=True)
    at_infinity = np.eye(coefficients)[-1:]
    return np.concatenate([finite, at_infinity])
