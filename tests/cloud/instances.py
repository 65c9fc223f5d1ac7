"""Instances from launch to the end: their states, what is told of them, and the machine behind each."""

from __future__ import annotations

import base64
import fnmatch
import ipaddress
import random
import socket
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tests.cloud.imds import Imds
from tests.cloud.machine import Guest
from tests.cloud.market import SPOT, Pool
from tests.cloud.moto import ACCOUNT
from tests.cloud.wire import Call, Refusal

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud
    from tests.cloud.launches import Launch

CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}
BY_USER = ("Client.UserInitiatedShutdown", "Client.UserInitiatedShutdown: User initiated shutdown")
BY_GUEST = (
    "Client.InstanceInitiatedShutdown",
    "Client.InstanceInitiatedShutdown: Instance initiated shutdown",
)
BY_SPOT = ("Server.SpotInstanceTermination", "Server.SpotInstanceTermination: Instance terminated by spot")
FORGOTTEN = 3600.0  # seconds after which EC2 tells no more of a terminated instance


@dataclass
class Delays:
    """Seconds of the cloud's clock that things take."""

    pending: float = 0.1
    stopping: float = 0.1
    ending: float = 0.1
    status: float = 0.5  # from running to both checks passed
    console: float = 0.0
    notice: float = 120.0


@dataclass
class Instance:
    """One instance, from its launch until long after its end."""

    id: str
    region: str
    pool: Pool
    launch: Launch
    machine: Guest
    created: float
    launched: float  # the last start
    state: str = "pending"
    since: float = 0.0
    address: str = ""
    reason: tuple[str, str] = ("", "")
    transition: str = ""
    spot_request: str = ""
    paid: list[list[float]] = field(default_factory=list)  # [from, until]; until is inf while it lasts
    interruption: dict[str, str] | None = None
    rebalance: str | None = None
    imds: Imds | None = None
    off: Any = None  # the timer of a shutdown that the guest has scheduled
    user_data: bytes = b""
    disguise: str = ""

    @property
    def living(self) -> bool:
        return self.state in ("pending", "running")

    @property
    def private_address(self) -> str:
        return "10" + self.address[3:]


class Instances:
    """All of an account's, in all regions."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.all: dict[str, Instance] = {}
        self.delays = Delays()
        self.stillborn: str = ""  # a StateReason that the next instance dies of before it runs
        self._net = random.SystemRandom().randrange(64, 127)

    def answers(self) -> dict[str, Callable[[Call], dict[str, Any]]]:
        return {
            "ec2:DescribeInstances": self.describe,
            "ec2:DescribeInstanceStatus": self.describe_status,
            "ec2:TerminateInstances": self.terminate,
            "ec2:StopInstances": self.stop,
            "ec2:StartInstances": self.start,
            "ec2:RebootInstances": self.reboot,
            "ec2:GetConsoleOutput": self.console_output,
        }

    # --- a life ---------------------------------------------------------------------------------------------

    def begin(self, id: str, region: str, pool: Pool, launch: Launch) -> Instance:
        """From the launch on: pending, then running."""
        machine = Guest(self.cloud.folder / "instances" / id, self.cloud.image)
        now = self.cloud.clock.now()
        instance = Instance(id, region, pool, launch, machine, now, now, since=now)
        instance.user_data = launch.user_data
        if pool.market == SPOT:
            instance.spot_request = "sir-" + uuid.uuid4().hex[:8]
        self.all[id] = instance
        if self.stillborn:
            death, self.stillborn = self.stillborn, ""
            self.cloud.clock.after(
                self.delays.pending, lambda: self.end(instance, (death.partition(":")[0], death), "")
            )
        else:
            self._power_on(instance)
        return instance

    def end(self, instance: Instance, reason: tuple[str, str], transition: str) -> None:
        """Shutting-down, then terminated; the disk goes with it."""
        if instance.state in ("shutting-down", "terminated"):
            return
        before = instance.state
        instance.reason, instance.transition = reason, transition
        self._leave(instance, "shutting-down")
        moto = self.cloud.moto.client("ec2", instance.region)

        def gone() -> None:
            self._power_off(instance)
            instance.machine.discard()
            interfaces = self._interfaces(instance)
            moto.terminate_instances(InstanceIds=[instance.id])
            for interface in interfaces:
                moto.delete_network_interface(NetworkInterfaceId=interface["NetworkInterfaceId"])
            self._become(instance, "terminated")

        self.cloud.clock.after(self.delays.ending if before != "stopped" else 0.0, gone)

    def halt(self, instance: Instance, reason: tuple[str, str], transition: str) -> None:
        """Stopping, then stopped; the disk stays."""
        instance.reason, instance.transition = reason, transition
        self._leave(instance, "stopping")

        def stopped() -> None:
            self._power_off(instance)
            self.cloud.moto.client("ec2", instance.region).stop_instances(InstanceIds=[instance.id])
            self._become(instance, "stopped")

        self.cloud.clock.after(self.delays.stopping, stopped)

    def interrupt(self, instance: Instance) -> None:
        """The two-minute notice of a spot instance, and what follows."""
        due = self.cloud.clock.now() + self.delays.notice
        instance.interruption = {"action": "terminate", "time": _iso(due)}
        self.cloud.clock.at(due, lambda: self.reclaim(instance))

    def reclaim(self, instance: Instance) -> None:
        """A spot instance taken back, with or without notice."""
        if instance.living:
            self.end(instance, BY_SPOT, f"Service initiated ({_words(self.cloud.clock.date())})")

    def guest_shutdown(self, instance: Instance, action: str, minutes: float) -> float:
        """What `shutdown` in the guest asks for; when it is due."""
        due = self.cloud.clock.now() + minutes * 60
        if action != "warn" and instance.off is not None:
            instance.off.cancel()
        if action in ("poweroff", "reboot"):
            instance.off = self.cloud.clock.at(due, lambda: self._guest_ends(instance, action))
        return due

    def _guest_ends(self, instance: Instance, action: str) -> None:
        if not instance.living or instance.machine.frozen:
            return
        if action == "reboot":
            self._power_cycle(instance)
            return
        moto = self.cloud.moto.client("ec2", instance.region)
        told = moto.describe_instance_attribute(
            InstanceId=instance.id, Attribute="instanceInitiatedShutdownBehavior"
        )
        behaviour = told["InstanceInitiatedShutdownBehavior"].get("Value", "stop")
        (self.end if behaviour == "terminate" else self.halt)(instance, BY_GUEST, "")

    def _power_on(self, instance: Instance) -> None:
        instance.address = self._new_address()
        instance.imds = Imds(instance, self.cloud)
        self._become(instance, "pending")
        self.cloud.clock.after(self.delays.pending, lambda: self._boot(instance))

    def _boot(self, instance: Instance) -> None:
        if instance.state != "pending":
            return
        self._become(instance, "running")
        instance.paid.append([self.cloud.clock.now(), float("inf")])
        instance.machine.start(self._seed(instance))

    def _power_cycle(self, instance: Instance) -> None:
        instance.machine.stop()
        instance.machine.start(self._seed(instance))

    def _power_off(self, instance: Instance) -> None:
        if instance.off is not None:
            instance.off.cancel()
        instance.machine.stop()
        if instance.imds is not None:
            instance.imds.close()
            instance.imds = None

    def _leave(self, instance: Instance, state: str) -> None:
        """Out of running: from here on nothing is to be paid for the time."""
        if instance.paid and instance.paid[-1][1] == float("inf"):
            instance.paid[-1][1] = self.cloud.clock.now()
        self._become(instance, state)

    def _become(self, instance: Instance, state: str) -> None:
        instance.state, instance.since = state, self.cloud.clock.now()

    def _seed(self, instance: Instance) -> dict[str, Any]:
        assert instance.imds is not None
        environment = {
            "AWS_ENDPOINT_URL": self.cloud.url,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": instance.imds.url,
            **self.cloud.image.environment,
        }
        return {
            "instance": instance.id,
            "hostname": "ip-" + instance.private_address.replace(".", "-"),
            "address": instance.address,
            "imds": instance.imds.url,
            "user": instance.launch.user,
            "public_keys": instance.launch.public_keys,
            "user_data": base64.b64encode(instance.user_data).decode(),
            "environment": environment,
            "sshd": self.reachable(instance),
        }

    def _new_address(self) -> str:
        """A loopback address whose ports 22 and 80 nobody has."""
        while True:
            address = f"127.{self._net}.{random.randrange(256)}.{random.randrange(1, 255)}"  # noqa: S311
            try:
                for port in (22, 80):
                    with socket.socket() as s:
                        s.bind((address, port))
            except OSError:
                continue
            return address

    # --- the firewall ---------------------------------------------------------------------------------------

    def reachable(self, instance: Instance) -> bool:
        """Whether its groups let the caller's address in on port 22."""
        if not self.cloud.firewall:
            return True
        moto = self.cloud.moto.client("ec2", instance.region)
        ids = [g["GroupId"] for i in self._interfaces(instance) for g in i["Groups"]]
        groups = moto.describe_security_groups(GroupIds=ids)["SecurityGroups"] if ids else []
        caller = ipaddress.ip_address(self.cloud.caller)
        return any(_lets_in(rule, caller) for group in groups for rule in group["IpPermissions"])

    def obey_firewall(self) -> None:
        """After a change of groups: who may be reached is, and who may not is not."""
        for instance in self.all.values():
            if instance.state == "running":
                instance.machine.order(f"sshd {'on' if self.reachable(instance) else 'off'}")

    def _interfaces(self, instance: Instance) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.cloud.moto.client(
            "ec2", instance.region
        ).describe_network_interfaces(Filters=[{"Name": "attachment.instance-id", "Values": [instance.id]}])[
            "NetworkInterfaces"
        ]
        return found

    # --- what the API says ----------------------------------------------------------------------------------

    def find(self, call: Call, ids: Iterable[str]) -> list[Instance]:
        found = []
        for id in ids:
            instance = self.all.get(id)
            if instance is None or instance.region != call.region or not self._visible(instance):
                raise Refusal("InvalidInstanceID.NotFound", f"The instance ID '{id}' does not exist")
            found.append(instance)
        return found

    def _visible(self, instance: Instance) -> bool:
        now = self.cloud.clock.now()
        if instance.state == "terminated" and now - instance.since > FORGOTTEN:
            return False
        return now >= instance.created + self.cloud.visibility_delay

    def describe(self, call: Call) -> dict[str, Any]:
        asked = call.parameters
        chosen = (
            self.find(call, asked["InstanceIds"])
            if asked.get("InstanceIds")
            else [i for i in self.all.values() if i.region == call.region and self._visible(i)]
        )
        return _page(self.reservations(call.region, chosen, asked.get("Filters", [])), "Reservations", asked)

    def reservations(
        self, region: str, chosen: list[Instance], filters: list[dict[str, Any]] | None = None
    ) -> list[dict[str, Any]]:
        """What DescribeInstances says of those that pass the filters."""
        moto = self.cloud.moto.client("ec2", region)
        pages = moto.get_paginator("describe_instances").paginate()
        known = {i["InstanceId"]: i for p in pages for r in p["Reservations"] for i in r["Instances"]}
        found: dict[str, dict[str, Any]] = {}
        for instance in chosen:
            shown = self._describe(instance, known[instance.id])
            if all(_passes(shown, f) for f in filters or []):
                of = instance.launch.reservation
                empty: dict[str, Any] = {
                    "ReservationId": of,
                    "OwnerId": ACCOUNT,
                    "Groups": [],
                    "Instances": [],
                }
                found.setdefault(of, empty)["Instances"].append(shown)
        return list(found.values())

    def _describe(self, instance: Instance, known: dict[str, Any]) -> dict[str, Any]:
        shown = {k: v for k, v in known.items() if k not in ("PublicIpAddress", "StateReason", "KernelId")}
        running = instance.state in ("pending", "running") and instance.address
        shown |= {
            "State": {"Name": instance.state, "Code": CODES[instance.state]},
            "StateTransitionReason": instance.transition,
            "ClientToken": instance.launch.token,
            "LaunchTime": datetime.fromtimestamp(instance.launched, UTC),
            "PublicDnsName": "",
            "PrivateDnsName": "",
            "VirtualizationType": "hvm",
            "Architecture": "x86_64",
            "CpuOptions": {
                "CoreCount": max(1, self.cloud.cpus(instance.pool.type) // 2),
                "ThreadsPerCore": 2,
            },
            "MetadataOptions": {
                **known.get("MetadataOptions", {}),
                **instance.launch.metadata_options,
                "State": "applied",
            },
        }
        if instance.reason[0]:
            shown["StateReason"] = dict(zip(("Code", "Message"), instance.reason, strict=True))
        if instance.spot_request:
            shown |= {"InstanceLifecycle": "spot", "SpotInstanceRequestId": instance.spot_request}
        else:
            shown.pop("InstanceLifecycle", None)
        interfaces = shown["NetworkInterfaces"] if instance.state != "terminated" else []
        groups = [g for i in interfaces for g in i["Groups"]]
        shown |= {"NetworkInterfaces": interfaces, "SecurityGroups": groups}
        if instance.state == "terminated":
            for name in ("PrivateIpAddress", "SubnetId", "VpcId"):
                shown.pop(name, None)
            shown["BlockDeviceMappings"] = []
        elif instance.address:
            shown["PrivateIpAddress"] = instance.private_address
            shown["PrivateDnsName"] = f"ip-{instance.private_address.replace('.', '-')}.ec2.internal"
            for interface in interfaces:
                interface.pop("Association", None)
                for private in interface["PrivateIpAddresses"]:
                    private.pop("Association", None)
        if running and instance.launch.public:
            shown["PublicIpAddress"] = instance.address
            shown["PublicDnsName"] = f"ec2-{instance.address.replace('.', '-')}.compute-1.amazonaws.com"
        return shown

    def describe_status(self, call: Call) -> dict[str, Any]:
        asked = call.parameters
        chosen = (
            self.find(call, asked["InstanceIds"])
            if asked.get("InstanceIds")
            else [i for i in self.all.values() if i.region == call.region and self._visible(i)]
        )
        if not asked.get("IncludeAllInstances"):
            chosen = [i for i in chosen if i.state == "running"]
        shown = [self._status(i) for i in chosen]
        kept = [s for s in shown if all(_passes_status(s, f) for f in asked.get("Filters", []))]
        return _page(kept, "InstanceStatuses", asked)

    def _status(self, instance: Instance) -> dict[str, Any]:
        word = "not-applicable"
        if instance.state == "running":
            old = self.cloud.clock.now() - instance.since >= self.delays.status
            word = "impaired" if instance.machine.frozen else "ok" if old else "initializing"
        passed = {"ok": "passed", "impaired": "failed"}.get(word, word)
        told: dict[str, Any] = {"Status": word}
        if word != "not-applicable":
            told["Details"] = [{"Name": "reachability", "Status": passed}]
        return {
            "InstanceId": instance.id,
            "AvailabilityZone": instance.pool.zone,
            "InstanceState": {"Name": instance.state, "Code": CODES[instance.state]},
            "InstanceStatus": told,
            "SystemStatus": {**told, "Status": "ok" if word == "impaired" else word},
            "Events": [],
        }

    def terminate(self, call: Call) -> dict[str, Any]:
        chosen = self.find(call, call.parameters["InstanceIds"])
        moto = self.cloud.moto.client("ec2", call.region)
        for instance in chosen:
            told = moto.describe_instance_attribute(InstanceId=instance.id, Attribute="disableApiTermination")
            if told["DisableApiTermination"].get("Value"):
                raise Refusal(
                    "OperationNotPermitted",
                    f"The instance '{instance.id}' may not be terminated. Modify its 'disableApiTermination' "
                    "instance attribute and try again.",
                )
        words = f"User initiated ({_words(self.cloud.clock.date())})"
        return {"TerminatingInstances": self._changed(chosen, lambda i: self.end(i, BY_USER, words))}

    def stop(self, call: Call) -> dict[str, Any]:
        chosen = self.find(call, call.parameters["InstanceIds"])
        for instance in chosen:
            if instance.pool.market == SPOT:
                raise Refusal(
                    "UnsupportedOperation",
                    f"You can't stop the Spot Instance '{instance.id}' because it is associated with a "
                    "one-time Spot Instance request. You can only stop Spot Instances associated with "
                    "persistent Spot Instance requests.",
                )
            _expect(instance, "pending", "running", "stopping", "stopped")
        words = f"User initiated ({_words(self.cloud.clock.date())})"

        def act(instance: Instance) -> None:
            if instance.living:
                self.halt(instance, BY_USER, words)

        return {"StoppingInstances": self._changed(chosen, act)}

    def start(self, call: Call) -> dict[str, Any]:
        chosen = self.find(call, call.parameters["InstanceIds"])
        moto = self.cloud.moto.client("ec2", call.region)
        for instance in chosen:
            _expect(instance, "pending", "running", "stopped")
            if instance.state == "stopped":
                self.cloud.market.check(instance.pool, call.region, None)

        def act(instance: Instance) -> None:
            if instance.state == "stopped":
                moto.start_instances(InstanceIds=[instance.id])
                instance.reason, instance.transition = ("", ""), ""
                instance.launched = self.cloud.clock.now()
                self._power_on(instance)

        return {"StartingInstances": self._changed(chosen, act)}

    def reboot(self, call: Call) -> dict[str, Any]:
        for instance in self.find(call, call.parameters["InstanceIds"]):
            _expect(instance, "running")
            self._power_cycle(instance)
        return {}

    def console_output(self, call: Call) -> dict[str, Any]:
        (instance,) = self.find(call, [call.parameters["InstanceId"]])
        now = self.cloud.clock.now()
        early = not instance.paid or now < instance.paid[-1][0] + self.delays.console
        said = b"" if early else instance.machine.console()[-65536:]
        # The model calls it a string and boto3 decodes the base64 that it is.
        told: dict[str, Any] = {"InstanceId": instance.id, "Timestamp": self.cloud.clock.date()}
        return {**told, "Output": base64.b64encode(said).decode()} if said else told

    def _changed(self, chosen: list[Instance], act: Callable[[Instance], None]) -> list[dict[str, Any]]:
        told = []
        for instance in chosen:
            before = instance.state
            act(instance)
            told.append(
                {
                    "InstanceId": instance.id,
                    "PreviousState": {"Name": before, "Code": CODES[before]},
                    "CurrentState": {"Name": instance.state, "Code": CODES[instance.state]},
                }
            )
        return told

    def close(self) -> None:
        for instance in self.all.values():
            if instance.off is not None:
                instance.off.cancel()
            instance.machine.stop(grace=0)
            if instance.imds is not None:
                instance.imds.close()
        self.all.clear()


def _expect(instance: Instance, *states: str) -> None:
    if instance.state not in states:
        raise Refusal(
            "IncorrectInstanceState",
            f"The instance '{instance.id}' is not in a state from which it can be changed: {instance.state}.",
        )


def _lets_in(rule: dict[str, Any], caller: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if rule["IpProtocol"] not in ("-1", "tcp"):
        return False
    if rule["IpProtocol"] == "tcp" and not rule.get("FromPort", 0) <= 22 <= rule.get("ToPort", 65535):
        return False
    return any(caller in ipaddress.ip_network(r["CidrIp"]) for r in rule.get("IpRanges", []))


def _passes(shown: dict[str, Any], asked: dict[str, Any]) -> bool:
    """Whether an instance fits a filter of DescribeInstances; one we do not know is refused aloud."""
    name, wanted = asked["Name"], asked.get("Values", [])
    tags = {t["Key"]: t["Value"] for t in shown.get("Tags", [])}
    groups = shown.get("SecurityGroups", [])
    if name.startswith("tag:"):
        seen = [tags[name[4:]]] if name[4:] in tags else []
    else:
        known: dict[str, list[str]] = {
            "availability-zone": [shown["Placement"]["AvailabilityZone"]],
            "client-token": [shown["ClientToken"]],
            "image-id": [shown["ImageId"]],
            "instance-id": [shown["InstanceId"]],
            "instance-lifecycle": [shown["InstanceLifecycle"]] if "InstanceLifecycle" in shown else [],
            "instance-state-code": [str(shown["State"]["Code"])],
            "instance-state-name": [shown["State"]["Name"]],
            "instance-type": [shown["InstanceType"]],
            "instance.group-id": [g["GroupId"] for g in groups],
            "instance.group-name": [g["GroupName"] for g in groups],
            "ip-address": [shown["PublicIpAddress"]] if "PublicIpAddress" in shown else [],
            "key-name": [shown.get("KeyName", "")],
            "network-interface.group-id": [g["GroupId"] for g in groups],
            "private-ip-address": [shown.get("PrivateIpAddress", "")],
            "subnet-id": [shown.get("SubnetId", "")],
            "tag-key": list(tags),
            "vpc-id": [shown.get("VpcId", "")],
        }
        if name not in known:
            raise Refusal("InvalidParameterValue", f"The filter '{name}' is invalid")
        seen = known[name]
    return any(fnmatch.fnmatchcase(s, w) for s in seen for w in wanted)


def _passes_status(shown: dict[str, Any], asked: dict[str, Any]) -> bool:
    known = {
        "availability-zone": shown["AvailabilityZone"],
        "instance-state-name": shown["InstanceState"]["Name"],
        "instance-status.status": shown["InstanceStatus"]["Status"],
        "system-status.status": shown["SystemStatus"]["Status"],
    }
    return known[asked["Name"]] in asked["Values"]


def _page(items: list[dict[str, Any]], name: str, asked: dict[str, Any]) -> dict[str, Any]:
    """One page as MaxResults and NextToken ask for."""
    start = int(asked.get("NextToken", 0))
    size = int(asked.get("MaxResults", 1000))
    page: dict[str, Any] = {name: items[start : start + size]}
    if start + size < len(items):
        page["NextToken"] = str(start + size)
    return page


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _words(date: datetime) -> str:
    return date.strftime("%Y-%m-%d %H:%M:%S GMT")
