"""Where machines come from: one file or folder, one provider; this folder's listing is the registry.

A provider is a module with `claim(where, key)`, which answers a `Wish` when `--on WHERE` is its to
fulfil, and `acquire(wish, errand)`, which answers the Machine; `HELP` says how to write its WHERE.

One that rents its machines says `RENTS = True`, and has what costs money asks for besides:

    cost(wish, errand)      what acquire would begin to spend, as a sentence; None when nothing
    plan(wish, terms)       what it would ask for, looked up now; makes nothing
    again(machine)          where one that does not answer is now, None when that is no news; MachineGone
    bill(store, run)        what the run's machine costs, by what home knows; None for nothing
    has_gpu(store, run)     whether the run's machine is paid for its GPU
    replica(run)            what is kept of a run elsewhere, to be read without its machine; None for nothing
    release(store, run)     the artifacts are home: end the machine as agreed; what that means, as a sentence
    roll_back(errand)       undo a start that was called off
    regions()               everywhere that machines could be
    machines(region)        every machine of this user's, as rows
    start, stop, terminate  (name, ...) what a person asks of one of them
    collect(store, ...)     what nobody needs any more, each with what to do about it; and doing that
    checks(wish, terms)     what could stand in the way, for doctor
"""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Protocol

from orchestrator.errors import BadRequest
from orchestrator.shell import Reader

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.lease import Bill
    from orchestrator.progress import Status
    from orchestrator.run import Run
    from orchestrator.store import Store


@dataclass(frozen=True)
class Wish:
    """What was asked of a provider."""

    provider: str
    where: str
    key: str | None = None


@dataclass(frozen=True)
class Errand:
    """For whom a machine is acquired: the run, where it is written down, and who is told of each step."""

    run: Run
    store: Store
    say: Callable[[str], None]


class Replica(Reader, Protocol):
    """What is kept of a run elsewhere: read like its machine, with the machine's last word on the process."""

    def status(self) -> Status:
        """As far as the copy goes; `alive` while nothing says that it is over. Raises ContactLost."""
        ...


def names() -> list[str]:
    """All providers."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def load(name: str) -> ModuleType:
    """One provider's module."""
    return importlib.import_module(f"{__name__}.{name}")


def renter(name: str) -> ModuleType | None:
    """The provider's module when it rents its machines."""
    module = load(name)
    return module if getattr(module, "RENTS", False) else None


def renters() -> list[ModuleType]:
    """All that rent."""
    return [module for module in map(renter, names()) if module]


def replica(run: Run) -> Replica | None:
    """What is kept of a run elsewhere than on its machine; None for nothing."""
    renting = renter(run.machine.provider) if run.machine else None
    kept: Replica | None = renting.replica(run) if renting else None
    return kept


def bill(store: Store, run: Run) -> Bill | None:
    """What the run's machine costs; None where nothing is rented, or its record cannot be read."""
    renting = renter(run.machine.provider) if run.machine else None
    with contextlib.suppress(BadRequest):
        found: Bill | None = renting.bill(store, run) if renting else None
        return found
    return None


def wish_for(where: str, key: str | None) -> Wish:
    """The provider that claims WHERE. Raises BadRequest when none does."""
    for name in names():
        wish: Wish | None = load(name).claim(where, key)
        if wish:
            return wish
    ways = "; ".join(str(load(name).HELP) for name in names())
    raise BadRequest(f"--on {where!r:.100} is no place ec2emo knows. Write {ways}")
