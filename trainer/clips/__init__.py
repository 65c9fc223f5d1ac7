"""What is in a folder of feature files: every clip that can be trained on, and why the others cannot.

A clip is one `.npz` with exactly one of `KEYS` as an array (frames, dim), or (frames, bins, channels), which
is taken as (frames, bins × channels); or an `.npy` that is that array.
Labels come from the string `emotion`, else from the file name; speakers from the file name, else from the
string `speaker`. numpy and the standard library only: the command line looks before it sends.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from trainer import contract
from trainer.clips.cache import Cache
from trainer.clips.files import KEYS, Clip, look
from trainer.clips.tree import SUFFIXES, Entry, Refused, walk

__all__ = ["KEYS", "Clip", "DataError", "Problem", "Refused", "Report", "check"]

IMBALANCE = 10
# How many clips are compared at most and at least, and what of their outlines is too little to compare:
# features that were normalised clip by clip are flat.
COMPARED, LEAST_COMPARED, LEAST_GROUPS, FLAT = 200, 20, 16, 0.02
LEAST_ALIKE = 0.2
# Recipes have their own; this one says of which order a batch's memory is.
BATCH_SIZE = 32


class DataError(ValueError):
    """Data that cannot be looked at or trained on: one sentence saying what, and what to do."""


@dataclass(frozen=True)
class Problem:
    """Something a person should know about the data; nothing is trained while one is `fatal`."""

    kind: str
    fatal: bool
    text: str
    paths: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """What a folder holds. `files` is used and skipped together; `dim` and `key` are 0 and "" without clips.

    `frames` has min, median, p95, p98 and max of the used clips' lengths. `speakers` counts the clips whose
    speaker is known. `fingerprint` names the content: sha256 over the used clips' paths and digests.
    """

    folder: Path
    used: tuple[Clip, ...]
    skipped: tuple[Refused, ...]
    classes: Mapping[str, int]
    speakers: Mapping[str, int]
    frames: Mapping[str, float]
    dim: int
    key: str
    synthetic: bool
    problems: tuple[Problem, ...]
    fingerprint: str

    @property
    def files(self) -> int:
        """Everything looked at."""
        return len(self.used) + len(self.skipped)

    @property
    def fatal(self) -> tuple[Problem, ...]:
        """The problems that forbid training."""
        return tuple(p for p in self.problems if p.fatal)

    @property
    def every_speaker_known(self) -> bool:
        """Whether the clips can be divided by speaker."""
        return bool(self.used) and all(c.speaker is not None for c in self.used)

    @property
    def memory(self) -> dict[str, int]:
        """Bytes that training will take: all clips as they are stored, and a padded batch in float32."""
        if not self.used:
            return {"clips": 0, "batch": 0, "batch_size": BATCH_SIZE}
        width = np.result_type(*{np.dtype(c.dtype) for c in self.used}).itemsize
        return {
            "clips": sum(c.frames for c in self.used) * self.dim * width,
            "batch": BATCH_SIZE * int(self.frames["p98"]) * self.dim * np.dtype(np.float32).itemsize,
            "batch_size": BATCH_SIZE,
        }

    def misfit(self, *, dim: int, key: str) -> str | None:
        """Why a model of `dim` dimensions, trained on features called `key`, cannot be given these clips."""
        if not self.used:
            return self.problems[0].text
        if others := [c for c in self.used if c.dim != dim]:
            text = f"the model takes {dim} dimensions, {_count(len(others), 'clip')} of other ones"
            return f"{text} ({others[0].path}: {others[0].dim}): name data of its features"
        if key and self.key and key != self.key:
            return f"the model was trained on {key}, these are {self.key}: name data of its features"
        return None

    def to_json(self) -> bytes:
        """As `data check --json` prints it."""
        body = {
            "files": self.files,
            "used": len(self.used),
            "skipped": [{"path": s.path, "reason": s.reason} for s in self.skipped],
            "classes": self.classes,
            "speakers": self.speakers,
            "frames": self.frames,
            "dim": self.dim,
            "key": self.key,
            "memory_bytes": self.memory,
            "synthetic": self.synthetic,
            "problems": [asdict(p) for p in self.problems],
            "fingerprint": self.fingerprint,
        }
        return contract.to_json(body)


def check(
    folder: Path, *, cache: Path | None = None, progress: Callable[[int, int], None] | None = None
) -> Report:
    """Look at every feature file below `folder`.

    `cache` is a file that remembers what was seen, so that unchanged files are not opened again; `progress`
    is told how many of how many files are done. Raises DataError when the folder cannot be listed.
    """
    if not folder.is_dir():
        return _report(folder, [], [], (_no_folder(folder),))
    try:
        entries, refused = walk(folder)
    except OSError as e:
        raise DataError(f"cannot list {folder}: {e.strerror}; make it readable and try again") from e
    known = Cache.read(cache, folder)
    found: list[Clip] = []
    with contextlib.closing(_looked(entries, known)) as looked:
        for number, result in enumerate(looked, 1):
            if isinstance(result, Refused):
                refused.append(result)
            else:
                found.append(result)
            if progress:
                progress(number, len(entries))
    known.write()
    used, duplicates = _distinct(found)
    return _report(folder, used, refused + duplicates)


def _looked(entries: list[Entry], known: Cache) -> Generator[Clip | Refused, None, None]:
    """What each file is, in their order; those that are not known are read side by side, because reading and
    hashing do not hold the interpreter.
    """
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        seen = [known.recall(entry) or pool.submit(look, entry) for entry in entries]
        for entry, one in zip(entries, seen, strict=True):
            yield known.keep(entry, one.result()) if isinstance(one, Future) else one
    finally:
        pool.shutdown(cancel_futures=True)


def fingerprint(clips: list[Clip] | tuple[Clip, ...]) -> str:
    """The name of a content: sha256 over the sorted paths and digests of clips."""
    total = hashlib.sha256()
    for path, digest in sorted((c.path, c.sha256) for c in clips):
        total.update(f"{path}\0{digest}\n".encode())
    return total.hexdigest()


def _distinct(found: list[Clip]) -> tuple[list[Clip], list[Refused]]:
    """The first of each content; the later ones are duplicates. Of contents with two labels, none."""
    first: dict[str, Clip] = {}
    disputed: dict[str, Clip] = {}
    for clip in found:
        if clip.label != first.setdefault(clip.content, clip).label:
            disputed.setdefault(clip.content, clip)
    used: list[Clip] = []
    refused: list[Refused] = []
    for clip in found:
        same, other = first[clip.content], disputed.get(clip.content)
        if other:
            against = other if clip.label == same.label else same
            reason = f"{clip.label} here, {against.label} in {against.path}: the same features"
            refused.append(Refused(clip.path, "contradiction", reason))
        elif same is clip:
            used.append(clip)
        else:
            what = "content" if clip.sha256 == same.sha256 else "features"
            refused.append(Refused(clip.path, "duplicate", f"the same {what} as {same.path}"))
    return used, refused


def _report(
    folder: Path, clips: list[Clip], refused: list[Refused], problems: tuple[Problem, ...] = ()
) -> Report:
    dims = Counter(c.dim for c in clips)
    keys = Counter(c.key for c in clips if c.key)
    return Report(
        folder=folder,
        used=tuple(clips),
        skipped=tuple(sorted(refused, key=lambda s: s.path)),
        classes=_counted(c.label for c in clips),
        speakers=_counted(c.speaker for c in clips),
        frames=_lengths([c.frames for c in clips]),
        dim=dims.most_common(1)[0][0] if dims else 0,
        key=keys.most_common(1)[0][0] if keys else "",
        synthetic=any(c.synthetic for c in clips),
        problems=problems or tuple(_problems(folder, clips, refused)),
        fingerprint=fingerprint(clips),
    )


def _counted(names: Iterable[str | None]) -> dict[str, int]:
    return dict(sorted(Counter(n for n in names if n is not None).items()))


def _lengths(frames: list[int]) -> dict[str, float]:
    if not frames:
        return {}
    middle, p95, p98 = np.percentile(frames, [50, 95, 98])
    return {
        "min": min(frames),
        "median": float(middle),
        "p95": float(p95),
        "p98": float(p98),
        "max": max(frames),
    }


def _problems(folder: Path, clips: list[Clip], refused: list[Refused]) -> Iterator[Problem]:
    if clips:
        yield from _fatal(clips)
        yield from _worth_knowing(clips)
    else:
        yield _no_clips(folder)
    for kind in sorted({s.kind for s in refused}):
        those = [s for s in refused if s.kind == kind]
        text = f"{_count(len(those), 'file')} left out, {kind}: {those[0].path}, {those[0].reason}"
        yield Problem(kind, fatal=False, text=text, paths=tuple(s.path for s in those))


def _no_folder(folder: Path) -> Problem:
    what = "is a file" if folder.exists() else "does not exist"
    return Problem("no-folder", fatal=True, text=f"{folder} {what}: name a folder of .npz or .npy files")


def _no_clips(folder: Path) -> Problem:
    others = Counter(
        Path(name).suffix.lower() for _, _, names in os.walk(folder) for name in names if Path(name).suffix
    )
    others = Counter({s: n for s, n in others.items() if s not in SUFFIXES})
    there = ""
    if others and re.fullmatch(r"\.\w+", others.most_common(1)[0][0]):
        suffix, n = others.most_common(1)[0]
        there = f" but {_count(n, suffix + ' file')}"
    text = f"{folder} holds no clip{there}: extract features first, one .npz with `features` per clip"
    return Problem("no-clips", fatal=True, text=text)


def _fatal(clips: list[Clip]) -> Iterator[Problem]:
    classes = Counter(c.label for c in clips)
    if len(classes) < 2:
        text = f"all clips are {clips[0].label}: add clips of at least one other emotion"
        yield Problem("one-class", fatal=True, text=text)
    for label in sorted(name for name, n in classes.items() if n < 2):
        paths = tuple(c.path for c in clips if c.label == label)
        text = f"{label} has a single clip, {paths[0]}, and needs two: one to train on and one to validate"
        yield Problem("small-class", fatal=True, text=f"{text}; add clips or take it out", paths=paths)
    dims = Counter(c.dim for c in clips)
    if len(dims) > 1:
        usual, n = dims.most_common(1)[0]
        paths = tuple(c.path for c in clips if c.dim != usual)
        text = f"{_count(n, 'clip')} of dimension {usual}, {len(paths)} of others: take those of others out"
        yield Problem("mixed-dims", fatal=True, text=text, paths=paths)


def _worth_knowing(clips: list[Clip]) -> Iterator[Problem]:
    if odd := [c for c in clips if c.named and c.named != c.label]:
        text = (
            f"{_count(len(odd), 'clip')} whose string `emotion` is not what the file name says "
            f"({odd[0].path}: {odd[0].label}); the string is believed"
        )
        yield Problem("label-disagrees", fatal=False, text=text, paths=tuple(c.path for c in odd))
    if nameless := [c.path for c in clips if c.speaker is None]:
        text = f"{_count(len(nameless), 'clip')} of unknown speaker: they can be divided by clip only"
        yield Problem("no-speaker", fatal=False, text=text, paths=tuple(nameless))
    keys = sorted({c.key for c in clips if c.key})
    if len(keys) > 1:
        text = f"features under different keys ({', '.join(keys)}): are they of the same extractor?"
        yield Problem("mixed-keys", fatal=False, text=text)
    if not any(c.synthetic for c in clips) and _alike(clips) < LEAST_ALIKE:
        text = (
            "the features of different clips have nothing in common: were they all made by one extractor, "
            "and a trained one?"
        )
        yield Problem("unrelated", fatal=False, text=text)
    (most, n_most), *_, (least, n_least) = Counter(c.label for c in clips).most_common() * 2
    if n_most > IMBALANCE * n_least:
        text = f"{n_most} clips of {most} and {n_least} of {least}: expect little of {least}"
        yield Problem("imbalance", fatal=False, text=text)


def _alike(clips: list[Clip]) -> float:
    """The median correlation of clips' outlines; 1 where they are too few or too flat to tell.

    Made by one extractor they are alike (0.87 to 0.98 with log-mel spectra and with a speech encoder); made
    by networks with random weights, new for each file, they are not (0.01 at most, of the same speech).
    """
    chosen = clips[:: -(-len(clips) // COMPARED)]
    rows = [np.frombuffer(bytes.fromhex(c.outline), "<f2").astype(np.float64) for c in chosen]
    rows = [row for row in rows if len(row) >= LEAST_GROUPS and row.std() > FLAT]
    if len(rows) < LEAST_COMPARED:
        return 1.0
    longest = max(map(len, rows))
    table = np.atleast_2d(np.corrcoef([row for row in rows if len(row) == longest]))
    pairs = table[np.triu_indices(len(table), 1)]
    return float(np.median(pairs)) if len(pairs) else 1.0


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" + ("" if n == 1 else "s")
