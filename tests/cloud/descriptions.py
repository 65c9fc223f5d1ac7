"""What EC2 tells of instances and of what belongs to them: moto's words, mended, to those who may see it."""

from __future__ import annotations

import base64
import fnmatch
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tests.cloud.instances import CODES, Instance
from tests.cloud.moto import ACCOUNT
from tests.cloud.wire import Call, Refusal

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud

CONSOLE = 65536  # bytes that GetConsoleOutput keeps


class Descriptions:
    """The Describe… calls about instances."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud

    def answers(self) -> dict[str, Callable[[Call], dict[str, Any] | None]]:
        return {
            "ec2:DescribeInstances": self.instances,
            "ec2:DescribeInstanceStatus": self.statuses,
            "ec2:DescribeSpotInstanceRequests": self.spot_requests,
            "ec2:CancelSpotInstanceRequests": self.cancel_spot_requests,
            "ec2:GetConsoleOutput": self.console_output,
        }

    def amends(self) -> dict[str, Callable[[Call, dict[str, Any]], dict[str, Any]]]:
        return {"ec2:DescribeVolumes": self.volumes}

    # --- instances ------------------------------------------------------------------------------------------

    def instances(self, call: Call) -> dict[str, Any]:
        asked = call.parameters
        found = self.reservations(call.region, self._chosen(call), asked.get("Filters", []))
        return _page(found, "Reservations", asked)

    def reservations(
        self, region: str, chosen: Iterable[Instance], filters: Iterable[dict[str, Any]] = ()
    ) -> list[dict[str, Any]]:
        """What DescribeInstances says of those that pass the filters."""
        moto = self.cloud.moto.client("ec2", region)
        pages = moto.get_paginator("describe_instances").paginate()
        known = {i["InstanceId"]: i for p in pages for r in p["Reservations"] for i in r["Instances"]}
        found: dict[str, dict[str, Any]] = {}
        for instance in chosen:
            shown = self._instance(instance, known[instance.id])
            if all(_passes(facts(shown), f) for f in filters):
                name = instance.launch.reservation
                empty: dict[str, Any] = {
                    "ReservationId": name,
                    "OwnerId": ACCOUNT,
                    "Groups": [],
                    "Instances": [],
                }
                found.setdefault(name, empty)["Instances"].append(shown)
        return list(found.values())

    def _chosen(self, call: Call) -> list[Instance]:
        if ids := call.parameters.get("InstanceIds"):
            return self.cloud.instances.find(call, ids)
        everything = self.cloud.instances.all.values()
        return [i for i in everything if i.region == call.region and not self.cloud.visibility.hides(i.id)]

    def _instance(self, instance: Instance, known: dict[str, Any]) -> dict[str, Any]:
        """Moto's description, with what the cloud knows better in its place."""
        dropped = ("InstanceLifecycle", "KernelId", "PublicIpAddress", "PrivateIpAddress", "StateReason")
        shown = {k: v for k, v in known.items() if k not in dropped}
        shown |= {
            "Architecture": "x86_64",
            "ClientToken": instance.launch.token,
            "LaunchTime": datetime.fromtimestamp(instance.launched, UTC),
            "MetadataOptions": known["MetadataOptions"] | instance.launch.metadata_options,
            "State": {"Name": instance.state, "Code": CODES[instance.state]},
            "StateTransitionReason": instance.transition,
            "VirtualizationType": "hvm",
        }
        if instance.reason[0]:
            shown["StateReason"] = {"Code": instance.reason[0], "Message": instance.reason[1]}
        if instance.spot_request:
            shown |= {"InstanceLifecycle": "spot", "SpotInstanceRequestId": instance.spot_request}
        return shown | self._network(instance, known)

    def _network(self, instance: Instance, known: dict[str, Any]) -> dict[str, Any]:
        if instance.state == "terminated":
            for name in ("SubnetId", "VpcId"):
                known.pop(name, None)
            nothing: list[Any] = []
            return {
                "BlockDeviceMappings": nothing,
                "NetworkInterfaces": nothing,
                "SecurityGroups": nothing,
                "PrivateDnsName": "",
                "PublicDnsName": "",
            }
        interfaces = known["NetworkInterfaces"]
        for interface in interfaces:
            for part in (interface, *interface["PrivateIpAddresses"]):
                part.pop("Association", None)
        private = instance.private_address
        told = {
            "NetworkInterfaces": interfaces,
            "SecurityGroups": [g for i in interfaces for g in i["Groups"]],
            "PrivateIpAddress": private,
            "PrivateDnsName": f"ip-{private.replace('.', '-')}.ec2.internal",
            "PublicDnsName": "",
        }
        if instance.living and instance.launch.public:
            told["PublicIpAddress"] = instance.address
            told["PublicDnsName"] = f"ec2-{instance.address.replace('.', '-')}.compute-1.amazonaws.com"
        return told

    def statuses(self, call: Call) -> dict[str, Any]:
        asked = call.parameters
        chosen = self._chosen(call)
        if not asked.get("IncludeAllInstances"):
            chosen = [i for i in chosen if i.state == "running"]
        shown = [self._status(i) for i in chosen]
        kept = [s for s in shown if all(_passes(_status_facts(s), f) for f in asked.get("Filters", []))]
        return _page(kept, "InstanceStatuses", asked)

    def _status(self, instance: Instance) -> dict[str, Any]:
        word = "not-applicable"
        if instance.state == "running":
            settled = self.cloud.clock.now() - instance.since >= self.cloud.instances.delays.checks
            word = "impaired" if instance.machine.frozen else "ok" if settled else "initializing"
        system = "ok" if word == "impaired" else word
        return {
            "InstanceId": instance.id,
            "AvailabilityZone": instance.pool.zone,
            "InstanceState": {"Name": instance.state, "Code": CODES[instance.state]},
            "InstanceStatus": _checked(word),
            "SystemStatus": _checked(system),
            "Events": [],
        }

    def console_output(self, call: Call) -> dict[str, Any]:
        (instance,) = self.cloud.instances.find(call, [call.parameters["InstanceId"]])
        told: dict[str, Any] = {"InstanceId": instance.id, "Timestamp": self.cloud.clock.date()}
        since = instance.paid[-1][0] if instance.paid else float("inf")
        if self.cloud.clock.now() >= since + self.cloud.instances.delays.console:
            # The model calls it a string, and boto3 undoes the base64 that it is.
            told["Output"] = base64.b64encode(instance.machine.console()[-CONSOLE:]).decode()
        return told

    # --- what belongs to them -------------------------------------------------------------------------------

    def spot_requests(self, call: Call) -> dict[str, Any]:
        """One for each spot instance; its status says how things stand, and why they ended."""
        asked = call.parameters
        wanted = asked.get("SpotInstanceRequestIds")
        spot = [i for i in self.cloud.instances.all.values() if i.spot_request and i.region == call.region]
        found = [self._spot_request(i) for i in spot if wanted is None or i.spot_request in wanted]
        if wanted and len(found) < len(wanted):
            raise Refusal(
                "InvalidSpotInstanceRequestID.NotFound", "The spot instance request ID does not exist"
            )
        kept = [r for r in found if all(_passes(_request_facts(r), f) for f in asked.get("Filters", []))]
        return _page(kept, "SpotInstanceRequests", asked)

    def cancel_spot_requests(self, call: Call) -> dict[str, Any]:
        """Cancelling a request that is fulfilled leaves its instance running."""
        ids = call.parameters["SpotInstanceRequestIds"]
        told = [{"SpotInstanceRequestId": i, "State": "cancelled"} for i in ids]
        return {"CancelledSpotInstanceRequests": told}

    def _spot_request(self, instance: Instance) -> dict[str, Any]:
        code = "fulfilled"
        if instance.ended:
            by_aws = instance.reason[0].startswith("Server.Spot")
            code = "instance-terminated-no-capacity" if by_aws else "instance-terminated-by-user"
        elif instance.interruption:
            code = "marked-for-termination"
        return {
            "SpotInstanceRequestId": instance.spot_request,
            "InstanceId": instance.id,
            "State": "closed" if instance.ended else "active",
            "Status": {"Code": code, "Message": code.replace("-", " ")},
            "Type": "one-time",
            "CreateTime": datetime.fromtimestamp(instance.created, UTC),
            "LaunchedAvailabilityZone": instance.pool.zone,
            "InstanceInterruptionBehavior": "terminate",
            "SpotPrice": f"{self.cloud.market.price(instance.pool):.6f}",
            "Tags": [
                {"Key": k, "Value": v} for k, v in self.cloud.tags(instance.id, instance.region).items()
            ],
        }

    def volumes(self, call: Call, told: dict[str, Any]) -> dict[str, Any]:
        """Moto forgets the IOPS and the throughput that a launch asked for."""
        for volume in told["Volumes"]:
            for attached in volume.get("Attachments", []):
                instance = self.cloud.instances.all.get(attached["InstanceId"])
                mappings = instance.launch.request.get("BlockDeviceMappings", []) if instance else []
                for mapping in mappings:
                    if mapping["DeviceName"] == attached["Device"]:
                        disk = mapping.get("Ebs", {})
                        volume |= {k: disk[k] for k in ("Iops", "Throughput") if k in disk}
        return told


def facts(shown: dict[str, Any]) -> dict[str, list[str]]:
    """What the filters of DescribeInstances look at."""
    groups = shown.get("SecurityGroups", [])
    tags = shown.get("Tags", [])
    found = {
        "availability-zone": [shown["Placement"]["AvailabilityZone"]],
        "client-token": [shown["ClientToken"]],
        "image-id": [shown["ImageId"]],
        "instance-id": [shown["InstanceId"]],
        "instance-lifecycle": [shown.get("InstanceLifecycle", "")],
        "instance-state-code": [str(shown["State"]["Code"])],
        "instance-state-name": [shown["State"]["Name"]],
        "instance-type": [shown["InstanceType"]],
        "instance.group-id": [g["GroupId"] for g in groups],
        "instance.group-name": [g["GroupName"] for g in groups],
        "ip-address": [shown.get("PublicIpAddress", "")],
        "key-name": [shown.get("KeyName", "")],
        "network-interface.group-id": [g["GroupId"] for g in groups],
        "private-ip-address": [shown.get("PrivateIpAddress", "")],
        "spot-instance-request-id": [shown.get("SpotInstanceRequestId", "")],
        "subnet-id": [shown.get("SubnetId", "")],
        "tag-key": [t["Key"] for t in tags],
        "vpc-id": [shown.get("VpcId", "")],
    }
    return found | {f"tag:{t['Key']}": [t["Value"]] for t in tags}


def _status_facts(shown: dict[str, Any]) -> dict[str, list[str]]:
    return {
        "availability-zone": [shown["AvailabilityZone"]],
        "instance-state-name": [shown["InstanceState"]["Name"]],
        "instance-status.status": [shown["InstanceStatus"]["Status"]],
        "system-status.status": [shown["SystemStatus"]["Status"]],
    }


def _request_facts(shown: dict[str, Any]) -> dict[str, list[str]]:
    return {
        "instance-id": [shown["InstanceId"]],
        "spot-instance-request-id": [shown["SpotInstanceRequestId"]],
        "state": [shown["State"]],
        "status-code": [shown["Status"]["Code"]],
        **{f"tag:{t['Key']}": [t["Value"]] for t in shown["Tags"]},
    }


def _passes(known: dict[str, list[str]], asked: dict[str, Any]) -> bool:
    """Whether something fits a filter, with * and ?; a filter that we do not know is refused aloud."""
    name = asked["Name"]
    if name not in known and not name.startswith("tag:"):
        raise Refusal("InvalidParameterValue", f"The filter '{name}' is invalid")
    wanted = asked.get("Values", [])
    return any(fnmatch.fnmatchcase(seen, value) for seen in known.get(name, []) for value in wanted)


def _checked(word: str) -> dict[str, Any]:
    if word == "not-applicable":
        return {"Status": word}
    passed = {"ok": "passed", "impaired": "failed"}.get(word, word)
    return {"Status": word, "Details": [{"Name": "reachability", "Status": passed}]}


def _page(items: list[dict[str, Any]], name: str, asked: dict[str, Any]) -> dict[str, Any]:
    """One page, as MaxResults and NextToken ask for."""
    start, size = int(asked.get("NextToken", 0)), int(asked.get("MaxResults", 1000))
    page: dict[str, Any] = {name: items[start : start + size]}
    return page | ({"NextToken": str(start + size)} if start + size < len(items) else {})
