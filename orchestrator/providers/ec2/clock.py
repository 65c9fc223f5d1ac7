"""Time as this provider sees it; what waits, waits here."""

from __future__ import annotations

import datetime
import random
import time
from collections.abc import Iterator

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0


def now() -> float:
    """Seconds since 1970."""
    return time.time()


def sleep(seconds: float) -> None:
    """Let time pass."""
    time.sleep(seconds)


def every(seconds: float, *, within: float) -> Iterator[float]:
    """Yield at once and then every `seconds` until `within` have passed; yields the time spent."""
    began = now()
    while True:
        yield now() - began
        if now() - began + seconds > within:
            return
        sleep(seconds)


def backing_off(*, within: float) -> Iterator[int]:
    """Yield 1, 2, ... with growing pauses of random length between, until `within` seconds have passed.

    Full jitter over an exponential bound, as the AWS Architecture Blog recommends.
    """
    began, bound, number = now(), FIRST_PAUSE, 1
    while True:
        yield number
        pause = random.uniform(bound / 2, bound)  # noqa: S311 - no secret
        if now() - began + pause > within:
            return
        sleep(pause)
        bound, number = min(bound * 2, LONGEST_PAUSE), number + 1


def iso(at: float) -> str:
    """UTC to the second, as in a tag."""
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_iso(text: str) -> float | None:
    """The other way; None for what is no such time."""
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except (ValueError, TypeError):
        return None
