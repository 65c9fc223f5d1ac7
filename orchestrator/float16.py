"""The copy of a data folder in float16, which `--float16` trains on: half the bytes to send and to keep."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from orchestrator.errors import BadRequest
from orchestrator.store import Store
from trainer import contract

if TYPE_CHECKING:
    from trainer.clips import Clip, Report

VERSION = 1  # goes up whenever the same file may become another copy


def is_narrow(report: Report) -> bool:
    """Whether all clips are in float16 as they are."""
    return all(clip.dtype == "float16" for clip in report.used)


def made(report: Report, store: Store) -> Path | None:
    """The folder of the copy where it is whole and of these very clips."""
    place = store.narrowed(report.folder)
    return place if _kept(place, report) == {c.path: c.sha256 for c in report.used} else None


def make(report: Report, store: Store, progress: Callable[[int, int], None]) -> Path:
    """The folder of the copy, under the same relative paths; clips that have not changed are not read again.

    Every file is written aside and renamed, and believed only once it is in the list beside the folder, from
    which it is taken before it changes. Raises BadRequest for a clip that float16 cannot hold.
    """
    place = store.narrowed(report.folder)
    kept = _kept(place, report)
    lacking = [clip for clip in report.used if clip.path not in kept]
    wanted = {clip.path: clip.sha256 for clip in report.used}
    try:
        _clear(place, wanted)
        _note(place, kept)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            try:
                for number, _ in enumerate(pool.map(partial(_copy, report.folder, place), lacking), 1):
                    progress(number, len(lacking))
            finally:
                pool.shutdown(cancel_futures=True)
        _note(place, wanted)
    except OSError as e:
        raise BadRequest(f"the copy in float16 cannot be made in {place} ({e.strerror}): make room") from e
    return place


def bytes_of(clip: Clip) -> int:
    """How large a clip is in float16: to 64 bytes where its file is not compressed, else about."""
    width = {"float16": 2, "float32": 4, "float64": 8}[clip.dtype]
    values = clip.frames * clip.dim
    return clip.bytes * 2 // width if clip.bytes < values * width else clip.bytes - values * (width - 2)


def _copy(folder: Path, place: Path, clip: Clip) -> None:
    # Imported here: numpy, which only this needs.
    from trainer.clips.files import NotAClip
    from trainer.clips.narrow import float16

    parts = PurePosixPath(clip.path).parts
    source = folder.joinpath(*parts)
    try:
        data = source.read_bytes()
    except OSError as e:
        raise BadRequest(f"cannot read {source} ({e.strerror}): repeat the command") from e
    if hashlib.sha256(data).hexdigest() != clip.sha256:
        raise BadRequest(f"{source} changed while it was read: repeat the command")
    try:
        narrow = float16(data, clip.path)
    except NotAClip as e:
        raise BadRequest(f"{source} cannot be float16, {e}: deploy without --float16") from e
    contract.publish(place.joinpath(*parts), narrow)


def _kept(place: Path, report: Report) -> dict[str, str]:
    """The digests of clips, by path, whose copies are there."""
    try:
        body = json.loads(_list(place).read_bytes())
        listed = body["files"] if body["version"] == VERSION else {}
        return {
            c.path: c.sha256
            for c in report.used
            if listed.get(c.path) == c.sha256 and place.joinpath(*PurePosixPath(c.path).parts).is_file()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _note(place: Path, copied: dict[str, str]) -> None:
    contract.publish(_list(place), json.dumps({"version": VERSION, "files": copied}).encode())


def _list(place: Path) -> Path:
    return place.with_name(f"{place.name}.json")


def _clear(place: Path, wanted: dict[str, str]) -> None:
    """Take away what is of no clip any more, and folders that are empty."""
    for path in sorted(place.rglob("*"), reverse=True):
        if path.is_dir():
            with contextlib.suppress(OSError):
                path.rmdir()
        elif path.relative_to(place).as_posix() not in wanted:
            path.unlink(missing_ok=True)
