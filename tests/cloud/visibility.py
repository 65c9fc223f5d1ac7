"""Eventual consistency: what was just made is not told of everywhere yet."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.cloud.wire import Call, Refusal

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud

FORGOTTEN = 3600.0  # seconds after which EC2 tells no more of a terminated instance

# Where things are listed: the list, the id of each, by which parameters one is asked for, and the error for
# one that is not there.
LISTS = {
    "ec2:DescribeVolumes": ("Volumes", "VolumeId", ("VolumeIds",), "InvalidVolume.NotFound"),
    "ec2:DescribeNetworkInterfaces": (
        "NetworkInterfaces",
        "NetworkInterfaceId",
        ("NetworkInterfaceIds",),
        "InvalidNetworkInterfaceID.NotFound",
    ),
    "ec2:DescribeSecurityGroups": (
        "SecurityGroups",
        "GroupId",
        ("GroupIds", "GroupNames"),
        "InvalidGroup.NotFound",
    ),
    "ec2:DescribeLaunchTemplates": (
        "LaunchTemplates",
        "LaunchTemplateId",
        ("LaunchTemplateIds", "LaunchTemplateNames"),
        "InvalidLaunchTemplateId.NotFound",
    ),
    "ec2:DescribeKeyPairs": ("KeyPairs", "KeyPairId", ("KeyPairIds", "KeyNames"), "InvalidKeyPair.NotFound"),
    "ec2:DescribeTags": ("Tags", "ResourceId", (), ""),
}
# What makes things that moto keeps, and where the answer names them.
MADE = {
    "ec2:CreateSecurityGroup": ("group", lambda told: told["GroupId"]),
    "ec2:CreateLaunchTemplate": ("template", lambda told: told["LaunchTemplate"]["LaunchTemplateId"]),
    "ec2:ImportKeyPair": ("key", lambda told: told["KeyPairId"]),
    "ec2:CreateKeyPair": ("key", lambda told: told["KeyPairId"]),
}


class Visibility:
    """`delay["instance"]` and so on: seconds from the making of a thing until it is told of.

    An instance's volumes and interfaces show when it does. Kinds: instance, group, template, key.
    """

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.delay: dict[str, float] = defaultdict(float)
        self._shown: dict[str, float] = {}

    def amends(self) -> dict[str, Callable[[Call, dict[str, Any]], dict[str, Any]]]:
        return dict.fromkeys(LISTS, self.veil) | dict.fromkeys(MADE, self.note)

    def made(self, kind: str, *ids: str) -> None:
        """These are new."""
        for name in ids:
            self._shown[name] = self.cloud.clock.now() + self.delay[kind]

    def hides(self, name: str) -> bool:
        now = self.cloud.clock.now()
        instance = self.cloud.instances.all.get(name)
        forgotten = (
            instance is not None and instance.state == "terminated" and now - instance.since > FORGOTTEN
        )
        return forgotten or now < self._shown.get(name, 0.0)

    def note(self, call: Call, told: dict[str, Any]) -> dict[str, Any]:
        kind, named = MADE[call.name]
        self.made(kind, named(told))
        return told

    def veil(self, call: Call, told: dict[str, Any]) -> dict[str, Any]:
        """The list without what is hidden; an error where that was asked for by name."""
        name, key, asked_by, error = LISTS[call.name]
        kept = [thing for thing in told.get(name, []) if not self.hides(thing[key])]
        if len(kept) < len(told.get(name, [])) and any(call.parameters.get(by) for by in asked_by):
            raise Refusal(error, "What you ask for does not exist")
        return told | {name: kept}
