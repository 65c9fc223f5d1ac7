"""Keep a copy of a run in S3 as it trains, or bring one back. Runs in the training environment, with boto3.

    python -P -m remote_env.mirror keep RUN_DIR        until the run is over; then once more, and `mirrored`
    python -P -m remote_env.mirror restore RUN_DIR     make the folder from the copy, unless it is there

ROOT/guard/guard.json, two folders above the runs, says where: bucket, prefix, region. Below PREFIX/RUN/ lie

    objects/SHA256     pieces of files, named by their content: written once, never changed
    index.json         {"run", "uid", "attempt", "at", "over", "files": {path: [[bytes, sha256], ...]}}

The index comes after every object it names, and takes the place of exactly the one before (If-Match): who
reads it sees one moment of the run, whole. An attempt that meets the index of a later one writes no more.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, BinaryIO

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from remote_env import guard

EVERY = 10.0  # seconds between two looks; the log and the last checkpoint are at most so much older
LONGEST_WAIT = 60.0  # seconds between two tries while S3 does not answer
GROWING = ("events.jsonl", "train.log")
GROWING_PIECE = 1 << 20  # bytes; at most so much is sent again when a line is added
PIECE = 32 << 20
TRIES = 5
LOOKS = 20

Pieces = list[tuple[int, str]]
Known = dict[tuple[str, int, int, int], Pieces]  # by name, inode, size and time of change


class Superseded(Exception):
    """The copy belongs to another run, or to a later attempt of this one."""


class Changed(Exception):
    """The run moved on while it was looked at: the next look finds it further."""


def main(argv: list[str]) -> int:
    """Do one verb; returns the exit code."""
    verb, run_dir = argv[0], Path(argv[1])
    where = guard.load(run_dir.parent.parent / "guard" / "guard.json")
    if not where.get("bucket"):
        raise SystemExit("mirror.py: guard.json names no bucket")
    store = Store(where["bucket"], f"{where['prefix']}/{run_dir.name}", where["region"])
    if verb == "keep":
        return keep(run_dir, store)
    if verb == "restore":
        print(json.dumps({"restored": restore(run_dir, store)}))  # noqa: T201 - the answer
        return 0
    raise SystemExit(f"mirror.py: unknown verb {verb!r}")


class Store:
    """The copy of one run in S3."""

    def __init__(self, bucket: str, prefix: str, region: str) -> None:
        self.bucket, self.prefix = bucket, prefix
        config = Config(
            connect_timeout=5, read_timeout=60, retries={"mode": "standard", "total_max_attempts": 4}
        )
        self.client: Any = boto3.client("s3", region_name=region, config=config)

    def index(self) -> tuple[dict[str, Any] | None, str | None]:
        """What lies there now, and its ETag; None twice for nothing."""
        try:
            got = self.client.get_object(Bucket=self.bucket, Key=f"{self.prefix}/index.json")
        except self.client.exceptions.NoSuchKey:
            return None, None
        return json.loads(got["Body"].read()), got["ETag"]

    def swap(self, body: dict[str, Any], etag: str | None) -> str | None:
        """Put the index in the place of the one with this ETag; the new ETag, None when that is not it."""
        condition = {"IfMatch": etag} if etag else {"IfNoneMatch": "*"}
        data = json.dumps(body, sort_keys=True).encode()
        try:
            key = f"{self.prefix}/index.json"
            return str(self.client.put_object(Bucket=self.bucket, Key=key, Body=data, **condition)["ETag"])
        except ClientError as e:
            if code(e) in ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"):
                return None
            raise

    def add(self, digest: str, data: bytes) -> None:
        """Put a piece there; one of that name is the same piece."""
        key = f"{self.prefix}/objects/{digest}"
        try:
            self.client.put_object(
                Bucket=self.bucket, Key=key, Body=data, IfNoneMatch="*", ChecksumAlgorithm="SHA256"
            )
        except ClientError as e:
            if code(e) != "PreconditionFailed":
                raise

    def get(self, digest: str) -> bytes:
        """A piece, checked against its name."""
        got = self.client.get_object(Bucket=self.bucket, Key=f"{self.prefix}/objects/{digest}")
        data: bytes = got["Body"].read()
        if hashlib.sha256(data).hexdigest() != digest:
            raise SystemExit(f"mirror.py: {self.prefix}/objects/{digest} is not what its name says")
        return data

    def objects(self) -> set[str]:
        """All pieces that lie there."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=f"{self.prefix}/objects/"
        )
        return {found["Key"].rpartition("/")[2] for page in pages for found in page.get("Contents", [])}

    def drop(self, digests: set[str]) -> None:
        """Take away pieces that no index names any more."""
        for digest in digests:
            self.client.delete_object(Bucket=self.bucket, Key=f"{self.prefix}/objects/{digest}")


class Mirror:
    """One attempt's copying: what is there already, and what the files were at the last look."""

    def __init__(self, run_dir: Path, store: Store) -> None:
        self.run_dir, self.store = run_dir, store
        self.uid = str(guard.load(run_dir / "spec.json").get("uid", ""))
        self.attempt = latest_attempt(run_dir)
        self.etag: str | None = None
        self.there: dict[str, Any] | None = None
        self.begun = False
        self._known: Known = {}
        self._whole: dict[str, Pieces] = {}

    def sync(self, *, over: bool = False) -> None:
        """Make the copy what the run folder is now. Raises Superseded, Changed, and what boto3 raises."""
        if not self.begun:
            self._take_over()
        held = named_in(self.there)
        with contextlib.ExitStack() as stack:
            files = self._hold(stack)
            known, self._known = self._known, {}
            pieces = {name: self._pieces(name, file, known) for name, file in files.items()}
            for name, file in files.items():
                self._send(name, file, pieces[name], held)
        body = {"run": self.run_dir.name, "uid": self.uid, "attempt": self.attempt, "over": over}
        body["files"] = {name: [list(piece) for piece in of] for name, of in pieces.items()}
        if self.there is None or any(self.there.get(name) != value for name, value in body.items()):
            self._point(body)
        if not self.begun:
            held |= self.store.objects()
            self.begun = True
        self.store.drop(held - named_in(self.there))

    def _take_over(self) -> None:
        self.there, self.etag = self.store.index()
        if self.there is None:
            return
        if self.there["uid"] != self.uid:
            raise Superseded(f"{self.store.prefix} holds another run of that name")
        if self.there["attempt"] > self.attempt:
            raise Superseded(f"attempt {self.there['attempt']} goes on with this run elsewhere")

    def _point(self, body: dict[str, Any]) -> None:
        for _ in range(TRIES):
            aimed = {**body, "at": time.time()}
            if etag := self.store.swap(aimed, self.etag):
                self.there, self.etag = aimed, etag
                return
            self._take_over()  # somebody was faster; or we were, and the answer got lost
        raise Changed(f"{self.store.prefix}/index.json changes all the time")

    def _send(self, name: str, file: BinaryIO, pieces: Pieces, held: set[str]) -> None:
        offset = 0
        for size, digest in pieces:
            if digest not in held:
                data = os.pread(file.fileno(), size, offset)
                if hashlib.sha256(data).hexdigest() != digest:
                    raise Changed(name)
                self.store.add(digest, data)
                held.add(digest)
            offset += size

    def _hold(self, stack: contextlib.ExitStack) -> dict[str, BinaryIO]:
        """Every file worth keeping, open, all of one moment: no event was written while they were opened.

        What the trainer prunes from here on can still be read, so that a copy which takes longer than an
        epoch comes to its end, too.
        """
        for _ in range(LOOKS):
            with contextlib.ExitStack() as opened, contextlib.suppress(FileNotFoundError):
                before = size_of(self.run_dir / "events.jsonl")
                files = self._open(opened)
                if size_of(self.run_dir / "events.jsonl") == before:
                    stack.enter_context(opened.pop_all())
                    return files
        raise Changed(str(self.run_dir))

    def _open(self, stack: contextlib.ExitStack) -> dict[str, BinaryIO]:
        """The manifest is opened before what it lists. Raises FileNotFoundError when some of that is gone."""
        root = self.run_dir
        manifest = root / "artifacts" / "manifest.json"
        plain = [root / name for name in GROWING if (root / name).exists()]
        plain += [*root.glob("*.json"), *root.glob("attempts/*.json")]
        plain += [manifest] if manifest.exists() else []
        files: dict[str, BinaryIO] = {}
        for path in plain:
            if path.name != "process.json":
                files[path.relative_to(root).as_posix()] = stack.enter_context(path.open("rb"))
        for path in [p for of in ("artifacts", "checkpoints") for p in root.glob(f"{of}/[!.]*/*")]:
            files[path.relative_to(root).as_posix()] = stack.enter_context(path.open("rb"))
        if held := files.get("artifacts/manifest.json"):
            for listed in json.load(held)["artifacts"]:
                if listed["path"] not in files:
                    raise FileNotFoundError(listed["path"])
        return files

    def _pieces(self, name: str, file: BinaryIO, known: Known) -> Pieces:
        """What a file consists of. Nothing is hashed twice: not the full pieces of one that is appended to,
        and of one that is only ever replaced nothing until another takes its place.
        """
        now = os.fstat(file.fileno())
        if name in GROWING:
            whole = self._whole.setdefault(name, [])
            pieces = pieces_of(file, GROWING_PIECE, GROWING_PIECE * len(whole), now.st_size)
            whole += [piece for piece in pieces if piece[0] == GROWING_PIECE]
            return [*whole, *[piece for piece in pieces if piece[0] < GROWING_PIECE]]
        key = (name, now.st_ino, now.st_size, now.st_mtime_ns)
        self._known[key] = known.get(key) or pieces_of(file, PIECE, 0, now.st_size)
        return self._known[key]


def pieces_of(file: BinaryIO, each: int, start: int, end: int) -> Pieces:
    """The bytes from `start` to `end`, in pieces of `each`, as they are now."""
    pieces: Pieces = []
    for offset in range(start, end, each):
        data = os.pread(file.fileno(), min(each, end - offset), offset)
        pieces.append((len(data), hashlib.sha256(data).hexdigest()))
    return pieces


def size_of(path: Path) -> int:
    """In bytes; 0 for a file that is not there."""
    return path.stat().st_size if path.exists() else 0


def keep(run_dir: Path, store: Store) -> int:
    """Copy until the run is over and all of it is there; then say so in `mirrored`, for the guard."""
    parent, wait = os.getppid(), EVERY
    mirror = Mirror(run_dir, store)
    while True:
        over = is_over(run_dir, mirror.attempt, orphan=os.getppid() != parent)
        try:
            mirror.sync(over=over)
            wait = EVERY
            if over:
                (run_dir / "mirrored").write_text(f"{mirror.attempt}\n")
                return 0
        except (Changed, FileNotFoundError):
            wait = 0.2
        except Superseded as e:
            say(f"no more copies: {e}")
            return 3
        except (ClientError, BotoCoreError, OSError) as e:
            wait = min(2 * max(wait, 1.0), LONGEST_WAIT)
            say(f"{type(e).__name__}: {e}; another try in {wait:.0f} s")
        pause(run_dir, mirror.attempt, wait, over=over)


def pause(run_dir: Path, attempt: int, seconds: float, *, over: bool) -> None:
    """Wait, but not beyond the end of the run, whose last word may have a minute to get away."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and (over or not has_ended(run_dir, attempt)):
        time.sleep(0.1)


def is_over(run_dir: Path, attempt: int, *, orphan: bool) -> bool:
    """Whether nothing more will be written. Without its supervisor, a run leaves no exit record."""
    return has_ended(run_dir, attempt) or (orphan and not guard.look(run_dir, mirrored=True).alive)


def has_ended(run_dir: Path, attempt: int) -> bool:
    """Whether the exit record of this attempt is there."""
    return bool(guard.load(run_dir / "exit.json").get("attempt") == attempt)


def restore(run_dir: Path, store: Store) -> int | None:
    """Make the run folder from the copy, whole or not at all; how many files it has, 0 when there is no copy.

    None when the folder is there.
    """
    if (run_dir / "spec.json").exists():
        return None
    index, _ = store.index()
    if index is None:
        return 0
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=run_dir.parent, prefix=f".{run_dir.name}."))
    try:
        for name, pieces in index["files"].items():
            path = aside / name
            if not path.resolve().is_relative_to(aside.resolve()):
                raise SystemExit(f"mirror.py: {name!r} is not a path below the run's folder")
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as f:
                for _, digest in pieces:
                    f.write(store.get(digest))
        aside.chmod(0o755)
        aside.rename(run_dir)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return len(index["files"])


def latest_attempt(run_dir: Path) -> int:
    """The number of the attempt that runs, or ran last."""
    return max([int(p.stem) for p in (run_dir / "attempts").glob("*.json") if p.stem.isdigit()] or [0])


def named_in(index: dict[str, Any] | None) -> set[str]:
    """The pieces an index names."""
    return {digest for pieces in (index or {}).get("files", {}).values() for _, digest in pieces}


def code(error: ClientError) -> str:
    """What S3 calls an error."""
    return str(error.response.get("Error", {}).get("Code"))


def say(sentence: str) -> None:
    """For the log."""
    print(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), sentence, flush=True)  # noqa: T201


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main(sys.argv[1:]))
