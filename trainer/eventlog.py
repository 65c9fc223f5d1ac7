"""Append events to a run's `events.jsonl`: one writer, one line one write, never rewritten."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from trainer.contract import AnyEvent, encode


class EventLog:
    """The open file. A torn last line, of a killed attempt or a full disk, is ended first (rule 7)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        size = os.fstat(self._fd).st_size
        if size and os.pread(self._fd, 1, size - 1) != b"\n":
            os.write(self._fd, b"\n")
        self._torn = False

    def append(self, event: AnyEvent) -> None:
        """Write the line with one call, so that a reader sees all of it or a prefix of it, never a mix.

        Raises OSError when the disk is full; the next line that finds room ends the torn one.
        """
        line = b"\n" * self._torn + encode(event)
        written = os.write(self._fd, line)
        self._torn = written < len(line)
        if self._torn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))

    def close(self) -> None:
        """Close the file; events are already with the kernel."""
        os.close(self._fd)
