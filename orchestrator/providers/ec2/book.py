"""The lease of a run while somebody works on it: every change is on disk before the next step is taken."""

from __future__ import annotations

import dataclasses
from typing import Any

from orchestrator.lease import Call, Lease
from orchestrator.providers.ec2 import clock, tags
from orchestrator.store import Store


class Book:
    """A run's lease, kept in the store. Only who holds the run's lock (`Store.holding`) has one."""

    def __init__(self, store: Store, lease: Lease) -> None:
        self.store = store
        self.lease = lease

    def keep(self, **changes: Any) -> Lease:
        """Write down what has changed."""
        self.lease = dataclasses.replace(self.lease, **changes)
        self.store.keep_lease(self.lease)
        return self.lease

    def keep_call(self, call: Call, **changes: Any) -> Lease:
        """Write down a call, or its outcome, together with what follows from it."""
        self.lease = dataclasses.replace(self.lease.with_call(call), **changes)
        self.store.keep_lease(self.lease)
        return self.lease

    def end(self, why: str) -> Lease:
        """The machine is gone, or never came."""
        return self.keep(ended=clock.now(), why_ended=why)

    @property
    def name(self) -> str:
        """What the run's group and template are called; also the lock between two computers."""
        return f"ec2emo-{self.lease.run}-{self.lease.number}"

    def tags(self, until: float, call: int | None = None) -> dict[str, str]:
        """The tags of what is made for this machine."""
        lease = self.lease
        return tags.of(
            owner=lease.owner,
            run=lease.run,
            uid=lease.uid,
            number=lease.number,
            until=clock.iso(until),
            call=call,
        )
