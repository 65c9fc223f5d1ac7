"""AWS on this machine: moto behind, and before it what moto lacks."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
import traceback
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.cloud import bill as bills
from tests.cloud.amis import Amis
from tests.cloud.clock import Clock
from tests.cloud.faults import Bucket, Failure, Faults
from tests.cloud.fleets import MESSAGES, PLACEHOLDER, Fleets
from tests.cloud.image import Image
from tests.cloud.instances import Instance, Instances
from tests.cloud.launches import Launches
from tests.cloud.listings import Listings
from tests.cloud.market import Market, Pool, Pools
from tests.cloud.moto import ACCOUNT, CREDENTIALS, Moto
from tests.cloud.schedules import Schedules
from tests.cloud.server import Server
from tests.cloud.templates import Templates
from tests.cloud.tokens import Tokens
from tests.cloud.wire import Answer, Call, Refusal, Request, failure, parse, success

USER = f"arn:aws:iam::{ACCOUNT}:user/tester"


@dataclass(frozen=True)
class Leftover:
    """Something that costs or lingers."""

    kind: str
    id: str
    region: str


class Cloud:
    """One account. What tests turn are its attributes; what the product sees is its `environment`."""

    def __init__(self, moto: Moto, image: Image, folder: Path) -> None:
        self.moto = moto
        self.image = image
        self.folder = folder
        self.caller = "198.51.100.7"  # the address that AWS sees the caller at
        self.firewall = True  # whether port 22 answers only where a security group lets the caller in
        self.visibility_delay = 0.0  # seconds from a launch until Describe… tells of it
        self.region = "us-east-1"
        self.calls: list[Call] = []
        self.clock = Clock()
        self.instances = Instances(self)
        self.market = Market(self._living, self.cpus)
        self.amis = Amis(self)
        self.templates = Templates(self)
        self.launches = Launches(self)
        self.fleets = Fleets(self)
        self.tokens = Tokens(self)
        self.faults = Faults(self)
        self.schedules = Schedules(self)
        self._roles: dict[str, str] = {}  # access key of an instance -> its role
        self._cpus: dict[str, int] = {}
        self._lock = threading.RLock()
        self._answers: dict[str, Callable[[Call], dict[str, Any] | None]] = {
            "sts:DecodeAuthorizationMessage": _decode,
        }
        for part in (self.instances, self.launches, self.fleets, self.amis, Listings(self)):
            self._answers |= part.answers()
        self._server = Server(self)
        self.port = self._server.port
        self.url = f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._server.close()
        self.clock.close()
        self.instances.close()

    # --- what the product gets ------------------------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        """What boto3 needs to know, and nothing of the real AWS."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": CREDENTIALS["aws_access_key_id"],
            "AWS_SECRET_ACCESS_KEY": CREDENTIALS["aws_secret_access_key"],
            "AWS_DEFAULT_REGION": self.region,
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @property
    def address_url(self) -> str:
        """Answers with the caller's address, as checkip.amazonaws.com does."""
        return f"{self.url}/checkip"

    # --- what a test turns ----------------------------------------------------------------------------------

    @property
    def capacity(self) -> Pools:
        """`capacity["g4dn.xlarge", "us-east-1a", "spot"] = 0`; each of the three may be `*`."""
        return self.market.capacity

    @property
    def quotas(self) -> dict[str, float]:
        """Virtual CPUs by quota code. Delete one and there is no applied value, only the default."""
        return self.market.quotas

    def deny(self, *actions: str) -> None:
        """Patterns such as `ec2:CreateFleet` or `ssm:*` that the caller may not do."""
        self.faults.denied += actions

    def fail(self, action: str, code: str, times: int = 1, message: str = "", effect: bool = False) -> None:
        """The next calls end with this error; with `effect` only after they were carried out."""
        self.faults.failures.append(Failure(action, code, message or MESSAGES.get(code, code), times, effect))

    def throttle(self, action: str, seconds: float) -> None:
        """RequestLimitExceeded for so long on the cloud's clock."""
        self.faults.quiet_until[action] = self.clock.now() + seconds

    def limit(self, action: str, capacity: float, refill: float) -> None:
        """A bucket of request tokens: so many at once, so many more a second."""
        self.faults.buckets[action] = Bucket(capacity, refill, capacity, self.clock.now())

    def answer_fleet(self, codes: Sequence[str | tuple[str, str]]) -> None:
        """The next CreateFleet answers 200 with these errors, one for each pool in turn, and no instance."""
        named = [
            c if isinstance(c, tuple) else (c, dict([PLACEHOLDER]).get(c) or MESSAGES.get(c, c))
            for c in codes
        ]
        self.fleets.answer_next.append(named)

    def kill_at(self, number: int, pid: int | None = None) -> None:
        """SIGKILL at the numbered point from now on: to `pid`, or to whoever made the call."""
        self.faults.points.clear()
        self.faults.kill = (number, pid)

    def lose_reply_at(self, *numbers: int) -> None:
        """Cut the connection at these points from now on."""
        self.faults.points.clear()
        self.faults.lose = set(numbers)

    def notice(self, instance: Instance | str) -> None:
        """The two-minute notice, and two minutes later the end."""
        self.instances.interrupt(self._instance(instance))

    def rebalance(self, instance: Instance | str) -> None:
        """The recommendation that may come before a notice."""
        self._instance(instance).rebalance = self.clock.date().strftime("%Y-%m-%dT%H:%M:%SZ")

    def reclaim(self, instance: Instance | str) -> None:
        """A spot instance goes without notice."""
        self.instances.reclaim(self._instance(instance))

    def impersonate(self, instance: Instance | str) -> None:
        """From now on somebody else answers at its address, with another host key."""
        machine = self._instance(instance).machine
        path = machine.root / "run/impostor"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
        machine.order("sshd /run/impostor")

    # --- what a test looks at -------------------------------------------------------------------------------

    def living(self) -> list[Instance]:
        """Instances that are not at their end, the oldest first."""
        return [i for i in self.instances.all.values() if i.state not in ("shutting-down", "terminated")]

    def names(self) -> list[str]:
        """The calls that were made, in order."""
        return [call.name for call in self.calls]

    def bill(self) -> bills.Bill:
        return bills.bill(self)

    def leftovers(self, owner: str | None = None) -> list[Leftover]:
        """Everything that costs or lingers, in every region used; of one owner, if one is given.

        What has no owner tag counts for every owner: the product made it and nobody could find it.
        """
        regions = sorted({self.region, *(c.region for c in self.calls)})
        found = [(left, tags) for region in regions for left, tags in self._everything(region)]
        return [left for left, tags in found if owner is None or tags.get("ec2emo:owner", owner) == owner]

    def client(self, service: str, region: str | None = None) -> Any:
        """boto3's client of this cloud, for tests; what it does is no different from what the product does."""
        session = boto3.session.Session(**CREDENTIALS)
        config = Config(retries={"total_max_attempts": 1})
        return session.client(
            service, region_name=region or self.region, endpoint_url=self.url, config=config
        )

    # --- one request ----------------------------------------------------------------------------------------

    def answer(self, request: Request) -> Answer:
        """From the door: through the gates, to the part that knows, or on to moto."""
        if request.target.startswith("/checkip"):
            return Answer(200, [("Content-Type", "text/plain")], f"{self.caller}\n".encode())
        call = parse(request)
        call.at = self.clock.now()
        with self._lock:
            call.number = len(self.calls) + 1
            self.calls.append(call)
        try:
            self.faults.before(call, request.peer)
            answer = self.tokens.once(call, lambda: self._carry_out(call, request))
            self.faults.after(call, request.peer)
        except Refusal as refusal:
            call.outcome = refusal.code
            return failure(call, refusal)
        except Exception as e:
            if not call.outcome:
                traceback.print_exc()
                call.outcome = f"a fault of the test cloud: {e!r}"
            raise
        call.outcome = str(answer.status)
        return answer

    def _carry_out(self, call: Call, request: Request) -> Answer:
        handler = self._answers.get(call.name)
        if handler is not None:
            with self._lock:
                result = handler(call)
            if result is not None:
                return success(call, result)
        answer = Answer(*self.moto.send(request.method, request.target, request.headers, request.body))
        if answer.status < 300:
            self._changed(call)
        return answer

    def _changed(self, call: Call) -> None:
        """What follows from a change that moto made."""
        if call.name in ("scheduler:CreateSchedule", "scheduler:UpdateSchedule"):
            self.schedules.changed(call)
        elif call.service == "ec2" and "SecurityGroup" in call.action:
            self.instances.obey_firewall()
        elif call.name == "ec2:ModifyInstanceAttribute":
            self.instances.obey_firewall()
        elif call.name == "ec2:ModifyInstanceMetadataOptions":
            options = {k: v for k, v in call.parameters.items() if k != "InstanceId"}
            self.instances.all[call.parameters["InstanceId"]].launch.metadata_options |= options

    # --- facts that several parts ask for -------------------------------------------------------------------

    def cpus(self, kind: str) -> int:
        """Virtual CPUs of an instance type."""
        if kind not in self._cpus:
            try:
                (found,) = self.moto.client("ec2", "us-east-1").describe_instance_types(InstanceTypes=[kind])[
                    "InstanceTypes"
                ]
            except (ClientError, ValueError):
                raise Refusal("InvalidParameterValue", f"Invalid value '{kind}' for InstanceType.") from None
            self._cpus[kind] = found["VCpuInfo"]["DefaultVCpus"]
        return self._cpus[kind]

    def zones(self, region: str, kind: str) -> set[str]:
        """Where an instance type is offered."""
        offers = self.moto.client("ec2", region).describe_instance_type_offerings(
            LocationType="availability-zone", Filters=[{"Name": "instance-type", "Values": [kind]}]
        )["InstanceTypeOfferings"]
        return {o["Location"] for o in offers}

    def zone_of(self, region: str, subnet: str | None) -> str:
        if subnet is None:
            return ""
        found = self.moto.client("ec2", region).describe_subnets(SubnetIds=[subnet])["Subnets"]
        zone: str = found[0]["AvailabilityZone"]
        return zone

    def tags(self, id: str, region: str) -> dict[str, str]:
        found = self.moto.client("ec2", region).describe_tags(
            Filters=[{"Name": "resource-id", "Values": [id]}]
        )
        return {t["Key"]: t["Value"] for t in found["Tags"]}

    def arn_of(self, access_key: str) -> str:
        """Who a caller is."""
        role = self._roles.get(access_key)
        return f"arn:aws:sts::{ACCOUNT}:assumed-role/{role}/instance" if role else USER

    def role_credentials(self, instance: str, profile: str) -> dict[str, str]:
        """What an instance finds in its metadata; the cloud knows its calls by the key."""
        key = "ASIA" + uuid.uuid5(uuid.NAMESPACE_URL, f"{instance}/{profile}").hex[:16].upper()
        self._roles[key] = profile
        now = datetime.fromtimestamp(self.clock.now(), UTC)
        return {
            "Code": "Success",
            "LastUpdated": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "Type": "AWS-HMAC",
            "AccessKeyId": key,
            "SecretAccessKey": "of-the-instance",
            "Token": "of-the-session",
            "Expiration": (now + timedelta(hours=6)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    def _living(self) -> list[tuple[Pool, str]]:
        return [(i.pool, i.region) for i in self.instances.all.values() if i.living]

    def _instance(self, instance: Instance | str) -> Instance:
        return instance if isinstance(instance, Instance) else self.instances.all[instance]

    def _everything(self, region: str) -> list[tuple[Leftover, dict[str, str]]]:
        ec2, scheduler = self.moto.client("ec2", region), self.moto.client("scheduler", region)

        def tags(thing: dict[str, Any]) -> dict[str, str]:
            return {t["Key"]: t["Value"] for t in thing.get("Tags") or thing.get("TagSet") or []}

        found = [
            (Leftover("instance", i.id, region), self.tags(i.id, region))
            for i in self.living()
            if i.region == region
        ]
        for kind, key, things in (
            ("volume", "VolumeId", ec2.describe_volumes()["Volumes"]),
            ("snapshot", "SnapshotId", _own_snapshots(ec2)),
            ("interface", "NetworkInterfaceId", ec2.describe_network_interfaces()["NetworkInterfaces"]),
            ("address", "AllocationId", ec2.describe_addresses()["Addresses"]),
            ("template", "LaunchTemplateName", ec2.describe_launch_templates()["LaunchTemplates"]),
            ("group", "GroupName", ec2.describe_security_groups()["SecurityGroups"]),
            ("key", "KeyName", ec2.describe_key_pairs()["KeyPairs"]),
            ("schedule", "Name", scheduler.list_schedules()["Schedules"]),
        ):
            found += [(Leftover(kind, t[key], region), tags(t)) for t in things if t[key] != "default"]
        return found


def _own_snapshots(ec2: Any) -> list[dict[str, Any]]:
    """Without those that moto's images stand on."""
    found = ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]
    return [s for s in found if not s["Description"].startswith("Auto-created")]


def _decode(call: Call) -> dict[str, Any]:
    text = base64.urlsafe_b64decode(call.parameters["EncodedMessage"]).decode()
    json.loads(text)
    return {"DecodedMessage": text}
