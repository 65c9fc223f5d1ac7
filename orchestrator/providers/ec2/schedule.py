"""The end of a machine from outside it: a one-shot schedule of EventBridge that terminates it.

It needs neither the machine, whose kernel may hang, nor this computer. One for each machine, named after it;
it deletes itself once it has run.
"""

from __future__ import annotations

import datetime
import json
from typing import Any

from orchestrator.errors import Ec2emoError
from orchestrator.providers.ec2 import clock
from orchestrator.providers.ec2.api import Aws

PREFIX = "ec2emo-"
TERMINATE = "arn:aws:scheduler:::aws-sdk:ec2:terminateInstances"
SLACK = 120.0  # seconds after its time in which a machine may still end itself, and save what it has
# The schedule goes with its last failed try, too; tries are spread over a day.
RETRIES = {"MaximumRetryAttempts": 185, "MaximumEventAgeInSeconds": 86400}


def arm(aws: Aws, role: str, machine: str, at: float) -> None:
    """Have the machine terminated at `at`, in seconds since 1970, in the `role` that `ec2emo setup` made.

    A schedule that is there is moved.
    """
    asked = body(role, machine, at)
    try:
        aws.ask("scheduler", "create_schedule", **asked)
    except Ec2emoError as e:
        if e.code != "ConflictException":
            raise
        aws.ask("scheduler", "update_schedule", **asked)


def disarm(aws: Aws, machine: str) -> None:
    """Take the schedule of a machine away; one that is gone is gone."""
    try:
        aws.ask("scheduler", "delete_schedule", Name=PREFIX + machine)
    except Ec2emoError as e:
        if e.code != "ResourceNotFoundException":
            raise


def machines(aws: Aws) -> list[str]:
    """Those that have a schedule of ours in this region."""
    listed = aws.all("scheduler", "list_schedules", "Schedules", NamePrefix=PREFIX)
    return [str(one["Name"]).removeprefix(PREFIX) for one in listed]


def due(aws: Aws, machine: str) -> float | None:
    """When the schedule of a machine ends it, in seconds since 1970; None where it has none."""
    try:
        said = aws.ask("scheduler", "get_schedule", Name=PREFIX + machine)["ScheduleExpression"]
    except Ec2emoError as e:
        if e.code != "ResourceNotFoundException":
            raise
        return None
    return clock.parse_iso(said.removeprefix("at(").removesuffix(")") + "Z")


def body(role: str, machine: str, at: float) -> dict[str, Any]:
    """The request. Pure. Times of schedules are in UTC, to the second."""
    when = datetime.datetime.fromtimestamp(at + SLACK, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return {
        "Name": PREFIX + machine,
        "Description": "ends a machine of ec2emo that has not ended itself",
        "ScheduleExpression": f"at({when})",
        "ScheduleExpressionTimezone": "UTC",
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "ActionAfterCompletion": "DELETE",
        "Target": {
            "Arn": TERMINATE,
            "RoleArn": role,
            "Input": json.dumps({"InstanceIds": [machine]}),
            "RetryPolicy": RETRIES,
        },
    }
