"""A machine is spoken to through a Shell: run, read, get, serve, close. This file has the local one.

The other, over SSH, is `orchestrator.ssh`; one test suite runs over both.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol, Self

READ_LIMIT = 1 << 20
COPY_CHUNK = 1 << 18
GRACE = 3  # seconds that a server has to end by itself

Input = bytes | Iterable[bytes]
PortIn = Callable[[str], int | None]
OnLine = Callable[[str], None]


class ServerEnded(Exception):
    """A server ended before it listened; what it said last."""


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

    def serve(self, argv: Sequence[str], port_in: PortIn, port: int = 0) -> AbstractContextManager[int]:
        """Run a server there for as long as the block lasts, and lead a port of this machine's loopback to
        the one it listens on, which `port_in` finds in its lines. Answers the port here, `port` where that
        is not 0. Raises ServerEnded when it ends before it listens.
        """
        ...

    def close(self) -> None:
        """Let go of the machine; what runs there goes on."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


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

    @contextlib.contextmanager
    def serve(self, argv: Sequence[str], port_in: PortIn, port: int = 0) -> Iterator[int]:
        """See Shell.serve; `port` is the server's own here, which its command line says."""
        process = subprocess.Popen(
            watched(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert process.stdin is not None and process.stdout is not None
        try:
            try:
                found = listening(iter(process.stdout.readline, b""), port_in)
            except BaseException:
                process.stdout.close()
                raise
            # Read to its end, and not closed before: a server may fail at its last words, and so go on.
            threading.Thread(target=_read_lines, args=(process.stdout, None), daemon=True).start()
            yield found
        finally:
            process.stdin.close()
            process.wait()

    def close(self) -> None:
        """See Shell.close."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def listening(lines: Iterable[bytes], port_in: PortIn) -> int:
    """The port that a server names in one of its lines. Raises ServerEnded when there are no more."""
    last = ""
    for line in lines:
        text = line.decode("utf-8", "replace").strip()
        port = port_in(text)
        if port is not None:
            return port
        last = text or last
    raise ServerEnded(last or "it said nothing")


def watched(argv: Sequence[str]) -> list[str]:
    """A command that ends with its standard input: with the line, the client, or the block that began it.
    It is asked to, and ended `GRACE` seconds later where it has not.
    """
    ends = f"(cat; kill $pid; sleep {GRACE}; kill -9 $pid)"
    script = (
        f'exec 3<&0; "$@" </dev/null & pid=$!; {ends} <&3 >/dev/null 2>&1 & watcher=$!; '
        "wait $pid; code=$?; kill $watcher 2>/dev/null; exit $code"
    )
    return ["sh", "-c", script, "serve", *argv]


def _read_lines(stream: IO[bytes], on_line: OnLine | None) -> bytes:
    lines = []
    with contextlib.closing(stream):
        for line in stream:
            lines.append(line)
            if on_line:
                on_line(line.decode("utf-8", "replace").rstrip())
    return b"".join(lines)
