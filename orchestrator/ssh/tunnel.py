"""A port of the loopback here that leads to one of the loopback there, over a connection that is open."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import paramiko

LOOPBACK = "127.0.0.1"
PIECE = 1 << 16
PATIENCE = 15.0  # seconds for the other side to open a channel
_BROKEN = (OSError, EOFError, paramiko.SSHException)


@contextlib.contextmanager
def tunnel(transport: Any, there: int, here: int = 0) -> Iterator[int]:
    """For as long as the block lasts; answers the port here, any free one for 0. Raises OSError for a port
    that is taken.
    """
    listener = socket.create_server((LOOPBACK, here))
    open_: set[Any] = set()
    accepting = threading.Thread(target=_accept, args=(listener, transport, there, open_), daemon=True)
    accepting.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # wakes who accepts, which closing does not
        listener.close()
        accepting.join()
        for end in list(open_):
            _close(end)


def _accept(listener: socket.socket, transport: Any, there: int, open_: set[Any]) -> None:
    while True:
        try:
            visitor, address = listener.accept()
        except OSError:
            return
        threading.Thread(target=_lead, args=(visitor, address, transport, there, open_), daemon=True).start()


def _lead(visitor: socket.socket, address: Any, transport: Any, there: int, open_: set[Any]) -> None:
    """One connection, until either side closes it."""
    open_.add(visitor)
    try:
        channel = transport.open_channel("direct-tcpip", (LOOPBACK, there), address, timeout=PATIENCE)
    except _BROKEN:
        _close(visitor)
        open_.discard(visitor)
        return
    open_.add(channel)
    back = threading.Thread(target=_carry, args=(channel, visitor), daemon=True)
    back.start()
    _carry(visitor, channel)
    back.join()
    for end in (visitor, channel):
        _close(end)
        open_.discard(end)


def _carry(source: Any, sink: Any) -> None:
    """One way; then the other side is told that no more will come."""
    with contextlib.suppress(*_BROKEN):
        while piece := source.recv(PIECE):
            sink.sendall(piece)
    with contextlib.suppress(*_BROKEN):
        sink.shutdown(socket.SHUT_WR)


def _close(end: Any) -> None:
    with contextlib.suppress(*_BROKEN):
        end.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(*_BROKEN):
        end.close()
