"""The cloud's time: it runs like any clock, as fast as a test likes, and jumps when it is told to."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime


@dataclass(order=True)
class Timer:
    """What happens at a moment, unless it is called off before."""

    due: float
    number: int
    action: Callable[[], object] = field(compare=False)
    off: bool = field(default=False, compare=False)

    def cancel(self) -> None:
        self.off = True


class Clock:
    """Seconds since 1970 in the cloud, and what is to happen when; one thing at a time, under `lock`."""

    def __init__(self, lock: threading.RLock) -> None:
        self.lock = lock
        self.errors: list[str] = []
        self._changed = threading.Condition()
        self._timers: list[Timer] = []
        self._numbers = itertools.count()
        self._speed = 1.0
        self._base = (time.time(), time.monotonic())
        self._closed = False
        self._thread = threading.Thread(target=self._tick, name="cloud-clock", daemon=True)
        self._thread.start()

    def now(self) -> float:
        base, since = self._base
        return base + (time.monotonic() - since) * self._speed

    def date(self) -> datetime:
        return datetime.fromtimestamp(self.now(), UTC)

    @property
    def speed(self) -> float:
        """How many of the cloud's seconds pass in one of ours."""
        return self._speed

    @speed.setter
    def speed(self, speed: float) -> None:
        with self._changed:
            self._base = (self.now(), time.monotonic())
            self._speed = speed
            self._changed.notify_all()

    def after(self, seconds: float, action: Callable[[], object]) -> Timer:
        return self.at(self.now() + seconds, action)

    def at(self, due: float, action: Callable[[], object]) -> Timer:
        with self._changed:
            timer = Timer(due, next(self._numbers), action)
            heapq.heappush(self._timers, timer)
            self._changed.notify_all()
        return timer

    def advance(self, seconds: float) -> None:
        """Let time pass at once; what falls due happens here, each thing at its own moment."""
        with self.lock:  # what is happening now, happens before
            until = self.now() + seconds
            while timer := self._take(until):
                self._jump(timer.due)
                self._do(timer)
            self._jump(until)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._timers.clear()
            self._changed.notify_all()
        self._thread.join()

    def _jump(self, now: float) -> None:
        """Never back."""
        with self._changed:
            self._base = (max(now, self.now()), time.monotonic())
            self._changed.notify_all()

    def _take(self, until: float) -> Timer | None:
        """The first that is due; those that were called off go without a word."""
        with self._changed:
            while self._timers and (self._timers[0].off or self._timers[0].due <= until):
                timer = heapq.heappop(self._timers)
                if not timer.off:
                    return timer
        return None

    def _do(self, timer: Timer) -> None:
        with self.lock:
            if timer.off:
                return
            try:
                timer.action()
            except Exception:  # noqa: BLE001 - told when the cloud is closed
                self.errors.append(traceback.format_exc())

    def _tick(self) -> None:
        while not self._closed:
            if timer := self._take(self.now()):
                self._do(timer)
                continue
            with self._changed:
                if self._timers:
                    rest = (self._timers[0].due - self.now()) / self._speed
                else:
                    rest = threading.TIMEOUT_MAX
                if rest > 0 and not self._closed:
                    self._changed.wait(min(rest, threading.TIMEOUT_MAX))
