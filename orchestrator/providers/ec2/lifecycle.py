"""What becomes of machines that are there: found again, listed, started, stopped, ended.

A machine without our tags is looked at, and nothing else, unless it was adopted.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

from orchestrator.errors import BadRequest, Ec2emoError, MachineGone, Refused
from orchestrator.lease import Lease
from orchestrator.machine import Machine
from orchestrator.providers.ec2 import (
    api,
    clock,
    instances,
    ladder,
    limits,
    network,
    offer,
    prices,
    provision,
    rates,
    schedule,
    spending,
    tags,
)
from orchestrator.providers.ec2.api import Aws
from orchestrator.providers.ec2.book import Book
from orchestrator.run import Run
from orchestrator.store import Store

SPOT_ENDS = ("Server.SpotInstanceTermination", "Server.SpotInstanceShutdown")


def again(machine: Machine) -> Machine | None:
    """The machine at its present address, with this computer's address let in; None when nothing changed.

    Raises MachineGone when it has ended or is stopped, in EC2's words.
    """
    assert machine.id is not None
    aws = api.connected(machine.region)
    instance = instances.describe(aws, machine.id)
    if instance is None:
        raise MachineGone(f"{machine.id} is gone: EC2 no longer knows it")
    state, why = instances.state(instance), instances.reason(instance)
    if state in ("stopping", "stopped"):
        raise MachineGone(
            f"{machine.id} is {state} ({why}): 'ec2emo machines start {machine.id}' brings it back"
        )
    if state in instances.OVER:
        code = str((instance.get("StateReason") or {}).get("Code", ""))
        raise MachineGone(f"{machine.id} is {state} ({why})", interrupted=code in SPOT_ENDS, code=code)
    changed = False
    lease = lease_of(Store(), machine.id)
    if lease is not None and lease.group and lease.made:
        changed = network.admit(aws, lease.group, network.sources(aws, lease.terms))
    address = instance.get("PublicIpAddress")
    if machine.via or not address:
        return machine if changed else None
    found = dataclasses.replace(machine, host=str(address))
    return found if changed or found != machine else None


def release(store: Store, run: Run) -> str | None:
    """The artifacts are home: end the machine as was agreed. None when it is not ours to end."""
    lease = store.lease(run.id)
    if lease is None or lease.ended is not None or lease.instance is None or not _ours_to_end(lease):
        return None
    if lease.after == "keep":
        return f"{lease.instance} goes on, at ${rates.hourly(lease):.2f} an hour, as agreed"
    aws = api.connected(lease.region)
    if lease.after == "stop" and lease.market != "spot":
        return _stop(aws, lease)
    with store.holding(run.id):
        return _terminate(store, aws, lease)


def machines(store: Store, region: str | None) -> list[dict[str, Any]]:
    """Every machine of this user's in a region that has not ended, by its tags."""
    aws = api.connected(region)
    known = {lease.instance: lease for lease in store.leases() if lease.instance}
    return [_row(aws, i, known.get(str(i["InstanceId"]))) for i in instances.ours(aws, aws.owner)]


def start(store: Store, name: str, region: str | None, *, adopt: bool = False) -> str:
    """Start a stopped machine. Raises BadRequest, NoCapacity, QuotaExceeded, ..."""
    with _chosen(store, name, region, adopt=adopt) as (aws, instance, lease):
        instance_id = str(instance["InstanceId"])
        if instances.state(instance) in ("running", "pending"):
            return f"{instance_id} runs already"
        instances.await_state(aws, instance_id, "stopped")
        instances.start(aws, instance_id)
        if lease:
            limits.end_from_outside(_with_a_new_limit(lease), aws)
        instances.await_state(aws, instance_id, "running")
        rate = f", at ${rates.hourly(lease):.2f} an hour" if lease else ""
        return f"{instance_id} runs{rate}"


def stop(store: Store, name: str, region: str | None, *, adopt: bool = False) -> str:
    """Stop one; its disk stays, and costs. Raises BadRequest."""
    with _chosen(store, name, region, adopt=adopt) as (aws, instance, lease):
        if instance.get("InstanceLifecycle") == "spot":
            raise BadRequest(
                f"{instance['InstanceId']} is a spot machine, which can only be ended: 'ec2emo machines "
                f"terminate {instance['InstanceId']}'"
            )
        if lease:
            return _stop(aws, lease)
        instances.stop(aws, str(instance["InstanceId"]))
        instances.await_state(aws, str(instance["InstanceId"]), "stopped")
        return f"{instance['InstanceId']} is stopped; its disk goes on costing"


def terminate(store: Store, name: str, region: str | None, *, adopt: bool = False) -> str:
    """End one for good, with all that was made around it. Raises BadRequest."""
    with _chosen(store, name, region, adopt=adopt) as (aws, instance, lease):
        if lease is None:
            instances.terminate(aws, str(instance["InstanceId"]))
            instances.await_state(aws, str(instance["InstanceId"]), "terminated")
            return f"{instance['InstanceId']} is terminated; 'ec2emo gc' removes what was made around it"
        try:
            with store.holding(lease.run):
                return _terminate(store, aws, lease)
        except BadRequest:
            # Somebody is just making it ready: they see its end, and write it down.
            instances.terminate(aws, str(lease.instance), born=lease.launched)
            return f"{lease.instance} is terminated, while another ec2emo was at work on it"


def lease_of(store: Store, instance_id: str) -> Lease | None:
    """The lease that names a machine."""
    return next((lease for lease in store.leases() if lease.instance == instance_id), None)


def _stop(aws: Aws, lease: Lease) -> str:
    assert lease.instance is not None
    if lease.ender:
        schedule.disarm(aws, lease.instance)
    instances.stop(aws, lease.instance)
    instances.await_state(aws, lease.instance, "stopped")
    a_day = ladder.disk_usd_per_hour(lease.terms) * 24
    return (
        f"{lease.instance} is stopped ({spending.bill(lease, None)}); its disk costs ${a_day:.2f} a day "
        f"until 'ec2emo machines terminate {lease.instance}'"
    )


def _with_a_new_limit(lease: Lease) -> Lease:
    """The machine's own limits count from each start."""
    return dataclasses.replace(
        lease, until=clock.now() + offer.minutes(lease.terms, rates.hourly(lease)) * 60
    )


def _terminate(store: Store, aws: Aws, lease: Lease) -> str:
    assert lease.instance is not None
    instance = instances.describe(aws, lease.instance)
    book = Book(store, lease)
    instances.terminate(aws, lease.instance, born=lease.launched)
    said = spending.bill(lease, instance)
    book.end("terminated by ec2emo")
    whole = provision.undo(book, aws) if lease.made else True
    rest = "" if whole else "; its security group is still held, 'ec2emo gc' removes it"
    return f"{lease.instance} is terminated ({said}){rest}"


@contextlib.contextmanager
def _chosen(
    store: Store, name: str, region: str | None, *, adopt: bool
) -> Iterator[tuple[Aws, dict[str, Any], Lease | None]]:
    """The machine a person named, by its id or its run. Raises BadRequest, Refused for one not ours."""
    lease = lease_of(store, name) if name.startswith("i-") else store.lease(store.find(name).id)
    if lease is None and not name.startswith("i-"):
        raise BadRequest(f"no machine was rented for {name}: 'ec2emo machines' lists those that were")
    if lease is not None and lease.instance is None:
        raise BadRequest(f"{lease.run} has no machine: 'ec2emo gc' looks for one that nobody knows of")
    aws = api.connected(lease.region if lease else region)
    instance_id = str(lease.instance) if lease else name
    instance = instances.describe(aws, instance_id)
    if instance is None or instances.state(instance) == "terminated":
        if lease is not None and lease.ended is None:
            with store.holding(lease.run):
                book = Book(store, lease)
                book.end(instances.reason(instance) if instance else "EC2 no longer knows it")
                provision.undo(book, aws)
        raise BadRequest(f"{instance_id} has ended already, in {aws.region}")
    ours = tags.read(instance).get(tags.OWNER) == (lease.owner if lease else aws.owner)
    if not ours and not adopt:
        raise Refused(
            f"{instance_id} is not a machine ec2emo made for you: --adopt takes it over, with all that "
            f"follows from that"
        )
    yield aws, instance, lease


def _ours_to_end(lease: Lease) -> bool:
    return lease.made or lease.terms.adopt


def _row(aws: Aws, instance: dict[str, Any], lease: Lease | None) -> dict[str, Any]:
    tagged, now = tags.read(instance), clock.now()
    name, zone = str(instance["InstanceType"]), (instance.get("Placement") or {}).get("AvailabilityZone")
    market = "spot" if instance.get("InstanceLifecycle") == "spot" else "on-demand"
    since = instances.launched(instance)
    rate = lease.usd_per_hour if lease else None
    if rate is None:
        with contextlib.suppress(Ec2emoError):
            rate = prices.of(aws, name, "spot" if market == "spot" else "on-demand", zone).usd
    stopped = instances.state(instance) in ("stopped", "stopping")
    disk = ladder.disk_usd_per_hour(lease.terms) if lease else 0.0
    hours = max(0.0, now - since) / 3600 if since else 0.0
    return {
        "machine": str(instance["InstanceId"]),
        "provider": "ec2",
        "run": tagged.get(tags.RUN),
        "state": instances.state(instance),
        "type": name,
        "zone": zone,
        "market": market,
        "age_seconds": now - since if since else None,
        "cost_usd_per_hour": disk if stopped else (rate or 0.0) + disk,
        "cost_usd": hours * (disk if stopped else (rate or 0.0) + disk),
        "until": tagged.get(tags.UNTIL),
        "known_here": lease is not None,
    }
