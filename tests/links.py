"""A TCP link on this machine that a test may cut, stall, slow down and take away."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from math import isinf
from typing import Any

PIECE = 1 << 14
UNDER_WAY = 64  # pieces that a line with a rate holds: a router's queue of a megabyte


class Link:
    """Leads from `port` to another port, on loopback; `delay` is in seconds, each way.

    With `rate`, in bytes a second, no direction carries more, over all connections together.
    With `budgets`, each connection is cut, wherever it is then, when it has carried as many bytes as that
    answers for it.
    """

    def __init__(self, to: int, *, delay: float = 0.0, rate: float = float("inf"), port: int = 0) -> None:
        self.port = port
        self.delay = delay
        self.rate = rate
        self.budgets: Callable[[], float] = lambda: float("inf")
        self.opened = self.cuts = self.carried = 0
        self._to = to
        self._open: set[asyncio.WriteTransport] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy = {"to": 0.0, "from": 0.0}  # until when the line is taken, each way
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.up()

    def up(self) -> None:
        """Take connections."""
        self._do(self._listen())

    def down(self) -> None:
        """Take no more, and cut those there are."""
        self._do(self._unlisten())
        self.cut()

    def cut(self) -> None:
        """Cut all connections."""
        self._do(self._cut())

    def stall(self) -> None:
        """Let nothing pass, and say nothing of it."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def flow(self) -> None:
        """Let everything pass again, what has waited first."""
        self._loop.call_soon_threadsafe(self._flowing.set)

    def close(self) -> None:
        """No link any more."""
        self.down()
        self._do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self.port, backlog=100)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _unlisten(self) -> None:
        if self._server:
            self._server.close()
        self._server = None

    async def _cut(self) -> None:
        for transport in list(self._open):
            transport.abort()

    async def _stop(self) -> None:
        while others := asyncio.all_tasks(self._loop) - {asyncio.current_task()}:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await self._connect(reader, writer)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        left = [self.budgets()]
        try:
            there, onward = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        both = {writer.transport, onward.transport}
        self._open |= both
        try:
            await asyncio.gather(
                self._kept(self._pump(reader, onward, left, "to")),
                self._kept(self._pump(there, writer, left, "from")),
            )
        except (OSError, EOFError):
            pass
        finally:
            self._open -= both
            for transport in both:
                transport.abort()

    def _kept(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that lives until it is done: a loop knows tasks weakly, and one that was cut off nobody else
        does.
        """
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: list[float], way: str
    ) -> None:
        """Carry one way: every piece `delay` later, in order, as far as the budget of the connection goes."""
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(0 if isinf(self.rate) else UNDER_WAY)

        async def deliver() -> None:
            while True:
                due, data = await pieces.get()
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                await self._flowing.wait()
                if not data:
                    raise EOFError
                self.carried += len(data)
                if len(data) >= left[0]:
                    writer.write(data[: int(left[0])])
                    await writer.drain()
                    self.cuts += 1
                    raise EOFError
                left[0] -= len(data)
                writer.write(data)
                await writer.drain()

        delivering = asyncio.create_task(deliver())
        try:
            while not delivering.done() and (data := await self._next(reader, delivering)):
                self._busy[way] = max(time.monotonic(), self._busy[way]) + len(data) / self.rate
                await pieces.put((self._busy[way] + self.delay, data))
            await pieces.put((max(time.monotonic(), self._busy[way]) + self.delay, b""))
            await delivering
        finally:
            delivering.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError, EOFError):
                await delivering

    async def _next(self, reader: asyncio.StreamReader, delivering: asyncio.Task[None]) -> bytes:
        """The next piece; nothing when the other side is gone."""
        reading = asyncio.ensure_future(reader.read(PIECE))
        await asyncio.wait({reading, delivering}, return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            reading.cancel()
            return b""
        return reading.result()


@contextlib.contextmanager
def link(to: int, *, delay: float = 0.0, rate: float = float("inf")) -> Iterator[Link]:
    """A link for as long as the block lasts."""
    made = Link(to, delay=delay, rate=rate)
    try:
        yield made
    finally:
        made.close()


def short(seed: int, longest: int) -> Callable[[], float]:
    """Budgets of bytes up to `longest`, the same in every run."""
    drawn = random.Random(seed)
    return lambda: float(drawn.randrange(1, longest))
