"""AWS on this machine: moto behind, and before it what moto lacks."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
import traceback
import uuid
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from botocore.config import Config
from botocore.exceptions import ClientError

from tests.cloud import bill as bills
from tests.cloud import leftovers, validation, wire
from tests.cloud.amis import Amis
from tests.cloud.clock import Clock
from tests.cloud.connect import Connections
from tests.cloud.descriptions import Descriptions
from tests.cloud.faults import Bucket, Cut, Failure, Faults
from tests.cloud.firewall import Firewall
from tests.cloud.fleets import Fleets, message
from tests.cloud.image import Image
from tests.cloud.instances import Instance, Instances
from tests.cloud.launches import Launches
from tests.cloud.listings import Listings
from tests.cloud.market import Market, Pool, Pools
from tests.cloud.moto import ACCOUNT, Moto
from tests.cloud.policies import Permissions, Policy
from tests.cloud.schedules import Schedules
from tests.cloud.server import Server
from tests.cloud.stacks import Stacks
from tests.cloud.templates import Templates
from tests.cloud.tokens import Tokens
from tests.cloud.visibility import Visibility
from tests.cloud.wire import Answer, Call, Refusal, Request

USER = f"arn:aws:iam::{ACCOUNT}:user/tester"
AWS = Path(__file__).parent / "aws_cli.py"

Handler = Callable[[Call], dict[str, Any] | None]  # None: moto knows
Amend = Callable[[Call, dict[str, Any]], dict[str, Any]]


class Cloud:
    """One account. Its attributes are what tests turn; its `environment` is all that the product sees."""

    def __init__(self, moto: Moto, image: Image, folder: Path) -> None:
        self.moto = moto
        self.image = image
        self.folder = folder
        self.region = "us-east-1"
        self.boots = True  # whether new instances have a machine behind them; many tests need none
        self.guest_environment: dict[str, str] = {}  # of every session and service in new instances
        self.mounts: dict[str, str] = {}  # folders and files of this machine that new instances see
        self.calls: list[Call] = []
        self.errors: list[str] = []  # of the test cloud itself
        self.lock = threading.RLock()
        self.clock = Clock(self.lock)
        self.visibility = Visibility(self)
        self.firewall = Firewall(self)
        self.instances = Instances(self)
        self.descriptions = Descriptions(self)
        self.market = Market(self._counted, self.cpus)
        self.amis = Amis(self)
        self.templates = Templates(self)
        self.launches = Launches(self)
        self.fleets = Fleets(self)
        self.tokens = Tokens(self)
        self.permissions = Permissions(self)
        self.faults = Faults(self)
        self.schedules = Schedules(self)
        self.stacks = Stacks(self)
        self.connections = Connections(self)
        self._roles: dict[str, str] = {}  # access key -> the role of the instance that it was given to
        self._cpus: dict[str, int] = {}
        self._zones: dict[tuple[str, str], set[str]] = {}
        self._answers: dict[str, Handler] = {"sts:DecodeAuthorizationMessage": _decode}
        self._amends: dict[str, list[Amend]] = {}
        for answering in (
            self.instances,
            self.descriptions,
            self.launches,
            self.fleets,
            self.amis,
            self.connections,
            self.firewall,
            self.stacks,
            Listings(self),
        ):
            self._answers |= answering.answers()
        for amending in (self.descriptions, self.visibility, self.stacks, self.schedules):
            for name, amend in amending.amends().items():
                self._amends.setdefault(name, []).append(amend)
        self._server = Server(self)
        self.port = self._server.port
        self.url = f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        """All instances lose their power. Raises AssertionError when the cloud itself was at fault."""
        self._server.close()
        self.clock.close()
        self.instances.close()
        errors = [*self.errors, *self.clock.errors]
        assert not errors, "\n".join(errors)

    # --- what the product gets ------------------------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        """What boto3 and ec2emo need to know, and nothing of the real AWS."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": wire.CREDENTIALS["aws_access_key_id"],
            "AWS_SECRET_ACCESS_KEY": wire.CREDENTIALS["aws_secret_access_key"],
            "AWS_DEFAULT_REGION": self.region,
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_EC2_METADATA_DISABLED": "true",
            "EC2EMO_ADDRESS_SERVICE": self.address_url,
        }

    @property
    def address_url(self) -> str:
        """Answers with the caller's address, as checkip.amazonaws.com does."""
        return f"{self.url}/checkip"

    @property
    def programs(self) -> Path:
        """A folder for the PATH: `aws`, for --via."""
        program = self.folder / "programs" / "aws"
        if not program.exists():
            program.parent.mkdir(parents=True)
            program.write_text(f'#!/bin/sh\nexec {sys.executable} {AWS} "$@"\n')
            program.chmod(0o755)
        return program.parent

    # --- what a test turns ----------------------------------------------------------------------------------

    @property
    def caller(self) -> str:
        """The address at which AWS sees whoever runs ec2emo."""
        return self.firewall.caller

    @caller.setter
    def caller(self, address: str) -> None:
        self.firewall.caller = address

    @property
    def capacity(self) -> Pools:
        """`capacity["g4dn.xlarge", "us-east-1a", "spot"] = 0`; each of the three may be `*`."""
        return self.market.capacity

    @property
    def quotas(self) -> dict[str, float]:
        """Virtual CPUs by quota code. Delete one, and there is the default of new accounts, which is 0."""
        return self.market.quotas

    @property
    def visibility_delay(self) -> float:
        """Seconds from a launch until Describe… tells of it. For other things see `visibility.delay`."""
        return self.visibility.delay["instance"]

    @visibility_delay.setter
    def visibility_delay(self, seconds: float) -> None:
        self.visibility.delay["instance"] = seconds

    def deny(self, *actions: str) -> None:
        """Patterns such as `ec2:CreateFleet` or `ssm:*` that the user may not do."""
        self.faults.denied += actions

    def enforce(self, *policies: Policy) -> None:
        """From now on the user may do what these IAM policies allow, and no more."""
        self.permissions.user = list(policies)

    def fail(self, action: str, code: str, times: int = 1, said: str = "", effect: bool = False) -> None:
        """The next calls end with this error; with `effect`, after they were carried out."""
        self.faults.failures.append(Failure(action, code, said or message(code), times, effect))

    def throttle(self, action: str, seconds: float) -> None:
        """RequestLimitExceeded for so long on the cloud's clock."""
        self.faults.quiet_until[action] = self.clock.now() + seconds

    def limit(self, action: str, capacity: float, refill: float) -> None:
        """A bucket of request tokens: so many calls at once, so many more a second."""
        self.faults.buckets[action] = Bucket(capacity, refill, capacity, self.clock.now())

    def answer_fleet(self, codes: Sequence[str | tuple[str, str]]) -> None:
        """The next CreateFleet answers 200 with these errors (code, or code and message) and no instance.

        The pools have them in turn; there is at least one error of each.
        """
        self.fleets.answer_next.append([c if isinstance(c, tuple) else (c, message(c)) for c in codes])

    def kill_at(self, number: int, pid: int | None = None) -> None:
        """SIGKILL at the numbered point from now on: to `pid`, or to the process that made the call.

        Every call that has an effect has two points, before it and after it; `points` tells which there were.
        """
        self.faults.points.clear()
        self.faults.kill = (number, pid)

    def lose_reply_at(self, *numbers: int) -> None:
        """Cut the connection at these points from now on: before the effect, or after it."""
        self.faults.points.clear()
        self.faults.lose = set(numbers)

    def notice(self, instance: Instance | str) -> None:
        """The two-minute notice, and two minutes later the end."""
        self.instances.interrupt(self._instance(instance))

    def rebalance(self, instance: Instance | str) -> None:
        """The recommendation that may come before a notice, or with it."""
        self._instance(instance).rebalance = f"{self.clock.date():%Y-%m-%dT%H:%M:%SZ}"

    def reclaim(self, instance: Instance | str) -> None:
        """A spot instance is taken back without notice."""
        self.instances.reclaim(self._instance(instance))

    def freeze(self, instance: Instance | str) -> None:
        """Its kernel hangs: nothing in it moves, nothing answers."""
        self._instance(instance).machine.freeze()

    def impersonate(self, instance: Instance | str) -> None:
        """From now on somebody else answers at its address, with another host key."""
        machine = self._instance(instance).machine
        key = machine.root / "run/impostor"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        machine.order("sshd /run/impostor")

    # --- what a test looks at -------------------------------------------------------------------------------

    @property
    def points(self) -> list[Any]:
        """Where a caller could have died since the last kill_at or lose_reply_at, or since the beginning."""
        return self.faults.points

    def living(self) -> list[Instance]:
        """Instances that are not at their end, the oldest first."""
        return [i for i in self.instances.all.values() if not i.ended]

    def names(self) -> list[str]:
        """The names of all calls, in order."""
        return [call.name for call in self.calls]

    def named(self, *names: str) -> list[Call]:
        """The calls of these names (`ec2:CreateFleet`), in order."""
        return [call for call in self.calls if call.name in names]

    def bill(self) -> bills.Bill:
        """What the account would pay up to now."""
        return bills.bill(self)

    def leftovers(self, owner: str | None = None) -> list[leftovers.Leftover]:
        """Everything that costs or lingers, in every region used; of one owner, if one is given.

        What has no owner tag counts for every owner: the product made it, and nobody could find it.
        """
        found = leftovers.everything(self)
        return [left for left in found if owner is None or left.tags.get("ec2emo:owner", owner) == owner]

    def client(self, service: str, region: str | None = None) -> Any:
        """boto3's client of this cloud, which sends every request once."""
        config = Config(retries={"total_max_attempts": 1})
        with self.lock:  # making a client is not safe in threads
            return wire.session().client(
                service, region_name=region or self.region, endpoint_url=self.url, config=config
            )

    # --- one request ----------------------------------------------------------------------------------------

    def answer(self, request: Request) -> Answer:
        """From the door through the gates to the part that knows, or on to moto. Raises Cut."""
        if request.target.startswith("/checkip"):
            return Answer(200, [("Content-Type", "text/plain")], f"{self.firewall.caller}\n".encode())
        tunnel = request.target.startswith("/open-tunnel")
        call = _open_tunnel(request) if tunnel else wire.parse(request)
        with self.lock:
            call.at = self.clock.now()
            self.calls.append(call)
        try:
            if not tunnel:
                validation.check(call)
            self.faults.before(call, request.peer)
            answer = self.tokens.once(call, lambda: self._carry_out(call, request))
            call.outcome = str(answer.status)
            self.faults.after(call, request.peer)
        except Refusal as refusal:
            call.outcome = refusal.code
            return wire.failure(call, refusal)
        except Cut:
            raise
        except Exception:  # noqa: BLE001 - told when the cloud is closed
            self.errors.append(f"{call.name} {call.parameters}\n{traceback.format_exc()}")
            raise Cut from None
        return answer

    def _carry_out(self, call: Call, request: Request) -> Answer:
        if call.action == "OpenTunnel":
            return Answer(200, [], self.connections.open_tunnel(call).encode())
        if handler := self._answers.get(call.name):
            with self.lock:
                result = handler(call)
            if result is not None:
                return wire.success(call, result)
        answer = self.moto.send(request)
        if answer.status >= 300:
            return answer
        with self.lock:
            self._note(call)
            if amends := self._amends.get(call.name):
                result = wire.read(call, answer)
                for amend in amends:
                    result = amend(call, result)
                return wire.success(call, result)
        return answer

    def _note(self, call: Call) -> None:
        """What follows here from a change that moto has made."""
        asked = call.parameters
        if call.service == "ec2" and ("SecurityGroup" in call.action or "Attribute" in call.action):
            self.firewall.changed()
        if call.name == "ec2:ModifyInstanceMetadataOptions":
            options = {k: v for k, v in asked.items() if k not in ("InstanceId", "DryRun")}
            self.instances.all[asked["InstanceId"]].launch.metadata_options.update(options)
        if call.name == "ec2:ModifyInstanceAttribute" and "InstanceInitiatedShutdownBehavior" in asked:
            said = asked["InstanceInitiatedShutdownBehavior"]["Value"]
            self.instances.all[asked["InstanceId"]].on_shutdown = said
        if call.name == "ec2:AssociateIamInstanceProfile":
            profile = asked["IamInstanceProfile"]
            name = profile.get("Name") or profile["Arn"].rpartition("/")[2]
            self.instances.all[asked["InstanceId"]].launch.profile = name

    # --- facts that several parts ask for -------------------------------------------------------------------

    def cpus(self, kind: str) -> int:
        """Virtual CPUs of an instance type. Raises Refusal for one that does not exist."""
        if kind not in self._cpus:
            moto = self.moto.client("ec2", "us-east-1")
            try:
                (found,) = moto.describe_instance_types(InstanceTypes=[kind])["InstanceTypes"]
            except ClientError:
                raise Refusal("InvalidParameterValue", f"Invalid value '{kind}' for InstanceType.") from None
            self._cpus[kind] = found["VCpuInfo"]["DefaultVCpus"]
        return self._cpus[kind]

    def zones(self, region: str, kind: str) -> set[str]:
        """Where an instance type is offered."""
        if (region, kind) not in self._zones:
            offers = self.moto.client("ec2", region).describe_instance_type_offerings(
                LocationType="availability-zone", Filters=[{"Name": "instance-type", "Values": [kind]}]
            )["InstanceTypeOfferings"]
            self._zones[region, kind] = {offer["Location"] for offer in offers}
        return self._zones[region, kind]

    def tags(self, resource: str, region: str) -> dict[str, str]:
        """The tags of anything in EC2."""
        ec2 = self.moto.client("ec2", region)
        found = ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [resource]}])["Tags"]
        return {tag["Key"]: tag["Value"] for tag in found}

    def role_of(self, access_key: str) -> str | None:
        """The role that an instance's key stands for; None for the user's own."""
        return self._roles.get(access_key)

    def arn_of(self, access_key: str) -> str:
        """Who a caller is."""
        role = self.role_of(access_key)
        return f"arn:aws:sts::{ACCOUNT}:assumed-role/{role}/instance" if role else USER

    def role_credentials(self, instance: Instance) -> tuple[str, dict[str, str]]:
        """The role of an instance's profile, and what the metadata service says of its credentials."""
        iam = self.moto.client("iam", "us-east-1")
        profile = iam.get_instance_profile(InstanceProfileName=instance.launch.profile)["InstanceProfile"]
        role = profile["Roles"][0]["RoleName"]
        key = f"ASIA{uuid.uuid5(uuid.NAMESPACE_URL, f'{instance.id}/{role}').hex[:16].upper()}"
        self._roles[key] = role
        now = self.clock.date()
        return role, {
            "Code": "Success",
            "LastUpdated": f"{now:%Y-%m-%dT%H:%M:%SZ}",
            "Type": "AWS-HMAC",
            "AccessKeyId": key,
            "SecretAccessKey": "of-the-instance",
            "Token": "of-the-session",
            "Expiration": f"{now + timedelta(hours=6):%Y-%m-%dT%H:%M:%SZ}",
        }

    def _counted(self) -> list[tuple[Pool, str, bool]]:
        """For each instance its pool, its region, and whether it still takes room there."""
        now, lag = self.clock.now(), self.instances.delays.quota
        return [
            (i.pool, i.region, i.living)
            for i in self.instances.all.values()
            if i.living or (i.ended and now - i.since < lag)
        ]

    def _instance(self, instance: Instance | str) -> Instance:
        return instance if isinstance(instance, Instance) else self.instances.all[instance]


def _open_tunnel(request: Request) -> Call:
    """The one call that is in no service's model."""
    asked = dict(parse_qsl(urlsplit(request.target).query))
    key, region = asked.pop("key"), asked.pop("region")
    return Call("ec2-instance-connect", region, "OpenTunnel", asked, key, "json")


def _decode(call: Call) -> dict[str, Any]:
    """What an encoded authorization message says."""
    text = base64.urlsafe_b64decode(call.parameters["EncodedMessage"]).decode()
    json.loads(text)
    return {"DecodedMessage": text}
