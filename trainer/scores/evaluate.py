"""What predictions are worth: scores, how sure they are, each class for itself. numpy alone."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.scores import intervals, roc
from trainer.scores.intervals import Intervals

Labels = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Score:
    """How well probabilities fit labels. `confusion[i][j]` counts clips of class i taken for class j.

    `uar` is the mean recall over the classes that occur, `macro_f1` the mean F1 over them.
    """

    n: int
    correct: int
    uar: float
    macro_f1: float
    recall: dict[str, float | None]
    confusion: list[list[int]]

    @property
    def accuracy(self) -> float:
        """Correct ones of all."""
        return self.correct / self.n


@dataclass(frozen=True)
class OfClass:
    """One class. None where there is nothing to divide by: no clip of it, or none taken for it.

    `auc` is the area under the ROC curve of this class against the rest.
    """

    precision: float | None
    recall: float | None
    f1: float | None
    support: int
    auc: float | None


@dataclass(frozen=True)
class Evaluation:
    """A score with its intervals, and every class for itself."""

    score: Score
    intervals: Intervals
    per_class: Mapping[str, OfClass]

    def to_dict(self) -> dict[str, Any]:
        """Fit for JSON."""
        return {
            "n": self.score.n,
            "accuracy": self.score.accuracy,
            "uar": self.score.uar,
            "macro_f1": self.score.macro_f1,
            "intervals": self.intervals.to_dict(),
            "classes": list(self.per_class),
            "per_class": {name: vars(one) for name, one in self.per_class.items()},
            "confusion": self.score.confusion,
        }


def heard_together(speakers: Sequence[str | None]) -> int:
    """How many clips of a speaker a model that adapts to voices had, in the median. One of nobody known
    stands for itself.
    """
    counts = Counter(speaker or i for i, speaker in enumerate(speakers))
    return round(statistics.median(counts.values()))


def evaluate(
    labels: Labels,
    probabilities: npt.NDArray[Any],
    *,
    classes: Sequence[str],
    speakers: Sequence[str | None],
) -> Evaluation:
    """All there is to say about (n, classes) probabilities of n clips and who speaks in them.

    Raises ValueError when there is no clip, or a probability is no number.
    """
    if not len(labels):
        raise ValueError("there is no clip to evaluate")
    if not np.isfinite(probabilities).all():
        raise ValueError("the model's probabilities are not all numbers")
    found = score(labels, probabilities, classes)
    guesses = probabilities.argmax(axis=1)
    sure = intervals.estimate(labels, guesses, classes=len(classes), speakers=speakers)
    areas = [roc.area(labels == i, probabilities[:, i]) for i in range(len(classes))]
    return Evaluation(found, sure, _per_class(found, classes, areas))


def score(labels: Labels, probabilities: npt.NDArray[Any], classes: Sequence[str]) -> Score:
    """Score (n, classes) probabilities against n class indices."""
    k = len(classes)
    guesses = probabilities.argmax(axis=1)
    confusion = np.bincount(labels * k + guesses, minlength=k * k).reshape(k, k)
    hits, there, guessed = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    occurs = there > 0
    recall = hits / np.maximum(there, 1)
    f1 = 2 * hits / np.maximum(there + guessed, 1)
    return Score(
        n=len(labels),
        correct=int(hits.sum()),
        uar=float(recall[occurs].mean()),
        macro_f1=float(f1[occurs].mean()),
        recall={c: float(r) if o else None for c, r, o in zip(classes, recall, occurs, strict=True)},
        confusion=confusion.tolist(),
    )


def _per_class(found: Score, classes: Sequence[str], areas: Sequence[float | None]) -> dict[str, OfClass]:
    confusion = np.array(found.confusion)
    hits, there, guessed = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    return {
        name: OfClass(
            precision=_share(hits[i], guessed[i]),
            recall=found.recall[name],
            f1=_share(2 * hits[i], there[i] + guessed[i]) if there[i] else None,
            support=int(there[i]),
            auc=areas[i],
        )
        for i, name in enumerate(classes)
    }


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None
