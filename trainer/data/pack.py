"""All clips of one content in one file that is mapped into memory, made once and used by every later run.

`packs/FINGERPRINT/` holds `frames.npy`, (sum of lengths, dim) in the precision of the clips, and `index.json`
with the checksum of each clip's rows. What is mapped costs the memory of the pages that are touched, which
the system takes back when it needs them. A pack can be deleted at any time: the next run makes it anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer import clips, contract, folders
from trainer.clips import Clip, DataError, files
from trainer.data.normaliser import Floats

# Goes up whenever the same clips would be packed differently.
VERSION = 1
FRAMES, INDEX = "frames.npy", "index.json"
# Inflating and summing let go of the interpreter, so that threads are enough.
WORKERS = min(8, os.cpu_count() or 1)

Offsets = npt.NDArray[np.intp]


def frames_of(report: clips.Report, packs: Path | None) -> tuple[Floats, Offsets]:
    """(sum of lengths, dim) and where each used clip begins in it, one more number than there are clips.

    From the pack of this content in `packs`, which is made where it is missing or damaged; in memory, where
    `packs` is None or cannot be written. Raises DataError for a clip that changed since it was looked at.
    """
    offsets = np.concatenate([[0], np.cumsum([c.frames for c in report.used])]).astype(np.intp)
    if packs is None:
        return _read_all(report, np.empty(*_form(report, offsets)), offsets), offsets
    folder = packs / f"{report.fingerprint}-{VERSION}"
    found = _mapped(folder, report, offsets)
    if found is None:
        try:
            found = _made(folder, report, offsets)
        except OSError:
            # No room, or no right, to keep it: the clips are there all the same.
            return frames_of(report, None)
    if found is None:
        raise DataError(f"{folder} cannot be read back as it was written: look at the disk, then start again")
    return found, offsets


def _made(folder: Path, report: clips.Report, offsets: Offsets) -> Floats | None:
    """The pack, made here, or by another run while this one waited for its turn."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "lock").open("ab") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if (found := _mapped(folder, report, offsets)) is not None:
            return found
        # Nobody else is writing now: what lies aside is of a run that was killed.
        folders.remove_half_written(folder.parent)
        folders.publish(folder, lambda aside: _write(aside, report, offsets))
    return _mapped(folder, report, offsets)


def _form(report: clips.Report, offsets: Offsets) -> tuple[tuple[int, int], np.dtype[Any]]:
    return (int(offsets[-1]), report.dim), np.result_type(*{np.dtype(c.dtype) for c in report.used})


def _write(folder: Path, report: clips.Report, offsets: Offsets) -> None:
    shape, dtype = _form(report, offsets)
    frames = np.lib.format.open_memmap(folder / FRAMES, mode="w+", dtype=dtype, shape=shape)
    _read_all(report, frames, offsets)
    frames.flush()
    contract.publish(folder / INDEX, json.dumps({"crc32": list(_sums(frames, offsets))}).encode())


def _read_all(report: clips.Report, frames: Floats, offsets: Offsets) -> Floats:
    def read(i: int) -> None:
        frames[offsets[i] : offsets[i + 1]] = _read(report.folder, report.used[i])

    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(read, range(len(report.used))))
    return frames


def _mapped(folder: Path, report: clips.Report, offsets: Offsets) -> Floats | None:
    """The frames; None where there are none, or others than were written."""
    try:
        frames: Floats = np.load(folder / FRAMES, mmap_mode="r", allow_pickle=False)
        sums = json.loads((folder / INDEX).read_bytes())["crc32"]
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
    if (frames.shape, frames.dtype) != _form(report, offsets) or sums != list(_sums(frames, offsets)):
        return None
    return frames


def _sums(frames: Floats, offsets: Offsets) -> Iterator[int]:
    with ThreadPoolExecutor(WORKERS) as pool:
        yield from pool.map(lambda ends: zlib.crc32(frames[ends[0] : ends[1]].data), pairwise(offsets))


def _read(folder: Path, clip: Clip) -> Floats:
    try:
        data = (folder / clip.path).read_bytes()
        if hashlib.sha256(data).hexdigest() != clip.sha256:
            raise DataError(f"{clip.path} changed while it was read; start again")
        return files.parse(data, clip.path).features
    except (OSError, files.NotAClip) as e:
        raise DataError(f"{clip.path} changed while it was read ({e}); start again") from e
