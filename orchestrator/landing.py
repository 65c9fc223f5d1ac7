"""The folder a download lands in: at any instant the old set of files or the new one, whole.

Beside FOLDER lies `.FOLDER.ec2emo` while a download is under way or was cut short: the part that has come,
and for the instant between two renames the old set. It goes with the download that is whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import BadRequest
from trainer import contract
from trainer.contract import Artifact, Manifest

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Landing:
    """Where the files of one run come to: `folder`, which this module alone replaces."""

    run: str
    folder: Path

    @classmethod
    def at(cls, run: str, named: Path) -> Landing:
        """For a folder as a person names it. Raises BadRequest for the one that is stood in."""
        folder = named.parent.resolve() / named.name
        if named.name in ("", ".."):
            folder = named.resolve()
        if Path.cwd().is_relative_to(folder):
            raise BadRequest(f"{folder} cannot be replaced while you stand in it: name one below it", run=run)
        return cls(run, folder)

    @property
    def _work(self) -> Path:
        return self.folder.parent / f".{self.folder.name}.ec2emo"

    @property
    def _old(self) -> Path:
        return self._work / "old"

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the folder: whole, ours to replace, and of no other ec2emo meanwhile. Raises BadRequest."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        held = self._hold()
        try:
            self._recover()
            self._refuse_foreign()
            yield
        finally:
            with contextlib.suppress(OSError):
                self._work.rmdir()  # unless something is to go on from
            os.close(held)

    def holds(self, artifacts: tuple[Artifact, ...]) -> bool:
        """Whether these files are here already, unchanged."""
        here = self._manifest(self.folder)
        if here is None or here.artifacts != artifacts:
            return False
        paths = [(self.folder / a.name, a.sha256) for a in artifacts]
        return all(p.is_file() and sha256(p) == digest for p, digest in paths)

    def part(self, artifacts: tuple[Artifact, ...]) -> Path:
        """The folder these files gather in, with what an earlier try left of them.

        Raises BadRequest when the disk has no room for the rest: half a download helps nobody.
        """
        folder = self._work / f"{artifacts[0].of}-{artifacts[0].epoch}"
        here = _keep_only(folder, {a.name for a in artifacts}) if folder.exists() else 0
        needed, free = sum(a.bytes for a in artifacts) - here, shutil.disk_usage(self._work).free
        if free < needed:
            raise BadRequest(
                f"{self.folder.parent} has {free / 1e6:.1f} MB free and {needed / 1e6:.1f} MB have to come: "
                f"make room, or name another folder with --to",
                run=self.run,
            )
        folder.mkdir(exist_ok=True)
        return folder

    def publish(self, part: Path) -> None:
        """Put the part in the folder's place."""
        contract.sync_folder(part)
        if self.folder.exists():
            self.folder.rename(self._old)
        part.rename(self.folder)
        contract.sync_folder(self.folder.parent)

    def clear(self) -> None:
        """Once the set is here, what else was gathered, and the old set, are of no use any more."""
        for left in self._work.iterdir():
            shutil.rmtree(left, ignore_errors=True)

    def _hold(self) -> int:
        """Lock the work folder. The kernel forgets who held it when that dies."""
        while True:
            self._work.mkdir(exist_ok=True)
            fd = os.open(self._work, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(fd), self._work.stat()):
                    return fd
            except BlockingIOError as e:
                os.close(fd)
                raise BadRequest(
                    f"another ec2emo is downloading to {self.folder}: wait for it", run=self.run
                ) from e
            except FileNotFoundError:
                pass  # who held it has just removed it
            os.close(fd)

    def _recover(self) -> None:
        """A kill between the two renames of `publish` left the old set aside: put it back."""
        if self._old.exists():
            if not self.folder.exists() and self._manifest(self._old):
                self._old.rename(self.folder)
            else:
                shutil.rmtree(self._old)

    def _refuse_foreign(self) -> None:
        """Only an empty folder, or an earlier download of the same run, may be replaced."""
        folder = self.folder
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise BadRequest(f"{folder} is in the way: name another folder with --to", run=self.run)
        if not folder.exists() or not any(folder.iterdir()):
            return
        here = self._manifest(folder)
        if here is None:
            raise BadRequest(
                f"{folder} holds something other than a download of {self.run}: name another with --to",
                run=self.run,
            )
        ours = {MANIFEST, *(a.name for a in here.artifacts)}
        added = sorted(p.name for p in folder.iterdir() if p.name not in ours and p.name[0] != ".")
        if added:
            raise BadRequest(
                f"{folder} also holds {added[0]!r:.80}, which would be lost: move it away, or name another "
                f"folder with --to",
                run=self.run,
            )

    def _manifest(self, folder: Path) -> Manifest | None:
        """That of an earlier download of this run."""
        try:
            here = Manifest.parse((folder / MANIFEST).read_bytes())
        except (OSError, contract.ContractError):
            return None
        return here if here.run == self.run else None


def sha256(path: Path) -> str:
    """The digest of a file's content."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _keep_only(folder: Path, names: set[str]) -> int:
    """Take away whatever is no plain file of these names; returns how many bytes are left."""
    for stray in folder.iterdir():
        if stray.is_dir() and not stray.is_symlink():
            shutil.rmtree(stray)
        elif stray.name not in names or stray.is_symlink():
            stray.unlink()
    return sum(p.stat().st_size for p in folder.iterdir())
