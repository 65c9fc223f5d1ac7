"""The policies in docs/ allow what is really asked of AWS, nothing that is not, and nothing of others'."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.machine import Terms
from orchestrator.providers.ec2 import api, instances, limits, provision, schedule, setup
from orchestrator.providers.ec2.book import Book
from orchestrator.store import Store
from tests.orchestrator.ec2.conftest import NEVER, errand, user_data

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud

ROOT = Path(__file__).parents[3]
SOURCES = sorted((ROOT / "orchestrator" / "providers" / "ec2").glob("*.py"))
SERVICES = {
    *("cloudformation", "ec2", "pricing", "s3", "scheduler", "service-quotas", "ssm", "sts"),
}
# Where an action is not called as its operation is.
ACTIONS = {
    "s3:DeleteObjects": ("s3:DeleteObject", "s3:DeleteObjectVersion"),
    "s3:ListObjectVersions": ("s3:ListBucketVersions",),
    "s3:ListObjectsV2": ("s3:ListBucket",),
}
# What AWS asks permission for without being called so: a fleet runs instances, what is made is tagged, roles
# are passed on, and who may not list a bucket is not told that an object is not there.
IMPLIED = {"ec2:RunInstances", "ec2:CreateTags", "iam:PassRole", "s3:ListBucket"}
# What the AWS command line asks for, when it is a tunnel's end.
TUNNELS = {
    *("ec2-instance-connect:OpenTunnel", "ssm:ResumeSession", "ssm:StartSession", "ssm:TerminateSession"),
}


def statements(name: str) -> list[dict[str, Any]]:
    policy = json.loads((ROOT / "docs" / name).read_text())
    found: list[dict[str, Any]] = policy["Statement"]
    return found


def actions(name: str) -> set[str]:
    return {
        a for s in statements(name) for a in ([s["Action"]] if isinstance(s["Action"], str) else s["Action"])
    }


def needed(service: str, operation: str) -> tuple[str, ...]:
    """What must be allowed for a call; operations as boto3 or as AWS writes them."""
    if "_" in operation or operation.islower():
        import boto3

        client = boto3.client(
            service, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
        )
        operation = client.meta.method_to_api_mapping[operation]
    name = f"{service.replace('service-quotas', 'servicequotas')}:{operation}"
    return ACTIONS.get(name, (name,))


def calls(path: Path) -> Iterator[tuple[str, str]]:
    """Every operation of AWS that a file names."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.For) and isinstance(node.iter, ast.Tuple) and path.stem == "quotas":
            yield from (("service-quotas", e.value) for e in node.iter.elts if isinstance(e, ast.Constant))
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute | ast.Name):
            continue
        words = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
        if called in ("ask", "once", "all") and len(words) > 1 and words[0] in SERVICES:
            yield words[0], words[1]
        elif called == "_tagged":
            yield "ec2", words[0]
        elif called == "get_object":
            yield "s3", "get_object"


def asked(*names: str) -> set[str]:
    paths = [p for p in SOURCES if not names or p.stem in names]
    return {a for path in paths for call in calls(path) for a in needed(*call)}


def test_what_is_asked_for_is_found_in_the_source() -> None:
    assert {"ec2:CreateFleet", "ec2:TerminateInstances", "s3:GetObject", "ssm:GetParameters"} <= asked()
    assert len(asked()) > 35


def test_the_policy_allows_every_call_and_nothing_else() -> None:
    setup_alone = asked("setup") - asked(*(p.stem for p in SOURCES if p.stem != "setup"))
    others = asked() - setup_alone | {"cloudformation:DescribeStacks"}
    assert actions("aws-policy.json") == others | IMPLIED | TUNNELS


def test_the_policy_for_setup_allows_its_calls() -> None:
    assert asked("setup") <= actions("aws-policy-setup.json")


@pytest.mark.parametrize("name", ["aws-policy.json", "aws-policy-setup.json"])
def test_no_statement_allows_everything(name: str) -> None:
    for statement in statements(name):
        assert statement["Effect"] == "Allow"
        assert not {"NotAction", "NotResource"} & set(statement)
        named = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        assert not [a for a in named if "*" in a]
        if statement["Resource"] == "*":
            reads = ("Describe", "Get", "List")
            assert all(a.partition(":")[2].startswith(reads) for a in named), statement["Sid"]


def test_what_changes_or_ends_a_machine_needs_our_tag_on_it() -> None:
    for statement in statements("aws-policy.json"):
        for action in ("ec2:TerminateInstances", "ec2:StopInstances", "ec2:ModifyInstanceAttribute"):
            if action in statement["Action"]:
                assert statement["Condition"] == {"StringLike": {"aws:ResourceTag/ec2emo:owner": "?*"}}


def test_every_call_of_a_launch_and_its_end_is_allowed(cloud: Cloud, at_home: Store) -> None:
    """Action by action against what the account saw, and enforced, resource by resource, by the account."""
    cloud.instances.delays.pending = NEVER
    run = errand(at_home, Terms(instance_types=("g4dn.xlarge",))).run
    aws = api.connected(None)
    setup.install(aws, lambda _: None)
    cloud.enforce(json.loads((ROOT / "docs" / "aws-policy.json").read_text()))
    cloud.calls.clear()
    with at_home.holding(run.id):
        book = Book(at_home, provision.new_lease(aws, run, run.terms or Terms(), 1))
        provision.find_or_launch(book, aws, lambda _: None)
        limits.end_from_outside(book.lease, aws)
        assert schedule.machines(aws) == ([book.lease.instance] if book.lease.after == "terminate" else [])
        instances.terminate(aws, str(book.lease.instance))
        provision.undo(book, aws)
    made = {a for c in cloud.calls for a in needed(*c.name.split(":"))}
    assert "ec2:CreateFleet" in made
    assert made <= actions("aws-policy.json")


def test_a_launch_request_asks_for_what_is_safe(cloud: Cloud, at_home: Store) -> None:
    """X8: as it was captured on the wire."""
    cloud.instances.delays.pending = NEVER
    run = errand(at_home, Terms(instance_types=("g4dn.xlarge",))).run
    aws = api.connected(None)
    made = setup.install(aws, lambda _: None)
    with at_home.holding(run.id):
        book = Book(at_home, provision.new_lease(aws, run, run.terms or Terms(), 1))
        provision.find_or_launch(book, aws, lambda _: None)
    (template,) = [
        c.parameters["LaunchTemplateData"] for c in cloud.calls if c.action == "CreateLaunchTemplate"
    ]
    options = template["MetadataOptions"]
    assert (options["HttpTokens"], int(options["HttpPutResponseHopLimit"])) == ("required", 1)
    assert template["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert template["IamInstanceProfile"] == {"Name": made.profile}
    for disk in template["BlockDeviceMappings"]:
        assert disk["Ebs"]["Encrypted"]
        assert disk["Ebs"]["DeleteOnTermination"]
    for call in cloud.calls:
        if call.action == "AuthorizeSecurityGroupIngress":
            for permission in call.parameters["IpPermissions"]:
                ranges = [r["CidrIp"] for r in permission.get("IpRanges", [])]
                ranges += [r["CidrIpv6"] for r in permission.get("Ipv6Ranges", [])]
                assert ranges
                assert all(r.endswith(("/32", "/128")) for r in ranges)
    (instance,) = cloud.living()
    script = user_data(cloud, instance.id)
    assert script.count("PRIVATE KEY") == 2
    assert cloud.environment["AWS_SECRET_ACCESS_KEY"] not in script
    assert made.bucket in script
