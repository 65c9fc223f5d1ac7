"""`ec2emo setup`: what it makes, what that may do, and that it goes again without a trace."""

from __future__ import annotations

import ast
import dataclasses
import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import pytest
import yaml

from orchestrator.errors import BadRequest, RunFailed
from orchestrator.machine import Terms
from orchestrator.providers.ec2 import clock, offer, schedule, setup
from orchestrator.providers.ec2.api import Aws
from orchestrator.providers.ec2.setup import Setup
from tests.cloud.cloud import Cloud
from tests.cloud.moto import ACCOUNT
from tests.conftest import Ec2emo

REGION = "us-east-1"


@pytest.fixture
def aws(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Aws:
    for name, value in cloud.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(clock, "sleep", lambda _: None)
    return Aws(REGION)


def quietly(_: str) -> None:
    pass


def policy_of(cloud: Cloud, role: str) -> dict[str, Any]:
    """The policy of a role that says what it is for, as the account has it."""
    iam, name = cloud.client("iam"), role.rpartition("/")[2]
    assert iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"] == []
    (policy,) = set(iam.list_role_policies(RoleName=name)["PolicyNames"]) - {"sessions"}
    said = iam.get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"]
    document: dict[str, Any] = ast.literal_eval(said)  # moto writes it as Python would
    return document


def allows(
    policy: Mapping[str, Any], action: str, resource: str, context: Mapping[str, str] | None = None
) -> bool:
    """IAM's evaluation, for policies that only allow and only know StringLike."""
    context = context or {}

    def listed(value: Any) -> list[str]:
        return value if isinstance(value, list) else [value]

    for statement in policy["Statement"]:
        assert statement["Effect"] == "Allow"
        assert not {"NotAction", "NotResource"} & set(statement)
        conditions = statement.get("Condition", {})
        assert set(conditions) <= {"StringLike"}
        likes = conditions.get("StringLike", {})
        if (
            any(fnmatchcase(action, a) for a in listed(statement["Action"]))
            and any(fnmatchcase(resource, r) for r in listed(statement["Resource"]))
            and all(fnmatchcase(context.get(k, ""), v) for k, v in likes.items())
        ):
            return True
    return False


def test_without_it_nothing_is_found(aws: Aws) -> None:
    assert setup.found(aws) is None


def test_who_may_not_look_has_none(aws: Aws, cloud: Cloud) -> None:
    setup.install(aws, quietly)
    cloud.deny("cloudformation:*")
    assert setup.found(aws) is None


def test_it_is_made_once_and_then_left_as_it_is(aws: Aws, cloud: Cloud) -> None:
    made = setup.install(aws, quietly)
    assert made == setup.found(aws)
    cloud.calls.clear()
    assert setup.install(aws, quietly) == made
    assert set(cloud.names()) == {"cloudformation:DescribeStacks"}


def test_a_plan_names_the_guard_outside_of_the_machine(aws: Aws) -> None:
    setup.install(aws, quietly)
    told = offer.plan(aws, Terms(), offer.look(aws, Terms()))
    assert told["guards"]["outside"] == "a schedule, and a copy of the run in S3"


def test_another_template_brings_it_up_to_date(
    aws: Aws, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = setup.install(aws, quietly)
    changed = setup.template().replace("NoncurrentDays: 7", "NoncurrentDays: 8")
    monkeypatch.setattr(setup, "template", lambda: changed)
    cloud.calls.clear()
    assert setup.install(aws, quietly).bucket == made.bucket
    assert "cloudformation:UpdateStack" in cloud.names()


def test_what_fails_is_told_in_cloudformations_words(
    aws: Aws, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = {"StackName": "ec2emo", "StackStatus": "ROLLBACK_IN_PROGRESS", "Tags": []}
    answers = iter([None, stack])
    monkeypatch.setattr(setup, "_stack", lambda _: next(answers))
    with pytest.raises(RunFailed, match="could not be made in us-east-1"):
        setup.install(aws, quietly)


def _resources() -> Any:
    """By the template: moto's CloudFormation leaves much of it out."""

    class Loader(yaml.SafeLoader):
        """YAML with CloudFormation's short forms, which stay the text they are."""

    Loader.add_multi_constructor("!", lambda loader, _, node: loader.construct_scalar(node))
    return yaml.load(setup.template(), Loader)["Resources"]


def test_the_bucket_is_private_and_keeps_what_was_overwritten() -> None:
    made = _resources()
    bucket = made["Bucket"]["Properties"]
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert len(bucket["PublicAccessBlockConfiguration"]) == 4
    assert bucket["OwnershipControls"]["Rules"] == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    assert bucket["BucketEncryption"]
    (rule,) = bucket["LifecycleConfiguration"]["Rules"]
    assert "ExpirationInDays" not in rule  # what is current stays for ever
    (denied,) = made["BucketPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    assert (denied["Effect"], denied["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})


def test_a_machine_reaches_its_runs_and_nothing_else(aws: Aws, cloud: Cloud) -> None:
    made = setup.install(aws, quietly)
    policy, bucket = policy_of(cloud, made.machine_role), f"arn:aws:s3:::{made.bucket}"
    for verb in ("Get", "Put", "Delete"):
        assert allows(policy, f"s3:{verb}Object", f"{bucket}/runs/a-run/index.json")
        assert not allows(policy, f"s3:{verb}Object", f"{bucket}/other/index.json")
        assert not allows(policy, f"s3:{verb}Object", "arn:aws:s3:::another/runs/a-run/index.json")
    assert allows(policy, "s3:ListBucket", bucket, {"s3:prefix": "runs/a-run/objects/"})
    assert not allows(policy, "s3:ListBucket", bucket, {"s3:prefix": "other/"})
    for never in (
        *("ec2:RunInstances", "ec2:CreateFleet", "ec2:TerminateInstances", "ec2:ModifyInstanceAttribute"),
        *("iam:PassRole", "iam:CreateUser", "sts:AssumeRole", "scheduler:CreateSchedule"),
        *("s3:DeleteObjectVersion", "s3:PutBucketPolicy", "s3:DeleteBucket", "ssm:GetParameter"),
    ):
        assert not allows(policy, never, "*", {"s3:prefix": "runs/a-run/"})
        assert not allows(policy, never, f"{bucket}/runs/a-run/index.json")
    actions = {
        a
        for s in policy["Statement"]
        for a in ([s["Action"]] if isinstance(s["Action"], str) else s["Action"])
    }
    assert not [a for a in actions if "*" in a]
    assert {a.partition(":")[0] for a in actions} == {"s3"}


def test_a_machine_may_be_reached_by_sessions_and_learns_nothing_by_that() -> None:
    (sessions,) = [
        p for p in _resources()["MachineRole"]["Properties"]["Policies"] if p["PolicyName"] != "runs"
    ]
    (statement,) = sessions["PolicyDocument"]["Statement"]
    assert (sessions["PolicyName"], statement["Effect"]) == ("sessions", "Allow")
    assert set(statement["Action"]) == {
        "ssm:UpdateInstanceInformation",
        *(f"ssmmessages:{verb}{of}Channel" for verb in ("Create", "Open") for of in ("Control", "Data")),
    }


def test_the_schedulers_role_ends_our_machines_and_nothing_else(aws: Aws, cloud: Cloud) -> None:
    made = setup.install(aws, quietly)
    policy = policy_of(cloud, made.scheduler_role)
    machine = f"arn:aws:ec2:{REGION}:{ACCOUNT}:instance/i-1"
    ours = {"aws:ResourceTag/ec2emo:run": "a-run"}
    assert allows(policy, "ec2:TerminateInstances", machine, ours)
    assert not allows(policy, "ec2:TerminateInstances", machine)
    assert not allows(policy, "ec2:TerminateInstances", machine, {"aws:ResourceTag/Name": "a-run"})
    for never in ("ec2:StopInstances", "ec2:RunInstances", "iam:PassRole", "s3:GetObject"):
        assert not allows(policy, never, machine, ours)
    role = cloud.client("iam").get_role(RoleName=made.scheduler_role.rpartition("/")[2])["Role"]
    (trust,) = role["AssumeRolePolicyDocument"]["Statement"]
    assert trust["Principal"] == {"Service": "scheduler.amazonaws.com"}
    assert trust["Condition"] == {"StringEquals": {"aws:SourceAccount": ACCOUNT}}


def test_all_of_it_goes_again(aws: Aws, cloud: Cloud) -> None:
    made = setup.install(aws, quietly)
    schedule.arm(aws, made.scheduler_role, "i-1", clock.now() + 3600)
    s3 = cloud.client("s3")
    s3.put_object(Bucket=made.bucket, Key="runs/a-run/index.json", Body=b"{}")
    with pytest.raises(BadRequest, match="holds 1 runs \\(a-run\\)"):
        setup.remove(aws, quietly, with_runs=False)
    assert setup.found(aws) == made
    s3.delete_object(Bucket=made.bucket, Key="runs/a-run/index.json")  # its versions stay
    assert setup.remove(aws, quietly, with_runs=True)
    assert setup.found(aws) is None
    assert s3.list_buckets()["Buckets"] == []
    assert cloud.client("iam").list_roles()["Roles"] == []
    assert cloud.leftovers() == []
    assert not setup.remove(aws, quietly, with_runs=False)


def test_a_schedule_ends_the_machine_from_outside_soon_after_its_time(aws: Aws, cloud: Cloud) -> None:
    role = setup.install(aws, quietly).scheduler_role
    at = cloud.clock.now() + 3600
    schedule.arm(aws, role, "i-0123456789abcdef0", at)
    assert schedule.machines(aws) == ["i-0123456789abcdef0"]
    cloud.clock.advance(3600)
    assert cloud.schedules.fired == []
    cloud.clock.advance(120)
    ((name, action, _),) = cloud.schedules.fired
    assert (name, action) == ("ec2emo-i-0123456789abcdef0", "terminateInstances")
    assert schedule.machines(aws) == []


def test_a_schedule_is_moved_by_arming_it_again_and_goes_when_it_is_disarmed(aws: Aws, cloud: Cloud) -> None:
    role = setup.install(aws, quietly).scheduler_role
    for at in (2_000_000_000.0, 2_000_003_600.0):
        schedule.arm(aws, role, "i-1", at)
        assert (schedule.machines(aws), schedule.due(aws, "i-1")) == (["i-1"], at + schedule.SLACK)
    schedule.disarm(aws, "i-1")
    schedule.disarm(aws, "i-1")
    assert schedule.machines(aws) == []


def test_a_schedule_insists_for_a_day_and_then_goes() -> None:
    asked = schedule.body("arn:aws:iam::1:role/r", "i-1", 1_900_000_000.0)
    assert asked["ScheduleExpression"] == "at(2030-03-17T17:48:40)"
    assert json.loads(asked["Target"]["Input"]) == {"InstanceIds": ["i-1"]}
    assert asked["ActionAfterCompletion"] == "DELETE"
    assert asked["Target"]["RetryPolicy"]["MaximumEventAgeInSeconds"] == 86400


def test_the_command_asks_before_it_makes_and_prints_what_it_would_make(ec2emo: Ec2emo, cloud: Cloud) -> None:
    ec2emo.env.update(cloud.environment)
    assert ec2emo("setup", "--print").out.rstrip() == setup.template().rstrip()
    assert cloud.calls == []
    assert "--yes goes ahead" in ec2emo("setup", code=2).err
    made = json.loads(ec2emo("setup", "--yes", "--json").out)
    assert made["store"].startswith("s3://")
    assert made["store"].endswith("/runs")
    assert "nothing of it is left" in ec2emo("setup", "--delete", "--yes").err
    assert "there was none" in ec2emo("setup", "--delete", "--yes").err


def test_a_setup_says_where_runs_are_kept() -> None:
    made = Setup(bucket="b", prefix="runs", profile="p", machine_role="m", scheduler_role="s")
    assert dataclasses.replace(made, prefix="x").store == "s3://b/x"
