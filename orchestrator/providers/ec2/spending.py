"""What a machine is about to cost, costs, and has cost: sentences and figures, in US dollars."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.lease import Lease
from orchestrator.machine import Terms
from orchestrator.providers import Errand
from orchestrator.providers.ec2 import api, clock, instances, ladder, offer, rates


def cost(errand: Errand) -> str | None:
    """What going on with this run's machine would begin to spend; None while it runs already."""
    lease = errand.store.lease(errand.run.id)
    terms = errand.run.terms or Terms()
    if lease is not None and lease.ended is None:
        if lease.open_call:
            return None  # asked for before: the same request again costs nothing new
        instance = instances.describe(api.connected(lease.region), lease.instance) if lease.instance else None
        if instance is not None and instances.state(instance) in ("pending", "running"):
            return None
        if instance is not None and instances.state(instance) in ("stopping", "stopped"):
            return f"{lease.instance} is stopped: start it, at ${rates.hourly(lease):.2f} an hour?"
        terms = lease.terms
    aws = api.connected(terms.region)
    found = offer.look(aws, terms)
    limit = offer.minutes(terms, found.worst)
    least = min(found.prices[t].usd for t in found.types)
    most = (found.worst + ladder.disk_usd_per_hour(terms)) * limit / 60
    guessed = (
        f" (AWS tells no price for {', '.join(found.guessed)}: what is known of 2025 counts)"
        if found.guessed
        else ""
    )
    spot = ", spot first" if terms.market == "spot" else ", spot alone" if terms.market == "spot-only" else ""
    others = {1: "", 2: f" or {found.types[-1]}"}.get(
        len(found.types), f" or one of {len(found.types) - 1} others"
    )
    alone = "" if found.backed else ", with no guard outside of it ('ec2emo setup' makes one)"
    return (
        f"start a {found.types[0]}{others} in {aws.region}{spot}: ${least:.2f} to ${found.worst:.2f} an "
        f"hour{guessed}, ended by itself after {limit / 60:.3g} h{alone}, so ${most:.2f} at most?"
    )


def so_far(lease: Lease, instance: Mapping[str, Any] | None, until: float | None = None) -> float:
    """Since it was last started; an earlier time, before a stop, is not known to EC2."""
    since = (instances.launched(instance) if instance else None) or lease.launched
    if since is None:
        return 0.0
    hours = max(0.0, (until if until is not None else clock.now()) - since) / 3600
    state = instances.state(instance) if instance else "running"
    running = 0.0 if state == "stopped" else rates.hourly(lease)
    return hours * (running + ladder.disk_usd_per_hour(lease.terms))


def bill(lease: Lease, instance: Mapping[str, Any] | None) -> str:
    """What it came to, as a clause."""
    since = (instances.launched(instance) if instance else None) or lease.launched
    minutes = max(0.0, clock.now() - since) / 60 if since else 0.0
    source = f" by the {lease.priced}" if lease.priced else ", reckoned with the worst price known"
    return (
        f"{lease.instance_type or 'the machine'} for {minutes:.0f} min at ${rates.hourly(lease):.3f} an "
        f"hour{source}: about ${so_far(lease, instance):.2f}"
    )
