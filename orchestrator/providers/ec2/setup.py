"""What `ec2emo setup` makes in an account: one CloudFormation stack, from `stack.yaml` beside this file.

Machines are rented without it, too; then runs are kept on the machine and at home alone, and nothing outside
the machine ends it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

from orchestrator.errors import BadRequest, Ec2emoError, OutcomeUnknown, Refused, RunFailed
from orchestrator.providers.ec2 import clock, instances, schedule
from orchestrator.providers.ec2.api import Aws

STACK = "ec2emo"
TEMPLATE_TAG = "ec2emo:template"
MADE_WITHIN = 600.0
DELETED_AT_ONCE = 1000  # objects, the most S3 takes in one request
BROKEN = ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "DELETE_FAILED")
MISSING = (
    "'ec2emo setup' has not been run here: no copy of the run is kept in S3, so what is not downloaded is "
    "lost with the machine, and nothing outside the machine ends it"
)

NO_ROLE = (
    "--via ssm needs a machine whose role lets it be reached so, and 'ec2emo setup' has not been run here: "
    "run it, which makes that role, or take --via eice"
)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Setup:
    """What is there: the bucket and the prefix runs are mirrored below, the machine's profile and its role,
    and the role that ends machines from outside.
    """

    bucket: str
    prefix: str
    profile: str
    machine_role: str
    scheduler_role: str

    @property
    def store(self) -> str:
        """The mirror's place, as a URL."""
        return f"s3://{self.bucket}/{self.prefix}"


def template() -> str:
    """The stack's template."""
    return resources.files(__package__).joinpath("stack.yaml").read_text()


def found(aws: Aws) -> Setup | None:
    """What an earlier `ec2emo setup` made in this region; None for nothing, or where one may not look."""
    try:
        stack = _stack(aws)
    except Refused:
        return None
    if stack is None or not _whole(stack):
        return None
    named = {out["OutputKey"]: str(out["OutputValue"]) for out in stack.get("Outputs") or ()}
    return Setup(
        bucket=named["Bucket"],
        prefix=named["Prefix"],
        profile=named["MachineProfile"],
        machine_role=named["MachineRoleArn"],
        scheduler_role=named["SchedulerRoleArn"],
    )


def install(aws: Aws, say: Say) -> Setup:
    """Make the stack, or bring it up to date; nothing is done where it is as it should be. Raises RunFailed
    with CloudFormation's reason.
    """
    body = template()
    asked = {
        "StackName": STACK,
        "TemplateBody": body,
        "Capabilities": ["CAPABILITY_IAM"],
        "Tags": [{"Key": TEMPLATE_TAG, "Value": _digest(body)}],
    }
    stack = _stack(aws)
    if stack and stack["StackStatus"] in BROKEN:
        say(f"removing what an earlier try left ({stack['StackStatus']})")
        aws.ask("cloudformation", "delete_stack", StackName=STACK)
        _await_end(aws, say)
        stack = None
    if stack is None:
        say("making the bucket and the roles")
        aws.ask("cloudformation", "create_stack", **asked, OnFailure="DELETE")
    elif {"Key": TEMPLATE_TAG, "Value": _digest(body)} not in stack.get("Tags", []):
        say("bringing the stack up to date")
        aws.ask("cloudformation", "update_stack", **asked)
    _await_whole(aws, say)
    made = found(aws)
    assert made is not None
    return made


def remove(aws: Aws, say: Say, *, with_runs: bool) -> bool:
    """Take all of it away again; False when there was nothing. Raises BadRequest while machines use it, or
    while the bucket holds runs that are not to go.
    """
    made, stack = found(aws), _stack(aws)
    if stack is None:
        return False
    up = [str(i["InstanceId"]) for i in instances.ours(aws, aws.owner)]
    if up:
        raise BadRequest(
            f"{', '.join(up)} may still keep runs in the bucket: 'ec2emo machines terminate {up[0]}' first"
        )
    if made is not None:
        runs = sorted({key.split("/")[1] for key, _ in _versions(aws, made.bucket) if key.count("/") > 1})
        if runs and not with_runs:
            some = ", ".join(runs[:5]) + (", …" if len(runs) > 5 else "")
            raise BadRequest(
                f"the bucket {made.bucket} holds {len(runs)} runs ({some}): download what you want to keep; "
                f"'ec2emo setup --delete --with-runs' deletes them too"
            )
        say(f"emptying {made.bucket}")
        _empty(aws, made.bucket)
    for machine in schedule.machines(aws):
        schedule.disarm(aws, machine)
    say("removing the roles and the bucket")
    aws.ask("cloudformation", "delete_stack", StackName=STACK)
    _await_end(aws, say)
    return True


def _stack(aws: Aws) -> dict[str, Any] | None:
    try:
        stacks = aws.ask("cloudformation", "describe_stacks", StackName=STACK)["Stacks"]
    except Ec2emoError as e:
        if e.code == "ValidationError":  # so CloudFormation says that there is none
            return None
        raise
    return next((dict(s) for s in stacks if s["StackStatus"] != "DELETE_COMPLETE"), None)


def _whole(stack: dict[str, Any]) -> bool:
    return str(stack["StackStatus"]).endswith("_COMPLETE") and stack["StackStatus"] not in BROKEN


def _await_whole(aws: Aws, say: Say) -> None:
    for spent in clock.every(2.0, within=MADE_WITHIN):
        stack = _stack(aws)
        if stack is None or stack["StackStatus"] in BROKEN or "ROLLBACK" in stack["StackStatus"]:
            raise RunFailed(
                f"the stack {STACK} could not be made in {aws.region}: {_why_failed(aws)}; mend that and "
                f"repeat the command"
            )
        if not stack["StackStatus"].endswith("_IN_PROGRESS"):
            return
        say(f"{stack['StackStatus'].lower().replace('_', ' ')}, {spent:.0f} s")
    raise OutcomeUnknown(f"the stack {STACK} in {aws.region} is still not made: repeat the command later")


def _await_end(aws: Aws, say: Say) -> None:
    for spent in clock.every(2.0, within=MADE_WITHIN):
        stack = _stack(aws)
        if stack is None:
            return
        if stack["StackStatus"] == "DELETE_FAILED":
            raise RunFailed(
                f"the stack {STACK} could not be removed from {aws.region}: {_why_failed(aws)}; mend that "
                f"and repeat the command"
            )
        say(f"removing, {spent:.0f} s")
    raise OutcomeUnknown(f"the stack {STACK} in {aws.region} is still there: repeat the command later")


def _why_failed(aws: Aws) -> str:
    """The first thing that went wrong, in CloudFormation's words; all after it follow from it."""
    try:
        events = list(aws.all("cloudformation", "describe_stack_events", "StackEvents", StackName=STACK))
    except Ec2emoError:
        return "CloudFormation does not say why"
    failed = [e for e in events if str(e.get("ResourceStatus", "")).endswith("FAILED")]
    if not failed:
        return "CloudFormation does not say why"
    first = failed[-1]  # the newest come first
    return f"{first['LogicalResourceId']}: {first.get('ResourceStatusReason', 'without a reason')}"


def _versions(aws: Aws, bucket: str) -> Iterator[tuple[str, str]]:
    """Every version of every object, also of deleted ones."""
    for kind in ("Versions", "DeleteMarkers"):
        for one in aws.all("s3", "list_object_versions", kind, Bucket=bucket):
            yield str(one["Key"]), str(one["VersionId"])


def _empty(aws: Aws, bucket: str) -> None:
    versions = list(_versions(aws, bucket))
    for start in range(0, len(versions), DELETED_AT_ONCE):
        batch = versions[start : start + DELETED_AT_ONCE]
        doomed = [{"Key": key, "VersionId": version} for key, version in batch]
        aws.ask("s3", "delete_objects", Bucket=bucket, Delete={"Objects": doomed, "Quiet": True})


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:16]
