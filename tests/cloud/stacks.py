"""CloudFormation, where moto's does not go: schedule groups, bucket policies, buckets that are not empty."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from tests.cloud.wire import Call

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud

ROLE = "AWS::IAM::Role"
BUCKET, GROUP, POLICY = "AWS::S3::Bucket", "AWS::Scheduler::ScheduleGroup", "AWS::S3::BucketPolicy"


@dataclass
class Stack:
    """What the cloud keeps of a stack beside moto: its template, and what it made of it itself."""

    template: dict[str, Any]
    # By logical id: type and physical id.
    resources: dict[str, tuple[str, str]] = field(default_factory=dict)
    # By the physical id of a role: ARNs of AWS's own policies.
    managed: dict[str, list[str]] = field(default_factory=dict)
    # Why it could not be deleted.
    failed: str = ""


class Stacks:
    """Mends moto's answers about stacks."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self._stacks: dict[tuple[str, str], Stack] = {}

    def answers(self) -> dict[str, Callable[[Call], dict[str, Any] | None]]:
        return {"cloudformation:DeleteStack": self.delete}

    def delete(self, call: Call) -> dict[str, Any] | None:
        """A bucket that is not empty stays, and its stack with it, unless it is to be left where it is."""
        name, cfn = _name(call), self.cloud.moto.client("cloudformation", call.region)
        stack = self._stacks.get((call.region, name))
        if stack is None:
            return None
        for resource in cfn.list_stack_resources(StackName=name)["StackResourceSummaries"]:
            if resource.get("ResourceType") != BUCKET:
                continue
            bucket, kept = resource["PhysicalResourceId"], call.parameters.get("RetainResources", [])
            if resource["LogicalResourceId"] not in kept and self._full(call, bucket):
                stack.failed = f"The bucket {bucket} is not empty"
                return {}
        return None

    def _full(self, call: Call, bucket: str) -> bool:
        found = self.cloud.moto.client("s3", call.region).list_object_versions(Bucket=bucket, MaxKeys=1)
        return bool(found.get("Versions") or found.get("DeleteMarkers"))

    def amends(self) -> dict[str, Callable[[Call, dict[str, Any]], dict[str, Any]]]:
        return {
            "cloudformation:CreateStack": self.created,
            "cloudformation:UpdateStack": self.created,
            "cloudformation:DeleteStack": self.deleted,
            "cloudformation:DescribeStacks": self.described,
            "cloudformation:DescribeStackResources": self.resources,
            "cloudformation:ListStackResources": self.resources,
        }

    def created(self, call: Call, told: dict[str, Any]) -> dict[str, Any]:
        """Make what moto has passed over."""
        name = call.parameters["StackName"]
        stack = self._stacks.setdefault((call.region, name), Stack({}))
        if body := call.parameters.get("TemplateBody"):
            stack.template = yaml.load(body, _Loader)
        for logical, resource in stack.template.get("Resources", {}).items():
            if resource["Type"] == GROUP and logical not in stack.resources:
                group = resource.get("Properties", {}).get("Name", f"{name}-{logical}")
                self.cloud.moto.client("scheduler", call.region).create_schedule_group(Name=group)
                stack.resources[logical] = (GROUP, group)
            elif resource["Type"] == ROLE and "ManagedPolicyArns" in resource["Properties"]:
                cfn = self.cloud.moto.client("cloudformation", call.region)
                told_of = cfn.describe_stack_resource(StackName=name, LogicalResourceId=logical)
                role = told_of["StackResourceDetail"]["PhysicalResourceId"]
                stack.managed[role] = resource["Properties"]["ManagedPolicyArns"]
            elif resource["Type"] == POLICY:
                stack.resources[logical] = (POLICY, f"{name}-{logical}")
        return told

    def managed(self, role: str) -> list[str]:
        """The names of AWS's own policies that a stack has given to a role."""
        found = [arn for stack in self._stacks.values() for arn in stack.managed.get(role, [])]
        return [arn.rpartition("/")[2] for arn in found]

    def deleted(self, call: Call, told: dict[str, Any]) -> dict[str, Any]:
        """A group goes with its schedules."""
        stack = self._stacks.pop((call.region, _name(call)), Stack({}))
        moto = self.cloud.moto.client("scheduler", call.region)
        for kind, name in stack.resources.values():
            if kind == GROUP:
                for schedule in moto.list_schedules(GroupName=name)["Schedules"]:
                    moto.delete_schedule(GroupName=name, Name=schedule["Name"])
                moto.delete_schedule_group(Name=name)
        return told

    def described(self, call: Call, told: dict[str, Any]) -> dict[str, Any]:
        """With the outputs that name what moto does not know."""
        for shown in told["Stacks"]:
            stack = self._stacks.get((call.region, shown["StackName"]), Stack({}))
            if stack.failed:
                shown |= {"StackStatus": "DELETE_FAILED", "StackStatusReason": stack.failed}
            outputs = shown.setdefault("Outputs", [])
            known = {o["OutputKey"] for o in outputs}
            for key, output in stack.template.get("Outputs", {}).items():
                value = output["Value"]
                if key not in known and isinstance(value, dict) and value.get("Ref") in stack.resources:
                    outputs.append({"OutputKey": key, "OutputValue": stack.resources[value["Ref"]][1]})
        return told

    def resources(self, call: Call, told: dict[str, Any]) -> dict[str, Any]:
        name = call.parameters["StackName"]
        stack = self._stacks.get((call.region, name), Stack({}))
        listed = "StackResources" if "StackResources" in told else "StackResourceSummaries"
        kept = [
            r for r in told[listed] if "ResourceType" in r and r["LogicalResourceId"] not in stack.resources
        ]
        for logical, (kind, physical) in stack.resources.items():
            entry = {
                "LogicalResourceId": logical,
                "PhysicalResourceId": physical,
                "ResourceType": kind,
                "ResourceStatus": "CREATE_COMPLETE",
            }
            entry["Timestamp" if listed == "StackResources" else "LastUpdatedTimestamp"] = (
                self.cloud.clock.date()
            )
            kept.append(entry)
        return {**told, listed: kept}


def _name(call: Call) -> str:
    """The stack that is meant by name or by ARN."""
    named: str = call.parameters["StackName"]
    return named.rpartition("stack/")[2].partition("/")[0]


class _Loader(yaml.SafeLoader):
    """Templates with their short forms: !Ref becomes {"Ref": …}, !Sub {"Fn::Sub": …}."""


def _short(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> dict[str, Any]:
    name = tag if tag == "Ref" else f"Fn::{tag}"
    if isinstance(node, yaml.ScalarNode):
        return {name: loader.construct_scalar(node)}
    if isinstance(node, yaml.SequenceNode):
        return {name: loader.construct_sequence(node, deep=True)}
    return {name: loader.construct_mapping(node, deep=True)}


_Loader.add_multi_constructor("!", _short)
