"""Figures as people read them: metrics, durations, clock times, sizes, bars, curves."""

from __future__ import annotations

import datetime
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

MINUTE, HOUR, DAY = 60, 3600, 86400
_BLOCKS = "▁▂▃▄▅▆▇█"


def number(value: float | None) -> str:
    """Four digits. None is what the wire makes of a number that is not finite."""
    finite = _finite(value)
    if finite is None:
        return "nan"
    return f"{finite:.4f}" if 1e-3 <= abs(finite) < 1e4 or finite == 0 else f"{finite:.2e}"


def rate(value: float | None) -> str:
    """A learning rate: two digits and the exponent."""
    finite = _finite(value)
    return "unknown" if finite is None else f"{finite:.2g}"


def _finite(value: float | None) -> float | None:
    """As a float; None also for an integer that no float can hold."""
    try:
        return float(value) if value is not None and math.isfinite(value) else None
    except OverflowError:
        return None


def duration(seconds: float) -> str:
    """Two units at most: `4.2 s`, `41 s`, `2 min 30 s`, `12 min`, `3 h 20 min`, `2 d 4 h`."""
    exact = _finite(seconds)
    if exact is None:
        return "unknown time"
    exact = max(0.0, exact)
    if exact < 9.95:
        return f"{exact:.1f} s"
    whole = round(exact)
    if whole < 2 * MINUTE:
        return f"{whole} s"
    if whole < 10 * MINUTE:
        return _two(whole, MINUTE, "min", 1, "s")
    if whole < HOUR:
        return f"{whole // MINUTE} min"
    if whole < DAY:
        return _two(whole, HOUR, "h", MINUTE, "min")
    return _two(whole, DAY, "d", HOUR, "h")


def age(seconds: float) -> str:
    """One unit is enough for what lies back: `41 s`, `12 min`, `3 h`, `2 d`."""
    whole = int(max(0.0, _finite(seconds) or 0.0))
    for unit, name in ((DAY, "d"), (HOUR, "h"), (MINUTE, "min")):
        if whole >= unit:
            return f"{whole // unit} {name}"
    return f"{whole} s"


def _two(whole: int, large: int, large_name: str, small: int, small_name: str) -> str:
    rest = whole % large // small
    return f"{whole // large} {large_name}" + (f" {rest} {small_name}" if rest else "")


def roughly(seconds: float) -> str:
    """What is left of something: never seconds that tick, for nobody knows them."""
    exact = _finite(seconds)
    if exact is not None and exact < 10 * MINUTE:
        return f"{math.ceil(exact / MINUTE)} min" if exact > MINUTE else "less than 1 min"
    return duration(seconds)


def stopwatch(seconds: float) -> str:
    """Hours, minutes and seconds, ticking: `0:11:23`."""
    whole = int(max(0.0, _finite(seconds) or 0.0))
    return f"{whole // HOUR}:{whole % HOUR // MINUTE:02}:{whole % MINUTE:02}"


def clock(then: float, now: float) -> str:
    """Local time of day; with the day where that is not today's. Both are seconds by this clock."""
    try:
        at, here = (datetime.datetime.fromtimestamp(t).astimezone() for t in (then, now))
    except (OverflowError, OSError, ValueError):
        return "a distant day"
    days = (at.date() - here.date()).days
    day = (
        "" if days == 0 else "tomorrow " if days == 1 else f"{at:%a} " if 0 < days < 7 else f"{at:%Y-%m-%d} "
    )
    return f"{day}{at:%H:%M}"


def size(count: float) -> str:
    """Bytes in decimal units, as disks and networks are sold."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def dollars(amount: float) -> str:
    """US dollars, to the cent; what is less than a dollar to a tenth of it."""
    return f"${amount:.3f}" if 0 < amount < 1 else f"${amount:,.2f}"


def share(done: float, total: float) -> float:
    """Between 0 and 1, whatever was counted."""
    return min(1.0, max(0.0, done / total)) if total > 0 else 0.0


def bar(part: float, width: int) -> tuple[str, str]:
    """The filled and the empty end of a bar; only what is whole is full."""
    filled = int(part * width) if part < 1 else width
    return "━" * filled, "─" * (width - filled)


class Curve(NamedTuple):
    """A line of blocks, and the values of the lowest and the highest."""

    blocks: str
    low: float
    high: float


def curve(values: Sequence[float | None], width: int) -> Curve | None:
    """All values in `width` columns at most; None without any.

    More values than columns share columns; of those the highest shows, so the best is always seen.
    """
    finite = [_finite(v) for v in values]
    known = [v for v in finite if v is not None]
    if not known or width < 1:
        return None
    columns = min(width, len(finite))
    edges = [i * len(finite) // columns for i in range(columns + 1)]
    shared = [finite[a:b] for a, b in itertools.pairwise(edges)]
    tops = [max((v for v in cell if v is not None), default=None) for cell in shared]
    low, high = min(known), max(known)
    return Curve("".join(_block(top, low, high) for top in tops), low, high)


def _block(value: float | None, low: float, high: float) -> str:
    if value is None:
        return " "
    if high == low:
        return _BLOCKS[len(_BLOCKS) // 2]
    return _BLOCKS[round((value / (high - low) - low / (high - low)) * (len(_BLOCKS) - 1))]


def said(value: object) -> str:
    """Any value on one line, in words."""
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {said(one)}" for key, one in value.items()) or "none"
    if isinstance(value, (list, tuple, set, frozenset)):
        return ", ".join(map(said, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
