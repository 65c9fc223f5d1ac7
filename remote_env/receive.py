"""Keep a run's data by content, so that nothing is sent twice. Standard library only; Python 3.9 or later.

    receive.py need ROOT FINGERPRINT    < {"files": [[path, bytes, sha256], ...]}
    receive.py accept ROOT FINGERPRINT  < a tar stream of the missing files, each named by its sha256

`need` prints {"need": [sha256, ...]}, and makes `ROOT/data/FINGERPRINT/` when nothing is missing. `accept`
checks every file against its name before it gets that name, then makes the folder. Where `need` was not
asked, the stream begins with the listing, as a file of that name. A name that ends in `.zN` is of a packed
file: the bytes of its numbers of N bytes apart, by zlib. Files lie once in `ROOT/objects/`; a data set is a
folder of hard links to them, renamed into place when it is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

CHUNK = 1 << 20
DIGEST = re.compile(r"[0-9a-f]{64}")
PACKED = re.compile(r"(.*)\.z([1248])")
LISTING = "listing"


def main(argv: list[str]) -> int:
    """Do one verb; returns the exit code."""
    verb, root, fingerprint = argv[0], Path(argv[1]), argv[2]
    if not DIGEST.fullmatch(fingerprint):
        raise SystemExit(f"receive.py: {fingerprint!r} is not a fingerprint")
    if verb == "need":
        answer = need(root, fingerprint, json.load(sys.stdin.buffer))
    elif verb == "accept":
        answer = accept(root, fingerprint)
    else:
        raise SystemExit(f"receive.py: unknown verb {verb!r}")
    print(json.dumps(answer))  # noqa: T201 - the answer
    return 0


def need(root: Path, fingerprint: str, listing: dict[str, Any]) -> dict[str, Any]:
    """Which files of the listing this machine lacks."""
    keep_listing(root, fingerprint, json.dumps(listing).encode())
    sizes = {digest: size for _, size, digest in listing["files"]}
    missing = [d for d, size in sizes.items() if not is_there(object_path(root, d), size)]
    if not missing:
        build(root, fingerprint)
    return {"need": missing}


def accept(root: Path, fingerprint: str) -> dict[str, Any]:
    """Take the missing files from standard input, then make the data folder."""
    received = 0
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as stream:
        for member in stream:
            source = stream.extractfile(member) if member.isreg() else None
            packed = PACKED.fullmatch(member.name)
            name = packed[1] if packed else member.name
            if source is None or not (name == LISTING or DIGEST.fullmatch(name)):
                raise SystemExit(f"receive.py: {member.name!r} is not a file named by its sha256")
            pieces = [unpacked(source.read(), int(packed[2]))] if packed else plain(source)
            if name == LISTING:
                keep_listing(root, fingerprint, b"".join(pieces))
            else:
                take(root, name, pieces)
                received += 1
    build(root, fingerprint)
    return {"received": received}


def plain(source: Any) -> Iterator[bytes]:
    """What comes as it is, piece by piece."""
    while piece := source.read(CHUNK):
        yield piece


def unpacked(packed: bytes, width: int) -> bytes:
    """A file as it was: zlib gives the first bytes of all its numbers, then the second ones."""
    try:
        apart = zlib.decompress(packed)
    except zlib.error as e:
        raise SystemExit(f"receive.py: a file arrived damaged: {e}") from e
    whole, begin = bytearray(len(apart)), 0
    for i in range(width):
        end = begin + len(range(i, len(apart), width))
        whole[i::width] = apart[begin:end]
        begin = end
    return bytes(whole)


def take(root: Path, digest: str, pieces: Iterable[bytes]) -> None:
    """Write one file aside, check it, give it its name."""
    path = object_path(root, digest)
    path.parent.mkdir(exist_ok=True)
    seen = hashlib.sha256()
    with whole_or_nothing(path) as aside:
        for piece in pieces:
            seen.update(piece)
            aside.write(piece)
        if seen.hexdigest() != digest:
            raise SystemExit(f"receive.py: a file arrived as {seen.hexdigest()}, not as {digest}")


def keep_listing(root: Path, fingerprint: str, listing: bytes) -> None:
    """Write down what the data set is made of, before any of it comes."""
    (root / "data").mkdir(parents=True, exist_ok=True)
    (root / "objects").mkdir(exist_ok=True)
    with whole_or_nothing(listing_path(root, fingerprint)) as file:
        file.write(listing)


def build(root: Path, fingerprint: str) -> None:
    """The data folder: hard links to the objects, renamed into place whole."""
    target = root / "data" / fingerprint
    if target.is_dir():
        return
    listing = json.loads(listing_path(root, fingerprint).read_bytes())
    aside = Path(tempfile.mkdtemp(dir=root / "data", prefix=f".{fingerprint}."))
    try:
        for name, size, digest in listing["files"]:
            place = aside.joinpath(*safe_parts(name))
            place.parent.mkdir(parents=True, exist_ok=True)
            source = object_path(root, digest)
            if not is_there(source, size):
                raise SystemExit(f"receive.py: {name} did not arrive")
            link(name, source, place)
        aside.chmod(0o755)
        with contextlib.suppress(OSError):  # two deploys of the same data: the first rename wins
            aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    if not target.is_dir():
        raise SystemExit(f"receive.py: {target} could not be made")


def safe_parts(name: str) -> tuple[str, ...]:
    """The parts of a relative path that stays below its folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise SystemExit(f"receive.py: {name!r} is not a path below the data folder")
    return path.parts


def link(name: str, source: Path, place: Path) -> None:
    """A hard link, or a copy where the file system has none. Never over another, which is an object too."""
    try:
        os.link(source, place)
    except FileExistsError as e:
        raise SystemExit(f"receive.py: {name!r} is listed twice") from e
    except OSError:
        shutil.copyfile(source, place)


@contextlib.contextmanager
def whole_or_nothing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write aside, which then gets its name; on any error nothing is left of it."""
    fd, aside = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            yield file
        Path(aside).replace(path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def is_there(path: Path, size: int) -> bool:
    """Whether an object lies there whole; its name was given after its content was checked."""
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def object_path(root: Path, digest: str) -> Path:
    """Where the file with this content lies."""
    return root / "objects" / digest[:2] / digest


def listing_path(root: Path, fingerprint: str) -> Path:
    """Where the listing of a data set waits for its files."""
    return root / "data" / f"{fingerprint}.json"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
