"""A machine of EC2 that is there already, by its id or its Name: found, started where it is stopped, reached.

Without --adopt it is never stopped, terminated or tagged. Its host key is read from its console, where
cloud-init prints it; else `~/.ssh/known_hosts` decides, as for any host.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from orchestrator import pins
from orchestrator.errors import BadRequest
from orchestrator.lease import Lease
from orchestrator.machine import Machine, Terms
from orchestrator.providers import Errand, Wish
from orchestrator.providers.ec2 import (
    api,
    clock,
    console,
    contact,
    image,
    instances,
    prices,
    schedule,
    setup,
    tags,
)
from orchestrator.providers.ec2.api import Aws
from orchestrator.providers.ec2.names import THERE


def attach(wish: Wish, errand: Errand) -> Machine:
    """The machine, running and answering. Raises BadRequest, Refused, ContactLost, NoCapacity."""
    terms = errand.run.terms or Terms()
    aws = api.connected(terms.region)
    instance = find(aws, wish)
    instance_id = str(instance["InstanceId"])
    if instances.state(instance) != "running":
        errand.say(f"starting {instance_id}")
        instances.await_state(aws, instance_id, "stopped")
        instances.start(aws, instance_id)
        if not instances.await_state(aws, instance_id, "running"):
            raise BadRequest(f"{instance_id} did not start: see it in the EC2 console")
        instance = find(aws, wish)
    machine = machine_at(aws, wish, instance, terms)
    if not pins.read(instance_id) and (shown := console.keys(aws, instance_id)):
        pins.write(instance_id, *shown[-1])
    if terms.adopt:
        _adopt(aws, errand, instance, machine)
    contact.reach(machine, lambda: None, within=30.0).close()
    return machine


def cost(wish: Wish, errand: Errand) -> str | None:
    """A stopped one begins to cost when it is started."""
    aws = api.connected((errand.run.terms or Terms()).region)
    instance = find(aws, wish)
    if instances.state(instance) == "running":
        return None
    name = str(instance["InstanceType"])
    price = prices.on_demand(aws, [name])[name]
    state = instances.state(instance)
    return f"{instance['InstanceId']} ({name}) is {state}: start it, at ${price.usd:.2f} an hour?"


def plan(aws: Aws, wish: Wish, terms: Terms) -> dict[str, Any]:
    """What is known of it, and what ends it."""
    instance = find(aws, wish)
    name = str(instance["InstanceType"])
    price = prices.on_demand(aws, [name])[name]
    return {
        "machine": str(instance["InstanceId"]),
        "region": aws.region,
        "state": instances.state(instance),
        "type": name,
        "usd_per_hour": price.usd,
        "price_date": price.date,
        "price_source": price.source,
        "after": terms.after if terms.adopt else "keep",
        "guards": _guards(aws, instance),
    }


def _guards(aws: Aws, instance: dict[str, Any]) -> dict[str, str]:
    """What ends the machine without this computer: what it was made with by ec2emo, else nothing."""
    tagged = tags.read(instance)
    if tags.OWNER not in tagged or tags.ADOPTED in tagged:
        nobody = "none: it was there before ec2emo, and costs until a person stops it"
        return {"shutdown": nobody, "idle": "none", "outside": "none"}
    backed = setup.found(aws) is not None
    due = schedule.due(aws, str(instance["InstanceId"])) if backed else None
    alone = "none: no schedule was made for it" if backed else f"none: {setup.MISSING}"
    return {
        "shutdown": f"at {tagged.get(tags.UNTIL)}, armed when it was made for {tagged.get(tags.RUN)}",
        "idle": "ended by a guard on it",
        "outside": f"a schedule, at {clock.iso(due)}" if due else alone,
    }


def find(aws: Aws, wish: Wish) -> dict[str, Any]:
    """The machine as EC2 describes it. Raises BadRequest when there is none, or several."""
    match = THERE.fullmatch(wish.where)
    assert match is not None
    if match["id"]:
        instance = instances.describe(aws, match["id"])
        there = [instance] if instance else []
    else:
        there = instances.named(aws, match["name"])
    if not there:
        raise BadRequest(f"there is no machine {wish.where} in {aws.region}: check the name, and --region")
    if len(there) > 1:
        ids = ", ".join(str(i["InstanceId"]) for i in there)
        raise BadRequest(f"{wish.where} are {len(there)} machines ({ids}): name one by its id")
    if instances.state(there[0]) in instances.OVER:
        raise BadRequest(f"{wish.where} has ended ({instances.reason(there[0])}): name another")
    return there[0]


def machine_at(aws: Aws, wish: Wish, instance: dict[str, Any], terms: Terms) -> Machine:
    """How it is reached. Raises BadRequest when nobody can tell whom to log in as."""
    match = THERE.fullmatch(wish.where)
    assert match is not None
    instance_id = str(instance["InstanceId"])
    user = match["user"] or image.user_of(aws, str(instance.get("ImageId", "")))
    if user is None:
        raise BadRequest(
            f"the image of {instance_id} does not tell whom to log in as: write --on USER@{instance_id}"
        )
    address = (
        instance_id if terms.via else instance.get("PublicIpAddress") or instance.get("PrivateIpAddress")
    )
    key = str(Path(wish.key).expanduser().absolute()) if wish.key else None
    return Machine(
        "ec2", host=str(address), user=user, key=key, id=instance_id, region=aws.region, via=terms.via
    )


def _adopt(aws: Aws, errand: Errand, instance: dict[str, Any], machine: Machine) -> None:
    """From now on it is ours: written down, then tagged."""
    run, store = errand.run, errand.store
    instance_id, owner = str(instance["InstanceId"]), (errand.run.terms or Terms()).owner or aws.owner
    held = tags.read(instance).get(tags.OWNER)
    if held not in (None, owner):
        raise BadRequest(f"{instance_id} is {held}'s: only a machine that is nobody's can be adopted")
    with store.holding(run.id):
        before = store.lease(run.id)
        if before is not None and before.instance == instance_id:
            return
        lease = Lease(
            run=run.id,
            uid=run.spec.uid,
            number=before.number + 1 if before else 1,
            provider="ec2",
            region=aws.region,
            owner=owner,
            asked=clock.now(),
            terms=run.terms or Terms(),
            made=False,
            instance=instance_id,
            instance_type=str(instance["InstanceType"]),
            market="spot" if instance.get("InstanceLifecycle") == "spot" else "on-demand",
            launched=instances.launched(instance),
            user=machine.user,
            reached=clock.now(),
        )
        price = prices.of(aws, str(instance["InstanceType"]), lease.market or "on-demand", None)
        store.keep_lease(
            dataclasses.replace(lease, usd_per_hour=price.usd, priced=f"{price.source}, {price.date}")
        )
        added = tags.of(owner=owner, run=run.id, uid=run.spec.uid, number=lease.number, until="")
        added = {k: v for k, v in added.items() if k.startswith(tags.PREFIX) and v} | {tags.ADOPTED: "yes"}
        aws.ask("ec2", "create_tags", Resources=[instance_id], Tags=tags.as_list(added))
