"""A machine is spoken to through a Shell of four verbs: run, read, get, close. This file has the local one.

The other, over SSH, is `orchestrator.ssh`; one test suite runs over both.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol, Self

READ_LIMIT = 1 << 20
COPY_CHUNK = 1 << 18

Input = bytes | Iterable[bytes]
OnLine = Callable[[str], None]


class Sink(Protocol):
    """What bytes are written to."""

    def write(self, data: bytes, /) -> object:
        """Take them all, or raise."""
        ...


@dataclass(frozen=True)
class Result:
    """How a command ended and what it said."""

    code: int
    out: bytes
    err: bytes

    @property
    def last_error(self) -> str:
        """The last line of stderr that says something."""
        lines = [line.strip() for line in self.err.decode("utf-8", "replace").splitlines() if line.strip()]
        return lines[-1] if lines else f"exit code {self.code}, without a word"


class Reader(Protocol):
    """What following and downloading need: a machine, or what is kept of a run elsewhere.

    Every verb raises ContactLost when there is no answer.
    """

    def read(self, path: str, offset: int, limit: int = READ_LIMIT) -> bytes:
        """Up to `limit` bytes of a growing file from `offset`; empty while there are none, or no file."""
        ...

    def get(self, path: str, offset: int, into: Sink) -> None:
        """Copy a file from `offset` to its end into `into`. Raises FileNotFoundError."""
        ...

    def close(self) -> None:
        """Let go of it; what runs there goes on."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Shell(Reader, Protocol):
    """What ec2emo needs of a machine. Every verb raises ContactLost when the machine does not answer."""

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: Input = b"",
        timeout: float | None = 60.0,
        on_error_line: OnLine | None = None,
    ) -> Result:
        """Run a command with this standard input. `timeout` is in seconds without a sign of life; None
        waits as long as the connection lives. `on_error_line` gets lines of stderr as they come.
        """
        ...


class LocalShell:
    """This machine, by plain subprocesses."""

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: Input = b"",
        timeout: float | None = 60.0,
        on_error_line: OnLine | None = None,
    ) -> Result:
        """See Shell.run; the input is spooled to a file, so that no pipe can block."""
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out:
            for chunk in [stdin] if isinstance(stdin, bytes) else stdin:
                given.write(chunk)
            given.seek(0)
            try:
                # Its own session: Ctrl-C in ec2emo must not reach what ec2emo started.
                process = subprocess.Popen(
                    argv, stdin=given, stdout=out, stderr=subprocess.PIPE, start_new_session=True
                )
            except OSError as e:
                return Result(127, b"", f"{argv[0]}: {e.strerror}".encode())
            assert process.stderr is not None
            killer = threading.Timer(timeout, process.kill) if timeout else None
            if killer:
                killer.start()
            try:
                err = _read_lines(process.stderr, on_error_line)
                code = process.wait()
            finally:
                if killer:
                    killer.cancel()
            out.seek(0)
            return Result(code, out.read(), err)

    def read(self, path: str, offset: int, limit: int = READ_LIMIT) -> bytes:
        """See Shell.read."""
        try:
            with Path(path).open("rb") as f:
                return os.pread(f.fileno(), limit, offset)
        except FileNotFoundError:
            return b""

    def get(self, path: str, offset: int, into: Sink) -> None:
        """See Shell.get."""
        with Path(path).open("rb") as f:
            f.seek(offset)
            while chunk := f.read(COPY_CHUNK):
                into.write(chunk)

    def close(self) -> None:
        """See Shell.close."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _read_lines(stream: IO[bytes], on_line: OnLine | None) -> bytes:
    lines = []
    with contextlib.closing(stream):
        for line in stream:
            lines.append(line)
            if on_line:
                on_line(line.decode("utf-8", "replace").rstrip())
    return b"".join(lines)
