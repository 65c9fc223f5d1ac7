"""A Shell over one long-lived SSH connection: commands and files are channels of it.

This folder is the one place that imports fabric and paramiko; `way` opens the connection.
"""

from __future__ import annotations

import contextlib
import shlex
import threading
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import paramiko

from orchestrator.errors import ContactLost
from orchestrator.machine import Machine
from orchestrator.shell import READ_LIMIT, Input, OnLine, PortIn, Result, Sink, listening, watched
from orchestrator.ssh.tunnel import tunnel
from orchestrator.ssh.way import CONNECT_TIMEOUT, close, connect, words

KEEPALIVE_SECONDS = 15
SFTP_PIECE = 32_768  # what one SFTP reply carries
SFTP_PATIENCE = 10.0  # seconds; an answer takes a round trip
SAME_FILE_SECONDS = 1.0  # between two looks at whether a file that has nothing new is still the one there


class SSHShell:
    """One machine over SSH; see orchestrator.shell.Shell for what the verbs promise."""

    def __init__(self, machine: Machine, patience: float = CONNECT_TIMEOUT) -> None:
        self._name = machine.name
        self._way = connect(machine, patience)
        self._transport: Any = self._way[-1].connection.transport
        self._transport.set_keepalive(KEEPALIVE_SECONDS)
        self._sftp: Any = None
        self._open_files: dict[str, Any] = {}
        self._heads: dict[str, tuple[tuple[int, int, int, int], bytes]] = {}  # answers, by what was asked
        self._looked: dict[str, float] = {}

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: Input = b"",
        timeout: float | None = 60.0,
        on_error_line: OnLine | None = None,
    ) -> Result:
        """See Shell.run."""
        out, err = bytearray(), bytearray()
        shown = 0
        with self._channel(argv) as channel:
            for piece, is_error in self._pump(channel, stdin, timeout):
                (err if is_error else out).extend(piece)
                if is_error and on_error_line:
                    *whole, _ = bytes(err[shown:]).split(b"\n")
                    for line in whole:
                        on_error_line(line.decode("utf-8", "replace").rstrip())
                        shown += len(line) + 1
            return Result(self._exit_code(channel), bytes(out), bytes(err))

    def read(self, path: str, offset: int, limit: int = READ_LIMIT) -> bytes:
        """See Shell.read. The file stays open between calls: one round trip when it has not changed."""
        with self._contact():
            try:
                head = self._head(path, offset, min(limit, SFTP_PIECE))
            except FileNotFoundError:
                self._open_files.pop(path, None)
                return b""
        if len(head) < SFTP_PIECE or limit <= SFTP_PIECE:
            return head
        # Far behind: one stream carries all of it, where SFTP would ask for it piece by piece. It opens the
        # file anew, so that its beginning tells whether it is still the same one.
        script = 'tail -c "+$1" "$2" | head -c "$3"'
        stream = bytearray()
        argv = ["sh", "-c", script, "read", str(offset + 1), path, str(limit)]
        with contextlib.suppress(ContactLost), self._channel(argv) as channel:
            for piece, is_error in self._pump(channel, b"", SFTP_PATIENCE):
                stream.extend(b"" if is_error else piece)  # what came before a cut has come
        return bytes(stream) if stream.startswith(head) else head

    def get(self, path: str, offset: int, into: Sink) -> None:
        """See Shell.get."""
        with self._channel(["tail", "-c", f"+{offset + 1}", path]) as channel:
            for piece, is_error in self._pump(channel, b"", 60.0):
                if not is_error:
                    into.write(piece)
            if self._exit_code(channel) != 0:
                raise FileNotFoundError(path)

    @contextlib.contextmanager
    def serve(self, argv: Sequence[str], port_in: PortIn, port: int = 0) -> Iterator[int]:
        """See Shell.serve. Loopback on both ends; every connection is a channel of the one there is."""
        with self._channel(watched(argv)) as channel:
            channel.set_combine_stderr(True)
            with self._contact():
                there = listening(iter(channel.makefile("rb").readline, b""), port_in)
            with tunnel(self._transport, there, port) as here:
                yield here

    def close(self) -> None:
        """See Shell.close."""
        self._open_files.clear()
        close(self._way)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _head(self, path: str, offset: int, limit: int) -> bytes:
        """What one SFTP reply carries. Of a file as big and as old as when the same was asked before, that
        answer. No more is asked for than there is: paramiko would ask again, to be told that this is the end.
        """
        file = self._open_files.get(path) or self._open(path)
        there = file.stat()
        asked, head = self._heads.get(path, (None, b""))
        asks = (offset, limit, there.st_size, there.st_mtime)
        if asks == asked or there.st_size <= offset:
            if not self._replaced(path, there.st_size):
                return head if asks == asked else b""
            file = self._open(path)
            there = file.stat()
            asks = (offset, limit, there.st_size, there.st_mtime)
        file.seek(offset)
        self._heads[path] = asks, file.read(min(limit, max(0, there.st_size - offset)))
        return self._heads[path][1]

    def _replaced(self, path: str, size: int) -> bool:
        """Whether something else lies there than the file of that size that is open, and has been read.

        SFTP tells no inode: a size that differs is reason enough to open the file again, which costs little.
        """
        now = time.monotonic()
        if now - self._looked.get(path, 0.0) < SAME_FILE_SECONDS:
            return False
        self._looked[path] = now
        there = self._sftp.stat(path).st_size
        return bool(there and there != size)

    def _open(self, path: str) -> Any:
        if self._sftp is None:
            self._sftp = self._transport.open_sftp_client()
            self._sftp.get_channel().settimeout(SFTP_PATIENCE)
        self._open_files[path] = self._sftp.open(path, "rb")
        return self._open_files[path]

    @contextlib.contextmanager
    def _channel(self, argv: Sequence[str]) -> Iterator[Any]:
        with self._contact():
            channel = self._transport.open_session()
            channel.exec_command(shlex.join(argv))
        try:
            yield channel
        finally:
            with contextlib.suppress(OSError, EOFError, paramiko.SSHException):  # the line may be dead
                channel.close()

    def _pump(self, channel: Any, given: Input, timeout: float | None) -> Iterator[tuple[bytes, bool]]:
        """Feed a command and yield what it says, True for stderr, until both its streams have ended."""
        pieces = iter([given] if isinstance(given, bytes) else given)
        pending = memoryview(b"")
        feeding = True
        arrival = _Arrival(channel)
        quiet_since = time.monotonic()
        with self._contact():
            while True:
                # Asked before reading: what came before the end is then read after it was seen.
                arrival.expect()
                over = channel.closed or (channel.eof_received and channel.exit_status_ready())
                moved = False
                if feeding and channel.send_ready():
                    pending = pending or memoryview(next(pieces, b""))
                    sent = _send(channel, pending)
                    pending, feeding, moved = pending[sent:], sent > 0, True
                    if not feeding:
                        channel.shutdown_write()
                while channel.recv_stderr_ready():
                    yield channel.recv_stderr(1 << 16), True
                    moved = True
                while channel.recv_ready():
                    yield channel.recv(1 << 18), False
                    moved = True
                if moved:
                    quiet_since = time.monotonic()
                elif over:
                    return
                elif timeout is not None and time.monotonic() - quiet_since > timeout:
                    raise TimeoutError(f"no sign for {timeout:.0f} s")
                else:
                    arrival.wait(0.01 if feeding else 0.25)

    def _exit_code(self, channel: Any) -> int:
        with self._contact():
            code: int = channel.recv_exit_status()
            if code == -1:
                raise EOFError("the command ended without an exit code")
            return code

    @contextlib.contextmanager
    def _contact(self) -> Iterator[None]:
        """Whatever breaks below means one thing above: the machine does not answer."""
        try:
            yield
        except FileNotFoundError:
            raise
        except (OSError, EOFError, paramiko.SSHException) as e:
            raise ContactLost(
                f"lost contact with {self._name} ({words(e)}); what runs there goes on: repeat the command "
                f"to look again"
            ) from e


class _Arrival:
    """Wakes when a channel has something to read, or has ended.

    In place of `select`, for which paramiko makes a pipe and, when a channel is closed in full flow, writes
    to it after closing it: the whole connection ends with "Bad file descriptor".
    """

    def __init__(self, channel: Any) -> None:
        self._event = threading.Event()
        channel.in_buffer.set_event(self)
        channel.in_stderr_buffer.set_event(self)

    def set(self) -> None:
        """By paramiko, when a buffer was fed or closed."""
        self._event.set()

    def clear(self) -> None:
        """By paramiko, when one buffer was emptied: the other may not be."""

    def expect(self) -> None:
        """Wake for what comes from now on."""
        self._event.clear()

    def wait(self, seconds: float) -> None:
        """Until something has come since `expect`, or the time is up."""
        self._event.wait(seconds)


def _send(channel: Any, piece: memoryview) -> int:
    """Bytes taken; 0 when there is no more to send, or when the command has stopped listening: what it
    says and its exit code then tell why.
    """
    if not piece:
        return 0
    try:
        sent: int = channel.send(piece[: 1 << 16])
    except OSError:
        return 0
    return sent
