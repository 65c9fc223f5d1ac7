"""Which files of a folder are feature files, and which names are refused before anything is opened."""

from __future__ import annotations

import fnmatch
import os
import re
import stat
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

SUFFIXES = (".npz", ".npy")
SECRET_FILES = ("*.pem", ".env*", "id_*")
SECRET_FOLDERS = (".aws", ".ssh")
_SECRET = re.compile("|".join(fnmatch.translate(pattern) for pattern in SECRET_FILES))


class Entry(NamedTuple):
    """A feature file: its path from the folder (POSIX), where it is, its size in bytes and its mtime."""

    path: str
    file: str
    bytes: int
    mtime_ns: int


class Refused(NamedTuple):
    """A file that is left out: its path, the kind of reason, the reason itself."""

    path: str
    kind: str
    reason: str


def walk(folder: Path) -> tuple[list[Entry], list[Refused]]:
    """All feature files below `folder`, sorted by path, each real file once; and what was refused by name.

    Links are followed, folders at most once, so that a loop of links ends. Raises OSError when `folder`
    cannot be listed.
    """
    entries: list[Entry] = []
    refused: list[Refused] = []
    first: dict[tuple[int, int], str] = {}
    for path, item in sorted(_files(folder, "", {}, refused), key=itemgetter(0)):
        if bad := _bad_name(path):
            refused.append(Refused(printable(path), "bad-name", bad))
            continue
        try:
            seen = item.stat()
        except OSError as e:
            refused.append(Refused(path, "unreadable", f"cannot be opened: {e.strerror}"))
            continue
        if not stat.S_ISREG(seen.st_mode):
            refused.append(Refused(path, "unreadable", "not a regular file"))
        elif (seen.st_dev, seen.st_ino) in first:
            reason = f"the same file as {first[seen.st_dev, seen.st_ino]}, by a link"
            refused.append(Refused(path, "duplicate", reason))
        elif item.is_symlink() and _is_secret(os.path.realpath(item.path)):
            refused.append(Refused(path, "secret", "leads to where secrets are kept"))
        else:
            first[seen.st_dev, seen.st_ino] = path
            entries.append(Entry(path, item.path, seen.st_size, seen.st_mtime_ns))
    return entries, refused


def printable(path: str) -> str:
    """A path as it can be shown and stored: control characters and bytes that are not UTF-8 are escaped."""
    path = "".join(c if c.isprintable() or "\ud800" <= c <= "\udfff" else ascii(c)[1:-1] for c in path)
    return path.encode("utf-8", "backslashreplace").decode()


def _files(
    folder: Path, prefix: str, seen: dict[tuple[int, int], str], refused: list[Refused]
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    status = folder.stat()
    seen[status.st_dev, status.st_ino] = prefix
    with os.scandir(folder) as listing:
        items = sorted(listing, key=lambda item: item.name)
    for item in items:
        path = prefix + item.name
        if _is_folder(item):
            yield from _inside(path, Path(item.path), seen, refused)
        elif _is_secret(path):
            refused.append(Refused(printable(path), "secret", "looks like a secret, never opened or sent"))
        elif item.name.lower().endswith(SUFFIXES):
            yield path, item


def _inside(
    path: str, folder: Path, seen: dict[tuple[int, int], str], refused: list[Refused]
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            where = printable(seen[status.st_dev, status.st_ino]) or "the folder itself"
            refused.append(Refused(printable(path), "duplicate", f"the same folder as {where}, by a link"))
        elif _is_secret(os.path.realpath(folder) if folder.is_symlink() else path):
            refused.append(Refused(printable(path), "secret", "a folder of secrets, never opened or sent"))
        else:
            yield from _files(folder, path + "/", seen, refused)
    except OSError as e:
        refused.append(Refused(printable(path), "unreadable", f"cannot be listed: {e.strerror}"))


def _is_folder(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_dir()
    except OSError:
        return False


def _is_secret(path: str) -> bool:
    *folders, name = path.split("/")
    return any(part in folders or part == name for part in SECRET_FOLDERS) or bool(
        _SECRET.match(name.lower())
    )


def _bad_name(path: str) -> str | None:
    try:
        path.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8: rename it"
    if "\\" in path or not path.isprintable():
        return "its name has a backslash or a control character: rename it"
    return None
