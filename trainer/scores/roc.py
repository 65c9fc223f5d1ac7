"""One class against the rest: the ROC curve and the area under it. numpy alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def curve(positive: npt.NDArray[np.bool_], scores: npt.NDArray[Any]) -> tuple[Floats, Floats] | None:
    """False and true positive rates from (0, 0) to (1, 1), a point for each distinct score.

    None when all clips are of the class, or none is.
    """
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return None
    order = np.argsort(-scores, kind="stable")
    hits, ranked = positive[order], scores[order]
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    taken = ends + 1
    true = np.cumsum(hits)[ends]
    return np.append(0, (taken - true) / negatives), np.append(0, true / positives)


def area(positive: npt.NDArray[np.bool_], scores: npt.NDArray[Any]) -> float | None:
    """The chance that a clip of the class scores above one of the rest, ties counting half."""
    found = curve(positive, scores)
    return None if found is None else float(np.trapezoid(found[1], found[0]))
