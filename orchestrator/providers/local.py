"""This machine."""

from __future__ import annotations

from orchestrator import store
from orchestrator.machine import Machine
from orchestrator.providers import Errand, Wish

HELP = "'local' for this machine"


def claim(where: str, key: str | None) -> Wish | None:
    """Ours is the word `local`."""
    return Wish("local", where) if where == "local" else None


def acquire(wish: Wish, errand: Errand | None) -> Machine:
    """Always there; what runs here lies apart from the registry at home, as on any machine."""
    return Machine("local", root=str(store.home() / "machine"))
