"""What was seen of each file, kept in one JSON file, so that a second look opens only what changed."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from trainer import contract
from trainer.clips.files import Clip
from trainer.clips.tree import Entry, Refused

# Goes up whenever the same file may be judged differently.
VERSION = 3


class Cache:
    """Results by path, size and mtime. A cache that cannot be read, or is of another folder, is empty."""

    def __init__(self, file: Path | None, folder: str, rows: dict[str, Any]) -> None:
        self._file = file
        self._folder = folder
        self._rows = rows
        self._kept: dict[str, Any] = {}
        self._fresh = False

    @classmethod
    def read(cls, file: Path | None, folder: Path) -> Cache:
        """The cache in `file`; an empty one that forgets everything when `file` is None."""
        where = str(folder.resolve())
        if file is None:
            return cls(None, where, {})
        try:
            body = json.loads(file.read_bytes())
            rows = body["files"] if (body["version"], body["folder"]) == (VERSION, where) else {}
            return cls(file, where, dict(rows))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return cls(file, where, {})

    def recall(self, entry: Entry) -> Clip | Refused | None:
        """What was seen of this very file, None when it is new or changed."""
        row: Any = self._rows.get(entry.path)
        try:
            size, mtime_ns, kind, *values = row
            if (size, mtime_ns) != (entry.bytes, entry.mtime_ns):
                return None
            result = Clip(*values) if kind == "clip" else Refused(*values)
        except (TypeError, ValueError):
            return None
        self._kept[entry.path] = row
        return result

    def keep(self, entry: Entry, result: Clip | Refused) -> Clip | Refused:
        """Remember a result, and give it back."""
        kind = "clip" if isinstance(result, Clip) else "refused"
        self._kept[entry.path] = [entry.bytes, entry.mtime_ns, kind, *result]
        self._fresh = True
        return result

    def write(self) -> None:
        """Save what this look has seen. A cache that cannot be written costs the next look its time only."""
        if self._file is None or not (self._fresh or len(self._kept) != len(self._rows)):
            return
        body = {"version": VERSION, "folder": self._folder, "files": self._kept}
        with contextlib.suppress(OSError):
            contract.publish(self._file, json.dumps(body, separators=(",", ":")).encode())
