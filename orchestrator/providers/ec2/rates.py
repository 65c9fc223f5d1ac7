"""What a rented machine costs, by its lease alone: for lists and pages, which ask no service."""

from __future__ import annotations

from orchestrator.lease import Bill, Lease
from orchestrator.providers.ec2 import clock, ladder


def bill(lease: Lease) -> Bill | None:
    """Until now, or until it ended, or should have; None before it was launched."""
    if lease.launched is None:
        return None
    an_hour = hourly(lease) + ladder.disk_usd_per_hour(lease.terms)
    over = lease.ended if lease.ended is not None else min(clock.now(), lease.until or clock.now())
    hours = max(0.0, over - lease.launched) / 3600
    ended = lease.ended is not None
    return Bill(hours * an_hour, 0.0 if ended else an_hour, None if ended else lease.until)


def hourly(lease: Lease) -> float:
    """What an hour costs: by the price that is known, else by the worst."""
    known = lease.usd_per_hour if lease.usd_per_hour is not None else lease.worst
    return known if known is not None else max(t.known for t in ladder.LADDER)
