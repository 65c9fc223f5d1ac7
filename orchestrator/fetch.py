"""Choose, download and verify what a run left: all of one run and one epoch, or nothing.

What to take is read from the manifest, never guessed from names or times. Files come into a folder aside,
from the byte where an earlier try stopped, and are checked against their sha256; when all of them are right
and fit each other, that folder takes its place.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import struct
import tokenize
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
import numpy.typing as npt

from orchestrator.errors import ArtifactsIncomplete
from orchestrator.landing import MANIFEST, Landing, sha256
from orchestrator.run import Run
from orchestrator.shell import READ_LIMIT, Reader
from trainer import contract
from trainer.contract import Artifact, Manifest

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,150}")
NEEDED = {"weights", "labels", "mean", "std", "preprocessing"}
TRIES = 3
# What numpy was seen to raise on damaged files.
UNREADABLE = (
    ValueError,
    EOFError,
    KeyError,
    TypeError,
    SyntaxError,
    RuntimeError,
    MemoryError,
    OverflowError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
)

OnBytes = Callable[[int, int], None]


@dataclass(frozen=True)
class Fetched:
    """What came home; `already` when it was all here."""

    run: str
    epoch: int
    value: float | None
    dir: Path
    files: tuple[Artifact, ...]
    synthetic: bool
    already: bool


class _Replaced(Exception):
    """A newer set took the place of the files while they were fetched."""


class _TooLong(Exception):
    """A file goes on after the end that its manifest gives."""


@dataclass
class _Inlet:
    """Where the bytes of one file come in: counted, and none after the `end` that its manifest gives."""

    file: BinaryIO
    come: int
    end: int
    tell: Callable[[int], None]

    def write(self, data: bytes) -> None:
        self.come += len(data)
        if self.come > self.end:
            raise _TooLong
        self.file.write(data)
        self.tell(self.come)


def fetch(run: Run, source: Reader, which: str, to: Path | None, on_bytes: OnBytes) -> Fetched:
    """Bring home the `best` or the `last` set. Works while training goes on.

    Raises ArtifactsIncomplete, BadRequest when the folder is in the way, ContactLost.
    """
    landing = Landing.at(run.id, to or Path("models") / run.id)
    try:
        with landing.alone():
            for _ in range(TRIES):
                try:
                    return _fetch(run, source, which, landing, on_bytes)
                except _Replaced:
                    continue
    except OSError as e:
        raise ArtifactsIncomplete(
            f"cannot write to {landing.folder} ({e.strerror or e}): what came before is untouched; mend that "
            f"and repeat the command, it goes on where it stopped",
            run=run.id,
        ) from e
    raise ArtifactsIncomplete(
        f"the files of {run.id} were replaced {TRIES} times while they came: repeat the command", run=run.id
    )


def about_best(run: Run, source: Reader) -> dict[str, Any]:
    """What the best model takes and tells apart. Raises ArtifactsIncomplete while there is none."""
    listed = {a.role: a for a in _chosen(run, _manifest(run, source), "best")}
    path = f"{run.folder}/{listed['preprocessing'].path}"
    try:
        return contract.parse_object(_small(source, path), listed["preprocessing"].path)
    except contract.ContractError as e:
        raise ArtifactsIncomplete(f"{e}, of {run.id}: repeat the command", run=run.id) from e


def _fetch(run: Run, source: Reader, which: str, landing: Landing, on_bytes: OnBytes) -> Fetched:
    manifest = _manifest(run, source)
    chosen = _chosen(run, manifest, which)
    already = landing.holds(chosen)
    if not already:
        part = landing.part(chosen)
        _take_all(run, source, chosen, part, on_bytes)
        _check_meaning(run, chosen, part)
        kept = dataclasses.replace(manifest, artifacts=chosen)
        contract.publish(part / MANIFEST, kept.to_json())
        landing.publish(part)
    landing.clear()
    value = manifest.values.get(which)
    return Fetched(run.id, chosen[0].epoch, value, landing.folder, chosen, manifest.synthetic, already)


def _manifest(run: Run, source: Reader) -> Manifest:
    data = _small(source, f"{run.folder}/artifacts/{MANIFEST}")
    if not data:
        raise ArtifactsIncomplete(
            f"{run.id} has nothing to download yet: the first epoch that is validated leaves the first best; "
            f"'ec2emo monitor {run.id}'",
            run=run.id,
        )
    try:
        manifest = Manifest.parse(data)
    except contract.ContractError as e:
        raise ArtifactsIncomplete(f"the manifest of {run.id} is not readable: {e}", run=run.id) from e
    if manifest.run != run.id:
        raise ArtifactsIncomplete(
            f"the manifest of {run.id} is that of {manifest.run!r:.80}; look with 'ec2emo ssh {run.id}'",
            run=run.id,
        )
    return manifest


class _Small:
    """What a small file says; of one that is not, the beginning, which is then found to be wrong."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data
        if len(self.data) > READ_LIMIT:
            raise _TooLong


def _small(source: Reader, path: str) -> bytes:
    """Not with `read`, which keeps a growing file open: such files are replaced. Empty when there is none."""
    into = _Small()
    with contextlib.suppress(FileNotFoundError, _TooLong):
        source.get(path, 0, into)
    return into.data


def _chosen(run: Run, manifest: Manifest, which: str) -> tuple[Artifact, ...]:
    chosen = manifest.of(which)
    if not chosen:
        other = "--best" if which == "last" else "--last"
        raise ArtifactsIncomplete(f"{run.id} has no {which} model: try {other}", run=run.id)
    for wrong in _wrong_with(chosen):
        raise ArtifactsIncomplete(
            f"the manifest of {run.id} {wrong}: nothing was taken; look with 'ec2emo ssh {run.id}'",
            run=run.id,
        )
    return chosen


def _wrong_with(chosen: tuple[Artifact, ...]) -> list[str]:
    """What forbids to believe a list of files."""
    names = {a.name.casefold() for a in chosen}  # not all disks tell a from A
    wrong = []
    if len({a.epoch for a in chosen}) != 1:
        wrong.append("mixes epochs")
    if len(names) != len(chosen) or len({a.role for a in chosen}) != len(chosen):
        wrong.append("names a file twice")
    if lacking := sorted(NEEDED - {a.role for a in chosen}):
        wrong.append(f"lacks {', '.join(lacking)}")
    for artifact in chosen:
        if not NAME.fullmatch(artifact.name) or artifact.name.casefold() == MANIFEST:
            wrong.append(f"has {artifact.name!r:.80} as a name")
        if not all(NAME.fullmatch(part) for part in artifact.path.split("/")):
            wrong.append(f"points at {artifact.path!r:.80}")
        if artifact.bytes < 0:
            wrong.append(f"gives {artifact.name} {artifact.bytes} bytes")
    return wrong


def _take_all(run: Run, source: Reader, chosen: tuple[Artifact, ...], part: Path, on_bytes: OnBytes) -> None:
    total, done = sum(a.bytes for a in chosen), 0
    for artifact in chosen:
        tell = partial(_tell, on_bytes, done, total)
        path = part / artifact.name
        if not _take(run, source, artifact, path, tell) and not _take(run, source, artifact, path, tell):
            _explain_mismatch(run, source, artifact)
        done += artifact.bytes
        on_bytes(done, total)


def _tell(on_bytes: OnBytes, before: int, total: int, come: int) -> None:
    on_bytes(before + come, total)


def _take(run: Run, source: Reader, artifact: Artifact, path: Path, tell: Callable[[int], None]) -> bool:
    """Whether the file is here and right; a wrong one is removed."""
    have = path.stat().st_size if path.exists() else 0
    if have > artifact.bytes:
        path.unlink()
        have = 0
    if have < artifact.bytes or not have:
        with path.open("ab") as file:
            try:
                source.get(f"{run.folder}/{artifact.path}", have, _Inlet(file, have, artifact.bytes, tell))
            except FileNotFoundError:
                _explain_mismatch(run, source, artifact)
            except _TooLong:
                pass  # the digest tells
            file.flush()
            os.fsync(file.fileno())
    if path.stat().st_size == artifact.bytes and sha256(path) == artifact.sha256:
        return True
    path.unlink()
    return False


def _explain_mismatch(run: Run, source: Reader, artifact: Artifact) -> NoReturn:
    """Either the set was replaced by a newer one, which is fine, or what lies there is damaged."""
    now = [a for a in _manifest(run, source).artifacts if a.of == artifact.of and a.role == artifact.role]
    if now == [artifact]:
        raise ArtifactsIncomplete(
            f"{artifact.path} of {run.id} is missing or not what its manifest says (sha256 "
            f"{artifact.sha256[:12]}…): nothing was taken; 'ec2emo ssh {run.id}' to look",
            run=run.id,
        )
    raise _Replaced


def _check_meaning(run: Run, chosen: tuple[Artifact, ...], part: Path) -> None:
    """Labels, mean and std fit each other. No pickle is opened, and no header's word taken for a size."""
    paths = {a.role: part / a.name for a in chosen}
    try:
        labels, mean, std = (_array(paths[role]) for role in ("labels", "mean", "std"))
        about = json.loads(paths["preprocessing"].read_bytes())
        fits = (
            labels.dtype.kind == "U"
            and labels.tolist() == about["classes"]
            and mean.shape == std.shape == (about["dim"],)
            and bool(np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all())
        )
    except (KeyError, ValueError, TypeError, RecursionError) as e:
        raise ArtifactsIncomplete(
            f"what {run.id} left cannot be used ({e}): nothing was taken", run=run.id
        ) from e
    if not fits:
        raise ArtifactsIncomplete(
            f"labels, mean and std of {run.id} do not fit each other: nothing was taken", run=run.id
        )


def _array(path: Path) -> npt.NDArray[Any]:
    """A plain array. Mapped, so that a header which claims terabytes meets the size of the file first."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except UNREADABLE as e:
        raise ValueError(f"{path.name}: {e}") from e
    if not isinstance(found, np.ndarray):
        raise ValueError(f"{path.name} is no single array")
    return found
