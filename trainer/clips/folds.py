"""K folds of a folder's clips, each held out once: whole speakers, or clips of every class. numpy alone.

Folds are of the clips and the seed, not of a library's version: a resume must find the very same ones.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt

from trainer.clips import DataError, Report

Indices = npt.NDArray[np.intp]

# Of each class: one clip to train on and one to choose the epoch by.
_LEFT = 2


def held_out(report: Report, how: str, count: int, seed: int) -> list[Indices]:
    """Sorted indices of used clips, fold by fold; every clip is in one fold.

    `how` is `speaker` or `clip`. Raises DataError when so many folds would leave too little to train on.
    """
    labels = [c.label for c in report.used]
    speakers = [c.speaker for c in report.used]
    if how == "speaker":
        refuse_unknown(report)
        least = max(count, 3)
        if len(set(speakers)) < least:
            raise DataError(
                f"{count} folds by speaker need {least} speakers, there are {len(set(speakers))}: "
                "ask for fewer folds, or divide by clip"
            )
        folds = by_group(labels, [str(s) for s in speakers], count, seed)
    else:
        folds = by_class(labels, count, seed)
    _refuse_unlearnable(labels, folds, least=1 if how == "speaker" else _LEFT)
    return folds


def describe(report: Report, folds: list[Indices]) -> list[dict[str, object]]:
    """What each fold holds out: clips, classes and speakers with their counts. Fit for JSON."""
    told: list[dict[str, object]] = []
    for number, fold in enumerate(folds, 1):
        clips = [report.used[i] for i in fold]
        told.append(
            {
                "fold": number,
                "clips": len(clips),
                "classes": _counted([c.label for c in clips]),
                "speakers": _counted([c.speaker for c in clips if c.speaker]),
            }
        )
    return told


def _counted(names: list[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def refuse_unknown(report: Report) -> None:
    """Raises DataError naming a clip whose speaker is not known."""
    for clip in report.used:
        if clip.speaker is None:
            raise DataError(
                f"the speaker of {clip.path} is unknown: divide by clip, or name speakers in the files"
            )


def by_group(labels: npt.ArrayLike, groups: npt.ArrayLike, count: int, seed: int) -> list[Indices]:
    """Whole groups in each fold, and the classes as even as that allows.

    Groups whose classes are most uneven go first, each to the fold that it makes least uneven: the folds of
    scikit-learn's StratifiedGroupKFold with `shuffle`. Fewer groups than folds leave folds empty.
    """
    classes, label = np.unique(np.asarray(labels), return_inverse=True)
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    clips = np.zeros((len(names), len(classes)))
    np.add.at(clips, (group, label), 1)
    order = np.arange(len(names))
    np.random.RandomState(seed).shuffle(order)
    order = order[np.argsort(-clips[order].std(axis=1), kind="stable")]
    held = np.zeros((count, len(classes)))
    fold_of = np.zeros(len(names), np.intp)
    for one in order:
        fold_of[one] = _evenest(held, clips[one], clips.sum(axis=0))
        held[fold_of[one]] += clips[one]
    return [np.flatnonzero(fold_of[group] == fold) for fold in range(count)]


def by_class(labels: npt.ArrayLike, count: int, seed: int) -> list[Indices]:
    """Clips of every class dealt out in turn, so that no fold has two more of a class than another."""
    random = np.random.default_rng(seed)
    found = np.asarray(labels)
    fold_of = np.zeros(len(found), np.intp)
    dealt = 0
    for label in np.unique(found):
        members = random.permutation(np.flatnonzero(found == label))
        fold_of[members] = (dealt + np.arange(len(members))) % count
        dealt += len(members)
    return [np.flatnonzero(fold_of == fold) for fold in range(count)]


def _evenest(
    held: npt.NDArray[np.float64], more: npt.NDArray[np.float64], total: npt.NDArray[np.float64]
) -> int:
    """The fold to put `more` clips of each class in, given what the folds hold; of equals the smallest."""
    uneven = []
    for fold in range(len(held)):
        tried = held.copy()
        tried[fold] += more
        uneven.append((tried / total).std(axis=0).mean())
    best = 0
    for fold in range(1, len(held)):
        smaller = held[fold].sum() < held[best].sum()
        if uneven[fold] < uneven[best] or (np.isclose(uneven[fold], uneven[best]) and smaller):
            best = fold
    return best


def _refuse_unlearnable(labels: list[str], folds: list[Indices], least: int) -> None:
    found = np.asarray(labels)
    for number, fold in enumerate(folds, 1):
        rest = np.delete(found, fold)
        for label in np.unique(found):
            if (rest == label).sum() < least:
                raise DataError(
                    f"fold {number} of {len(folds)} would leave too few clips of {label} to train on: "
                    "ask for fewer folds, or add clips"
                )
