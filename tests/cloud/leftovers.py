"""What an account still has: everything that costs or lingers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud


@dataclass(frozen=True)
class Leftover:
    """One thing; `id` is what people call it by."""

    kind: str
    id: str
    region: str
    tags: dict[str, str] = field(default_factory=dict, compare=False, repr=False)


def everything(cloud: Cloud) -> Iterator[Leftover]:
    """In every region that was spoken to."""
    for region in sorted({cloud.region, *(call.region for call in cloud.calls)}):
        yield from _in_region(cloud, region)


def _in_region(cloud: Cloud, region: str) -> Iterator[Leftover]:
    for instance in cloud.instances.all.values():
        if instance.region == region and not instance.ended:
            yield Leftover("instance", instance.id, region, cloud.tags(instance.id, region))
    ec2, scheduler = cloud.moto.client("ec2", region), cloud.moto.client("scheduler", region)
    for kind, key, things in (
        ("volume", "VolumeId", ec2.describe_volumes()["Volumes"]),
        ("snapshot", "SnapshotId", ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]),
        ("interface", "NetworkInterfaceId", ec2.describe_network_interfaces()["NetworkInterfaces"]),
        ("address", "AllocationId", ec2.describe_addresses()["Addresses"]),
        ("template", "LaunchTemplateName", ec2.describe_launch_templates()["LaunchTemplates"]),
        ("group", "GroupName", ec2.describe_security_groups()["SecurityGroups"]),
        ("key", "KeyName", ec2.describe_key_pairs()["KeyPairs"]),
        ("schedule", "Name", scheduler.list_schedules()["Schedules"]),
    ):
        for thing in things:
            if thing[key] != "default":
                yield Leftover(kind, thing[key], region, _tags(thing))


def _tags(thing: dict[str, Any]) -> dict[str, str]:
    return {t["Key"]: t["Value"] for t in thing.get("Tags") or thing.get("TagSet") or []}
