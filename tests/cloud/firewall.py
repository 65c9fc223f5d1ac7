"""Security groups as the caller meets them: port 22 answers where a group lets the caller's address in."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from tests.cloud.wire import Call, Refusal

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud
    from tests.cloud.instances import Instance


class Firewall:
    """`on` is whether it counts; `caller` is the address at which AWS sees whoever runs ec2emo."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.on = True
        self._caller = "198.51.100.7"

    @property
    def caller(self) -> str:
        return self._caller

    @caller.setter
    def caller(self, address: str) -> None:
        """As in another café: what was open to the old address is not open to this one."""
        self._caller = address
        self.changed()

    def lets_in(self, instance: Instance) -> bool:
        caller = ipaddress.ip_address(self.caller)
        return not self.on or any(_admits(rule, caller) for rule in self._rules(instance))

    def admits(self, instance: Instance, group: str) -> bool:
        """Whether what comes from a security group reaches port 22."""
        return not self.on or any(_opens(r) and group in _pairs(r) for r in self._rules(instance))

    def _rules(self, instance: Instance) -> list[dict[str, Any]]:
        ids = [group for interface in instance.interfaces(self.cloud) for group in _groups(interface)]
        moto = self.cloud.moto.client("ec2", instance.region)
        groups = moto.describe_security_groups(GroupIds=ids)["SecurityGroups"] if ids else []
        return [rule for group in groups for rule in group["IpPermissions"]]

    def answers(self) -> dict[str, Callable[[Call], dict[str, Any] | None]]:
        return {"ec2:DeleteSecurityGroup": self.delete}

    def delete(self, call: Call) -> None:
        """Not while an interface has it, which is until its instance is terminated."""
        asked = call.parameters
        named = {k: [asked[k[:-1]]] for k in ("GroupIds", "GroupNames") if k[:-1] in asked}
        moto = self.cloud.moto.client("ec2", call.region)
        try:
            (group,) = moto.describe_security_groups(**named)["SecurityGroups"]
        except ClientError:
            return
        held = [{"Name": "group-id", "Values": [group["GroupId"]]}]
        if moto.describe_network_interfaces(Filters=held)["NetworkInterfaces"]:
            raise Refusal("DependencyViolation", f"resource {group['GroupId']} has a dependent object")

    def changed(self) -> None:
        """After a change of groups, rules or address: who may be reached is, and who may not is not."""
        for instance in self.cloud.instances.all.values():
            if instance.state == "running" and instance.open != self.lets_in(instance):
                instance.open = not instance.open
                instance.machine.order(f"sshd {'on' if instance.open else 'off'}")


def _groups(interface: dict[str, Any]) -> list[str]:
    return [group["GroupId"] for group in interface["Groups"]]


def _opens(rule: dict[str, Any]) -> bool:
    """Port 22, to whomever."""
    if rule["IpProtocol"] == "tcp":
        return bool(rule["FromPort"] <= 22 <= rule["ToPort"])
    return bool(rule["IpProtocol"] == "-1")


def _pairs(rule: dict[str, Any]) -> list[str]:
    return [pair["GroupId"] for pair in rule.get("UserIdGroupPairs", [])]


def _admits(rule: dict[str, Any], caller: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    ranges = [ipaddress.ip_network(r["CidrIp"]) for r in rule.get("IpRanges", [])]
    return _opens(rule) and any(caller in network for network in ranges)
