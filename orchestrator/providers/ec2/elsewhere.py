"""What is kept of a run in S3 (see remote_env/mirror.py), read as if it were the machine.

The index names every file's pieces by their content; it is read anew when a piece it names is gone, which
means that a newer one has taken its place.
"""

from __future__ import annotations

import bisect
import itertools
import json
from types import TracebackType
from typing import Any, Self

from orchestrator.errors import ContactLost, Ec2emoError
from orchestrator.progress import Status
from orchestrator.providers.ec2.api import Aws
from orchestrator.shell import READ_LIMIT, Sink

MISSING = ("NoSuchKey", "404")
TRIES = 3


class Replica:
    """A Reader of one run. `folder` is the run's folder on its machine, which paths begin with."""

    def __init__(self, aws: Aws, store: str, run: str, folder: str) -> None:
        self._aws = aws
        self._bucket, _, prefix = store.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix}/{run}"
        self._run, self._folder = run, f"{folder}/"
        self._known: dict[str, Any] | None = None

    def status(self) -> Status:
        """What the copy says of the process: of one whose machine is gone, the last word."""
        index = self._refreshed()
        end = json.loads(self._whole("exit.json") or b"null")
        if not isinstance(end, dict) or end.get("attempt") != index["attempt"]:
            end = None
        return Status(
            alive=not index["over"], attempt=int(index["attempt"]), now=float(index["at"]), exit=end
        )

    def read(self, path: str, offset: int, limit: int = READ_LIMIT) -> bytes:
        """See Reader.read; a piece at most."""
        for _ in range(TRIES):
            pieces = self._index()["files"].get(path.removeprefix(self._folder), [])
            ends = list(itertools.accumulate(size for size, _ in pieces))
            number = bisect.bisect_right(ends, offset)
            if number == len(pieces):
                return b""
            data = self._piece(pieces[number][1], offset - (ends[number] - pieces[number][0]))
            if data is not None:
                return data[:limit]
            self._refreshed()
        raise self._unreadable(path)

    def get(self, path: str, offset: int, into: Sink) -> None:
        """See Reader.get."""
        name = path.removeprefix(self._folder)
        if name not in self._refreshed()["files"]:
            raise FileNotFoundError(path)
        while data := self.read(path, offset, limit=1 << 62):
            into.write(data)
            offset += len(data)

    def close(self) -> None:
        """See Reader.close."""

    def _index(self) -> dict[str, Any]:
        return self._known if self._known is not None else self._refreshed()

    def _refreshed(self) -> dict[str, Any]:
        try:
            self._known = json.loads(self._aws.object(self._bucket, f"{self._prefix}/index.json"))
        except Ec2emoError as e:
            why = "nothing of it is there" if e.code in MISSING else str(e)
            raise ContactLost(f"the copy of {self._run} in S3 cannot be read: {why}", run=self._run) from e
        assert self._known is not None
        return self._known

    def _whole(self, name: str) -> bytes:
        return self.read(self._folder + name, 0, limit=1 << 62)

    def _piece(self, digest: str, first: int) -> bytes | None:
        """A piece from its byte `first` on; None when it is not there any more."""
        try:
            return self._aws.object(self._bucket, f"{self._prefix}/objects/{digest}", first)
        except Ec2emoError as e:
            if e.code in MISSING:
                return None
            raise ContactLost(f"the copy of {self._run} in S3 cannot be read: {e}", run=self._run) from e

    def _unreadable(self, path: str) -> ContactLost:
        return ContactLost(f"{path} is replaced in S3 faster than it can be read", run=self._run)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
