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
from typing import Any

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

Pieces = list[tuple[int, str]]


class Superseded(Exception):
    """The copy belongs to another run, or to a later attempt of this one."""


class Changed(Exception):
    """A file was replaced while it was read: the next look finds the newer one."""


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
        self._seen: dict[tuple[Path, int, int, int], Pieces] = {}
        self._whole: dict[Path, Pieces] = {}

    def sync(self, *, over: bool = False) -> None:
        """Make the copy what the run folder is now. Raises Superseded, Changed, and what boto3 raises."""
        if not self.begun:
            self._take_over()
        files = self._files()
        held = named_in(self.there)
        self._send(files, held)
        body = {"run": self.run_dir.name, "uid": self.uid, "attempt": self.attempt, "over": over}
        body["files"] = {path: [list(piece) for piece in pieces] for path, (_, pieces) in files.items()}
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

    def _send(self, files: dict[str, tuple[Path, Pieces]], held: set[str]) -> None:
        for path, pieces in files.values():
            offset = 0
            for size, digest in pieces:
                if digest not in held:
                    with path.open("rb") as f:
                        data = os.pread(f.fileno(), size, offset)
                    if hashlib.sha256(data).hexdigest() != digest:
                        raise Changed(str(path))
                    self.store.add(digest, data)
                    held.add(digest)
                offset += size

    def _files(self) -> dict[str, tuple[Path, Pieces]]:
        """Every file worth keeping, in pieces. What grows comes first, so that a file is there before the
        event that tells of it; then the manifest, then what it lists.
        """
        root = self.run_dir
        found = {
            name: (root / name, self._growing(root / name)) for name in GROWING if (root / name).exists()
        }
        manifest = root / "artifacts" / "manifest.json"
        listed = {a["path"] for a in guard.load(manifest).get("artifacts", [])}
        plain = [*root.glob("*.json"), *root.glob("attempts/*.json"), manifest]
        plain += [p for of in ("artifacts", "checkpoints") for p in root.glob(f"{of}/[!.]*/*")]
        for path in plain:
            if path.name != "process.json" and path.is_file():
                found[path.relative_to(root).as_posix()] = (path, self._still(path))
        if not listed <= set(found):
            raise Changed("artifacts/manifest.json")
        return found

    def _growing(self, path: Path) -> Pieces:
        """The pieces of a file that is appended to: full ones are hashed once."""
        whole = self._whole.setdefault(path, [])
        with path.open("rb") as f:
            f.seek(GROWING_PIECE * len(whole))
            while len(data := f.read(GROWING_PIECE)) == GROWING_PIECE:
                whole.append((len(data), hashlib.sha256(data).hexdigest()))
        return [*whole, (len(data), hashlib.sha256(data).hexdigest())] if data else list(whole)

    def _still(self, path: Path) -> Pieces:
        """The pieces of a file that is only ever replaced: hashed once for each that takes its place."""
        now = path.stat()
        key = (path, now.st_ino, now.st_size, now.st_mtime_ns)
        if key not in self._seen:
            pieces: Pieces = []
            with path.open("rb") as f:
                while data := f.read(PIECE):
                    pieces.append((len(data), hashlib.sha256(data).hexdigest()))
            self._seen[key] = pieces
        return self._seen[key]


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
