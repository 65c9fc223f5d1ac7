"""Where machines come from: one file, one provider; this folder's listing is the registry.

A provider is a module with `claim(where, key)`, which answers a `Wish` when `--on WHERE` is its to
fulfil, and `acquire(wish, run_id)`, which answers the Machine; `HELP` says how to write its WHERE.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from types import ModuleType

from orchestrator.errors import BadRequest


@dataclass(frozen=True)
class Wish:
    """What was asked of a provider."""

    provider: str
    where: str
    key: str | None = None


def names() -> list[str]:
    """All providers."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def load(name: str) -> ModuleType:
    """One provider's module."""
    return importlib.import_module(f"{__name__}.{name}")


def wish_for(where: str, key: str | None) -> Wish:
    """The provider that claims WHERE. Raises BadRequest when none does."""
    for name in names():
        wish: Wish | None = load(name).claim(where, key)
        if wish:
            return wish
    ways = "; ".join(str(load(name).HELP) for name in names())
    raise BadRequest(f"--on {where!r:.100} is no place ec2emo knows. Write {ways}")
