"""Who may reach a machine: a security group for each run, with port 22 open to one address, or to nobody.

The rule is replaced when the address changes, never widened, and goes with the run. A source is an address
or network in CIDR notation, or the id of a security group: an EC2 Instance Connect Endpoint comes from its
own network interface, which has one, while the agent of SSM calls out and needs no way in.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.errors import BadRequest, Ec2emoError
from orchestrator.machine import Terms
from orchestrator.providers.ec2 import clock, tags
from orchestrator.providers.ec2.api import Aws

ADDRESS_SERVICE = "https://checkip.amazonaws.com"  # EC2EMO_ADDRESS_SERVICE names another
WIDEST_PREFIX = 16  # a whole provider is not "this computer"
PATIENCE = 5.0
HELD_FOR = 120.0  # seconds a network interface may hold on to a group after its machine has gone


def sources(aws: Aws, terms: Terms) -> tuple[str, ...]:
    """Who may reach port 22; nobody where the machine calls out, by way of SSM.

    Raises BadRequest when it cannot be learnt, is too wide, or lacks what the tunnel needs.
    """
    if terms.via and shutil.which("aws") is None:
        raise BadRequest(
            f"--via {terms.via} needs the AWS command line, which is not installed here: install it "
            f"(and, for ssm, its session-manager-plugin), or leave --via out"
        )
    if terms.via == "ssm":
        return ()
    if terms.via == "eice":
        endpoint = _endpoint(aws, str(subnets(aws, terms)[0]["VpcId"]))
        if not endpoint.get("PreserveClientIp"):  # else what comes through it comes from this computer
            return tuple(sorted(map(str, endpoint["SecurityGroupIds"])))
    return (_network(terms.allow_from) if terms.allow_from else f"{my_address()}/32",)


def _endpoint(aws: Aws, vpc: str) -> dict[str, Any]:
    """The EC2 Instance Connect Endpoint of a network. Raises BadRequest when it has none that is ready."""
    filters = [{"Name": "vpc-id", "Values": [vpc]}, {"Name": "state", "Values": ["create-complete"]}]
    there = aws.all("ec2", "describe_instance_connect_endpoints", "InstanceConnectEndpoints", Filters=filters)
    found = next(iter(there), None)
    if found is None:
        raise BadRequest(
            f"there is no EC2 Instance Connect Endpoint in {vpc}, which --via eice goes through: 'aws ec2 "
            f"create-instance-connect-endpoint --subnet-id subnet-…' makes one, or take --via ssm"
        )
    return found


def my_address() -> str:
    """The address this computer has on the internet, as an outsider sees it. Raises BadRequest."""
    service = os.environ.get("EC2EMO_ADDRESS_SERVICE", ADDRESS_SERVICE)
    if not service.startswith(("https://", "http://127.", "http://localhost")):
        raise BadRequest(f"EC2EMO_ADDRESS_SERVICE is {service!r:.100}: it begins with https://")
    try:
        with urllib.request.urlopen(service, timeout=PATIENCE) as answer:  # noqa: S310 - checked above
            said = answer.read(100).decode("ascii", "replace").strip()
        return str(ipaddress.IPv4Address(said))
    except (OSError, ValueError) as e:
        if isinstance(e, urllib.error.HTTPError):
            e.close()
        raise BadRequest(
            f"the address of this computer could not be learnt from {service} ({e}): say who may reach the "
            f"machine with --allow-from 203.0.113.7/32, or open no port with --via ssm"
        ) from e


def subnets(aws: Aws, terms: Terms) -> list[dict[str, Any]]:
    """The subnets a machine may be put in: those named, else the default one of each zone. By zone.

    Raises BadRequest when there are none, or they lie in several networks.
    """
    if terms.subnets:
        found = aws.ask("ec2", "describe_subnets", SubnetIds=list(terms.subnets))["Subnets"]
    else:
        default = [{"Name": "default-for-az", "Values": ["true"]}]
        found = aws.ask("ec2", "describe_subnets", Filters=default)["Subnets"]
    if not found:
        raise BadRequest(
            f"{aws.region} has no default network: name subnets under [ec2] in ec2emo.toml, or make one with "
            f"'aws ec2 create-default-vpc'"
        )
    if len({s["VpcId"] for s in found}) > 1:
        raise BadRequest("the subnets under [ec2] lie in several networks (VPCs): name those of one")
    return sorted(found, key=lambda s: str(s["AvailabilityZone"]))


def group(aws: Aws, name: str, vpc: str, made_with: Mapping[str, str]) -> str:
    """The id of the run's security group, made where it is not there yet; it admits nobody."""
    try:
        answer = aws.ask(
            "ec2",
            "create_security_group",
            GroupName=name,
            Description="ec2emo: port 22 for one address, for one run",
            VpcId=vpc,
            TagSpecifications=tags.specification(["security-group"], made_with),
        )
        return str(answer["GroupId"])
    except Ec2emoError as e:
        if e.code != "InvalidGroup.Duplicate":
            raise
    there = _group_named(aws, name, vpc)
    if there is None or tags.read(there).get(tags.UID) != made_with[tags.UID]:
        raise BadRequest(
            f"another computer has a run called {made_with[tags.RUN]} in {aws.region}: choose another --name",
            run=made_with[tags.RUN],
        )
    return str(there["GroupId"])


def admit(aws: Aws, group_id: str, sources: Iterable[str]) -> bool:
    """Let these reach port 22, and nobody else; whether anything had to be changed."""
    wanted = {_rule(source) for source in sources}
    groups = aws.ask("ec2", "describe_security_groups", GroupIds=[group_id])["SecurityGroups"]
    there = {
        (str(p.get("IpProtocol")), p.get("FromPort"), p.get("ToPort"), str(r.get(field)))
        for p in groups[0].get("IpPermissions") or ()
        for kind, field in FIELDS.items()
        for r in p.get(kind) or ()
    }
    for old in there - wanted:  # first: a change of address never opens to two
        aws.ask("ec2", "revoke_security_group_ingress", GroupId=group_id, IpPermissions=[_permission(old)])
    for new in wanted - there:
        try:
            aws.ask(
                "ec2", "authorize_security_group_ingress", GroupId=group_id, IpPermissions=[_permission(new)]
            )
        except Ec2emoError as e:
            if e.code != "InvalidPermission.Duplicate":
                raise
    return there != wanted


def remove(aws: Aws, group_id: str, *, within: float = HELD_FOR) -> bool:
    """Delete a group once nothing holds on to it; False while something does."""
    for _ in clock.every(5.0, within=within):
        try:
            aws.ask("ec2", "delete_security_group", GroupId=group_id)
        except Ec2emoError as e:
            if e.code == "InvalidGroup.NotFound":
                return True
            if e.code not in ("DependencyViolation", "InvalidGroup.InUse"):
                raise
        else:
            return True
    return False


Rule = tuple[str, int | None, int | None, str]
FIELDS = {
    "IpRanges": "CidrIp",
    "Ipv6Ranges": "CidrIpv6",
    "UserIdGroupPairs": "GroupId",
    "PrefixListIds": "PrefixListId",
}


def _rule(source: str) -> Rule:
    return ("tcp", 22, 22, source)


def _permission(rule: Rule) -> dict[str, Any]:
    protocol, first, last, source = rule
    starts = {"sg-": "UserIdGroupPairs", "pl-": "PrefixListIds"}
    kind = starts.get(source[:3], "Ipv6Ranges" if ":" in source else "IpRanges")
    ports = {} if first is None else {"FromPort": first, "ToPort": last}
    return {"IpProtocol": protocol, **ports, kind: [{FIELDS[kind]: source}]}


def _group_named(aws: Aws, name: str, vpc: str) -> dict[str, Any] | None:
    filters = [{"Name": "group-name", "Values": [name]}, {"Name": "vpc-id", "Values": [vpc]}]
    found = aws.ask("ec2", "describe_security_groups", Filters=filters)["SecurityGroups"]
    return dict(found[0]) if found else None


def _network(text: str) -> str:
    with contextlib.suppress(ValueError):
        network = ipaddress.IPv4Network(text, strict=False)
        if network.prefixlen >= WIDEST_PREFIX:
            return str(network)
        raise BadRequest(f"--allow-from {text} would let {network.num_addresses:,} addresses in: name fewer")
    raise BadRequest(f"--allow-from {text!r:.60} is no IPv4 network: write 203.0.113.7/32")
