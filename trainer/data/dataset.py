"""From clips to arrays: packed frames, the split, the normaliser, padding.

Frames of all clips lie one after the other in the precision they were stored in, mapped from the disk where
there is a pack; only a batch is ever normalised and padded.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer import clips
from trainer.clips import Clip, DataError, folds
from trainer.data import pack
from trainer.data.normaliser import LEAST_STD, Floats, Normaliser, Voice
from trainer.data.preparation import Preparation

Indices = npt.NDArray[np.intp]

# One clip of a class on a side says yes or no; of two, one can go wrong.
_EACH_SIDE = 2
_DIVISIONS = 8
_CLIPS_AT_ONCE = 256
DEFAULT = Preparation()


@dataclass(frozen=True)
class Packed:
    """All clips: `frames` is (sum of lengths, dim), clip i is `frames[offsets[i]:offsets[i + 1]]`.

    `labels` are indices into `classes`, which are sorted by name.
    """

    frames: Floats
    offsets: Indices
    labels: npt.NDArray[np.int32]
    classes: tuple[str, ...]
    report: clips.Report

    def clip(self, i: int) -> Floats:
        """(T, dim), a view."""
        return self.frames[self.offsets[i] : self.offsets[i + 1]]

    @property
    def lengths(self) -> Indices:
        """Frames of each clip."""
        return np.diff(self.offsets)

    @property
    def dim(self) -> int:
        """Values of a frame."""
        return int(self.frames.shape[1])


@dataclass(frozen=True)
class Split:
    """Indices of clips, sorted. `val` chooses the epoch; `test`, where a fold is held out, chooses nothing.

    `shared_speakers` is how many of those trained on speak on another side too, None when unknown.
    """

    train: Indices
    val: Indices
    how: str
    shared_speakers: int | None
    test: Indices = field(default_factory=lambda: np.empty(0, np.intp))

    @property
    def judged(self) -> Indices:
        """The clips that the final evaluation is of: those that chose nothing, where there are any."""
        return self.test if len(self.test) else self.val


def load(folder: Path, fingerprint: str, packs: Path | None = None) -> Packed:
    """Every used clip of `folder`; with `packs`, a folder, out of the pack that lies there or is made.

    Raises DataError when something about the data is fatal, or when its content is not `fingerprint`.
    """
    report = clips.check(folder, cache=packs and packs / f"{_named(folder)}.json")
    if report.fatal:
        raise DataError(report.fatal[0].text)
    if report.fingerprint != fingerprint:
        raise DataError(
            f"the data in {folder} is not the run's: {len(report.used)} clips with fingerprint "
            f"{report.fingerprint[:12]}, the run asks for {fingerprint[:12]}; "
            "bring that data back, or start another run"
        )
    classes = tuple(sorted(report.classes))
    frames, offsets = pack.frames_of(report, packs)
    labels = np.array([classes.index(c.label) for c in report.used], np.int32)
    return Packed(frames, offsets, labels, classes, report)


def divide(
    packed: Packed, how: str, seed: int, asked: Preparation = DEFAULT, fold: tuple[int, int] | None = None
) -> Split:
    """A share for validation: whole speakers (`speaker`), or clips of every class (`clip`).

    `fold` (i, k) first holds out the i-th of k folds, in the same way. Every class is on the training side.
    Raises DataError when that, or the split asked for, is impossible.
    """
    if how not in ("speaker", "clip"):
        raise DataError(f"there is no split {how!r}: choose speaker or clip")
    clips_ = packed.report.used
    test = np.empty(0, np.intp)
    if fold is not None:
        test = folds.held_out(packed.report, how, fold[1], seed)[fold[0] - 1]
    rest = np.setdiff1d(np.arange(len(clips_)), test)
    if how == "clip":
        val = rest[_by_clip(packed.labels[rest], seed, asked)]
    else:
        folds.refuse_unknown(packed.report)
        val = rest[_by_speaker(packed.labels[rest], [clips_[i] for i in rest], seed, asked)]
    train = np.setdiff1d(rest, val)
    shared = None
    if packed.report.every_speaker_known:
        heard = {clips_[i].speaker for i in (*val, *test)}
        shared = len({clips_[i].speaker for i in train} & heard)
    return Split(train, val, how, shared, test)


def normaliser(packed: Packed, train: Indices, asked: Preparation = DEFAULT) -> Normaliser:
    """Statistics of the training frames alone, summed in float64; the length too is of training clips."""
    total = int(packed.lengths[train].sum())
    mean = _sum(packed, train, lambda frames: frames) / total
    std = np.sqrt(_sum(packed, train, lambda frames: (frames - mean) ** 2) / total)
    std[std < LEAST_STD] = 1.0
    length = asked.frames or int(np.percentile(packed.lengths[train], asked.percentile))
    return Normaliser(mean.astype(np.float32), std.astype(np.float32), max(1, length))


def voices(packed: Packed, side: Indices, norm: Normaliser, asked: Preparation) -> dict[int, Voice]:
    """By what each clip of a side is normalised: the voice of its speaker, heard in all clips of that side,
    where the recipe asks for that. Labels play no part. A clip whose speaker is unknown stands for itself.
    """
    how = asked.adaptation
    if how is None:
        return dict.fromkeys(map(int, side), norm.general)
    spoken: dict[Hashable, list[int]] = {}
    for i in map(int, side):
        spoken.setdefault(packed.report.used[i].speaker or i, []).append(i)
    found: dict[int, Voice] = {}
    for clips_ in spoken.values():
        found |= dict.fromkeys(clips_, norm.voice([packed.clip(i) for i in clips_], how))
    return found


def class_weights(
    labels: npt.NDArray[np.int32], classes: int, how: str = DEFAULT.class_weights
) -> npt.NDArray[np.float32]:
    """Weight of each class: a number over its count, which is the largest class's count (`max_count`), so
    that the largest weighs 1, or the mean count (`balanced`), so that clips weigh 1 on average.
    """
    counts = np.bincount(labels, minlength=classes)
    if how == "none":
        return np.ones(classes, np.float32)
    weights: npt.NDArray[np.float32] = (
        (counts.max() if how == "max_count" else counts.mean()) / counts
    ).astype(np.float32)
    return weights


def order(n: int, seed: int, epoch: int) -> Indices:
    """The order of training clips in an epoch: of seed and epoch alone, so that a resume sees the same."""
    return np.random.default_rng([seed, epoch]).permutation(n)


def _named(folder: Path) -> str:
    """What is remembered of a folder is kept under this name."""
    return hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]


def _sum(packed: Packed, train: Indices, of: Any) -> npt.NDArray[np.float64]:
    total = np.zeros(packed.dim, np.float64)
    for start in range(0, len(train), _CLIPS_AT_ONCE):
        frames = np.concatenate([packed.clip(i) for i in train[start : start + _CLIPS_AT_ONCE]])
        total += of(frames.astype(np.float64)).sum(axis=0)
    return total


def _by_clip(labels: npt.NDArray[np.int32], seed: int, asked: Preparation) -> Indices:
    random = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        chosen.append(members[: _share_of(len(members), asked)])
    return np.sort(np.concatenate(chosen))


def _share_of(n: int, asked: Preparation) -> int:
    """How many of a class's `n` clips validate."""
    wanted = asked.validation * n
    if not asked.adaptive:
        return max(1, round(wanted))
    least = min(_EACH_SIDE, n // 2)
    return min(max(least, math.ceil(wanted)), n - least)


def _by_speaker(
    labels: npt.NDArray[np.int32], spoken: Sequence[Clip], seed: int, asked: Preparation
) -> Indices:
    """The fold whose validation side has the most classes, then the size nearest to what was asked."""
    speakers = [str(c.speaker) for c in spoken]
    count = min(len(set(speakers)), round(1 / asked.validation))
    # An adaptive split wants every class on both sides, which one division of speakers may miss.
    tries = _DIVISIONS if asked.adaptive else 1
    seeds = range(seed, seed + tries) if count > 1 else ()
    found = [f for one in seeds for f in folds.by_group(labels, speakers, count, one)]
    found = [f for f in found if _trains_all(labels, f)]
    if not found:
        raise DataError(f"{_lonely(spoken)}; divide by clip, or add speakers")
    wanted = asked.validation * len(speakers)

    def badness(fold: Indices) -> tuple[float, ...]:
        off = abs(len(fold) - wanted)
        if not asked.adaptive:
            return (-_classes_with(labels[fold], 1), off)
        # The largest of the folds holds its share at least, so one that is large enough is mostly there.
        return (-_classes_with(labels[fold], 1), -_full_classes(labels, fold), len(fold) < wanted, off)

    return min(found, key=badness)


def _classes_with(side: npt.NDArray[np.int32], clips: int) -> int:
    """How many classes have so many clips on this side."""
    return int((np.bincount(side) >= clips).sum())


def _full_classes(labels: npt.NDArray[np.int32], val: Indices) -> int:
    """How many classes have enough clips for comfort, both sides added."""
    return sum(_classes_with(side, _EACH_SIDE) for side in (np.delete(labels, val), labels[val]))


def _trains_all(labels: npt.NDArray[np.int32], val: Indices) -> bool:
    return 0 < len(val) < len(labels) and len(np.unique(np.delete(labels, val))) == len(np.unique(labels))


def _lonely(spoken: Sequence[Clip]) -> str:
    """Why no fold keeps every class on the training side."""
    voices = Counter(label for label, _ in {(c.label, c.speaker) for c in spoken})
    alone = sorted(label for label, n in voices.items() if n == 1)
    if len({c.speaker for c in spoken}) < 2:
        return f"all clips are of one speaker, {spoken[0].speaker}"
    if alone:
        return f"{alone[0]} is spoken by one speaker only"
    return "no division by speaker leaves every class to train on"
