"""What ends a machine that costs: what it is told at its boot and at the first contact, and from outside "
"it.
"""

from __future__ import annotations

import math

from orchestrator.lease import Lease
from orchestrator.machine import After, Machine
from orchestrator.providers.ec2 import clock, contact, keys, ladder, schedule, tags, userdata
from orchestrator.providers.ec2.api import Aws
from orchestrator.providers.ec2.book import Book
from orchestrator.shell import Shell

GUARD_CONFIG = b"""
set -eu
folder=$(getent passwd "$1" | cut -d: -f6)/.ec2emo/guard
printf '%s' "$2" >"$folder/.guard.json"
mv -f "$folder/.guard.json" "$folder/guard.json"
"""


def arm(book: Book, aws: Aws, shell: Shell, machine: Machine) -> None:
    """The machine's own guard learns the true price, and what a shutdown from within now does.

    A machine that will hold the only copy of what is trained is stopped, not terminated, when it shuts itself
    down; what a spot machine does cannot be chosen.
    """
    lease = book.lease
    assert lease.instance is not None
    told = boot(book, usd_per_hour=lease.usd_per_hour, after=_shutdown_means(lease))
    if told.after == "stop":
        aws.ask(
            "ec2",
            "modify_instance_attribute",
            InstanceId=lease.instance,
            InstanceInitiatedShutdownBehavior={"Value": "stop"},
        )
    config = userdata.limits(told).decode()
    contact.as_root(shell, GUARD_CONFIG, machine.user or "root", config)
    until = (lease.launched or clock.now()) + told.minutes * 60
    if lease.until is None or abs(until - lease.until) > 60:
        aws.ask(
            "ec2",
            "create_tags",
            Resources=[lease.instance],
            Tags=tags.as_list({tags.UNTIL: clock.iso(until)}),
        )
        book.keep(until=until)
        end_from_outside(book.lease, aws)


def end_from_outside(lease: Lease, aws: Aws) -> None:
    """Have a machine that ends by termination terminated at its time, also when it cannot do so itself.

    One that is stopped at its end holds what is nowhere else: nothing terminates that but a person.
    """
    if lease.ender and lease.instance and lease.until and _shutdown_means(lease) == "terminate":
        schedule.arm(aws, lease.ender, lease.instance, lease.until)


def _shutdown_means(lease: Lease) -> After:
    """What a shutdown from within does to the machine once it was reached; keep: only a limit ends it."""
    if lease.after == "keep":
        return "keep"
    if lease.market == "spot" or (lease.after == "terminate" and lease.store):
        return "terminate"
    return "stop"


def boot(book: Book, *, usd_per_hour: float | None, after: After) -> userdata.Boot:
    """What the machine is told of its limits and its keys."""
    lease = book.lease
    rate = usd_per_hour if usd_per_hour is not None else lease.worst
    private, public = keys.host_key(book.store, lease.run)
    bucket, _, prefix = (lease.store or "").removeprefix("s3://").partition("/")
    return userdata.Boot(
        run=lease.run,
        owner=lease.owner,
        host_key_private=private,
        host_key_public=public,
        authorized_key=keys.public_half(keys.user_key()),
        user=lease.user or "ubuntu",
        ttl_minutes=math.floor(lease.terms.max_hours * 60),
        after=after,
        idle_minutes=lease.terms.idle_minutes,
        max_cost_usd=lease.terms.max_cost,
        usd_per_hour=None if rate is None else rate + ladder.disk_usd_per_hour(lease.terms),
        region=lease.region,
        bucket=bucket or None,
        prefix=prefix or None,
    )
