"""Machines as EC2 describes them, and the verbs that change them."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.errors import Ec2emoError, OutcomeUnknown
from orchestrator.providers.ec2 import clock, tags
from orchestrator.providers.ec2.api import Aws

OVER = ("shutting-down", "terminated")
PRESENT = ("pending", "running", "stopping", "stopped", "shutting-down")
ENDS_WITHIN = 300.0
INSISTS_FOR = 30.0  # seconds of asking EC2 again to end a machine
VISIBLE_WITHIN = 90.0  # seconds after which a machine that was made can be described

tags_of = tags.read


def describe(aws: Aws, instance_id: str) -> dict[str, Any] | None:
    """One machine; None while, or since, EC2 does not know it."""
    try:
        answer = aws.ask("ec2", "describe_instances", InstanceIds=[instance_id])
    except Ec2emoError as e:
        if e.code == "InvalidInstanceID.NotFound":
            return None
        raise
    return next((dict(i) for r in answer["Reservations"] for i in r["Instances"]), None)


def ours(aws: Aws, owner: str, run: str | None = None) -> Iterator[dict[str, Any]]:
    """The machines that carry this owner's tags and have not ended."""
    filters = [*tags.filters(owner, run), {"Name": "instance-state-name", "Values": list(PRESENT)}]
    for reservation in aws.all("ec2", "describe_instances", "Reservations", Filters=filters):
        yield from reservation["Instances"]


def named(aws: Aws, name: str) -> list[dict[str, Any]]:
    """The machines with this Name tag that have not ended."""
    filters = [
        {"Name": "tag:Name", "Values": [name]},
        {"Name": "instance-state-name", "Values": list(PRESENT)},
    ]
    found = aws.all("ec2", "describe_instances", "Reservations", Filters=filters)
    return [dict(i) for r in found for i in r["Instances"]]


def state(instance: Mapping[str, Any]) -> str:
    """pending, running, stopping, stopped, shutting-down or terminated."""
    return str(instance["State"]["Name"])


def reason(instance: Mapping[str, Any]) -> str:
    """Why it is as it is, in EC2's words."""
    why = instance.get("StateReason") or {}
    said = str(why.get("Message") or instance.get("StateTransitionReason") or "").strip()
    return said or f"it is {state(instance)}, and EC2 does not say why"


def launched(instance: Mapping[str, Any]) -> float | None:
    """When it was last started, in seconds since 1970."""
    at = instance.get("LaunchTime")
    return at.timestamp() if isinstance(at, datetime.datetime) else None


def start(aws: Aws, instance_id: str) -> None:
    """Start a stopped one. Raises NoCapacity, QuotaExceeded, ..."""
    aws.once("ec2", "start_instances", InstanceIds=[instance_id])


def stop(aws: Aws, instance_id: str) -> None:
    """Stop it; its disk stays, and costs."""
    aws.ask("ec2", "stop_instances", InstanceIds=[instance_id])


def terminate(aws: Aws, instance_id: str, *, born: float | None = None) -> None:
    """End it for good; one that is gone is gone. Raises OutcomeUnknown when EC2 does not confirm.

    `born` is when it was made: for a while after that EC2 may not know it yet, which is not being gone.
    """
    last: Ec2emoError | None = None
    young = VISIBLE_WITHIN - (clock.now() - born) if born else 0.0
    for _ in clock.backing_off(within=max(INSISTS_FOR, young)):
        try:
            aws.ask("ec2", "terminate_instances", InstanceIds=[instance_id])
            return
        except Ec2emoError as e:
            unknown = e.code == "InvalidInstanceID.NotFound"
            if unknown and (born is None or clock.now() - born > VISIBLE_WITHIN):
                return
            if e.exit_code == 5:
                raise
            last = e
    raise OutcomeUnknown(
        f"{instance_id} could not be terminated and goes on costing ({last}): repeat the command, or end it "
        f"in the EC2 console",
        code=last.code if last else None,
    )


def await_state(aws: Aws, instance_id: str, wanted: str) -> bool:
    """Whether it came to that state in time; one nobody knows any more has ended."""
    for _ in clock.every(2.0, within=ENDS_WITHIN):
        instance = describe(aws, instance_id)
        now = "terminated" if instance is None else state(instance)
        if now == wanted or now == "terminated":
            return now == wanted
    return False
