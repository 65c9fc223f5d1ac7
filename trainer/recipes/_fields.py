"""Fields of `Params`: the default, what it means to people, and which values it may have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field, fields
from typing import Any

_Range = tuple[Callable[[Any], bool], str]

_POSITIVE: _Range = (lambda v: v > 0, "choose more than 0")
_AT_LEAST_ZERO: _Range = (lambda v: v >= 0, "choose at least 0")
_SHARE: _Range = (lambda v: 0 <= v < 1, "choose at least 0 and less than 1")
_FACTOR: _Range = (lambda v: 0 < v < 1, "choose more than 0 and less than 1")
_HALF: _Range = (lambda v: 0 < v <= 0.5, "choose more than 0 and at most 0.5")
_PERCENT: _Range = (lambda v: 0 < v <= 100, "choose more than 0 and at most 100")


def positive(default: float, meaning: str) -> Any:
    """A number above 0."""
    return _field(default, meaning, _POSITIVE)


def at_least_zero(default: float, meaning: str) -> Any:
    """A number that may be 0."""
    return _field(default, meaning, _AT_LEAST_ZERO)


def share(default: float, meaning: str) -> Any:
    """From 0 to just under 1, as dropout is."""
    return _field(default, meaning, _SHARE)


def factor(default: float, meaning: str) -> Any:
    """Above 0 and below 1: what makes something smaller."""
    return _field(default, meaning, _FACTOR)


def half(default: float, meaning: str) -> Any:
    """Above 0, up to a half."""
    return _field(default, meaning, _HALF)


def percent(default: float, meaning: str) -> Any:
    """Above 0, up to 100."""
    return _field(default, meaning, _PERCENT)


def choice(default: str, meaning: str, among: tuple[str, ...]) -> Any:
    """One of some words."""
    return _field(default, f"{meaning}: {', '.join(among)}", (among.__contains__, f"choose {_or(among)}"))


def switch(default: bool, meaning: str) -> Any:
    """True or false."""
    return _field(default, meaning, (lambda v: True, ""))


def check(params: Any) -> None:
    """Raise ValueError for the first field whose value it cannot have: for `__post_init__`."""
    for f in fields(params):
        fits, said = f.metadata["range"]
        value = getattr(params, f.name)
        if not fits(value):
            raise ValueError(f"{f.name}={value} is out of range: {said}")


def _field(default: Any, meaning: str, allowed: _Range) -> Any:
    return field(default=default, metadata={"help": meaning, "range": allowed})


def _or(words: tuple[str, ...]) -> str:
    return " or ".join((", ".join(words[:-1]), words[-1])) if len(words) > 1 else words[0]
