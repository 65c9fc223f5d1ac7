"""Instances from launch to the end: pending, running, stopping, stopped, shutting-down, terminated."""

from __future__ import annotations

import random
import socket
import threading
import traceback
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tests.cloud.imds import Imds
from tests.cloud.machine import Machine
from tests.cloud.market import SPOT, Pool
from tests.cloud.wire import Call, Refusal

if TYPE_CHECKING:
    from tests.cloud.clock import Timer
    from tests.cloud.cloud import Cloud
    from tests.cloud.launches import Launch

Reason = tuple[str, str]  # the code and the message of a StateReason

CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}
BY_USER = ("Client.UserInitiatedShutdown", "Client.UserInitiatedShutdown: User initiated shutdown")
BY_GUEST = (
    "Client.InstanceInitiatedShutdown",
    "Client.InstanceInitiatedShutdown: Instance initiated shutdown",
)
BY_SPOT = ("Server.SpotInstanceTermination", "Server.SpotInstanceTermination: Spot instance termination")
FOREVER = float("inf")


@dataclass
class Delays:
    """Seconds of the cloud's clock that things take."""

    pending: float = 0.1
    stopping: float = 0.1
    ending: float = 0.1
    checks: float = 0.5  # from running to both status checks passed
    console: float = 0.0  # from running to the first GetConsoleOutput that says anything
    notice: float = 120.0
    quota: float = 0.0  # for which an instance that has ended still counts against its quota


@dataclass
class Instance:
    """One instance, from its launch until long after its end."""

    id: str
    region: str
    pool: Pool
    launch: Launch
    machine: Machine
    created: float
    launched: float  # the last start
    state: str = "pending"
    since: float = 0.0
    address: str = ""
    open: bool = False  # whether the firewall lets the caller in
    reason: Reason = ("", "")
    transition: str = ""
    spot_request: str = ""
    paid: list[list[float]] = field(default_factory=list)  # [from, until]
    interruption: dict[str, str] | None = None
    rebalance: str | None = None
    imds: Imds | None = None
    shutdown: Timer | None = None  # which the guest has scheduled
    on_shutdown: str = ""  # what ModifyInstanceAttribute has said that it means; moto does not keep it

    @property
    def living(self) -> bool:
        """It takes room, and counts against a quota."""
        return self.state in ("pending", "running")

    @property
    def ended(self) -> bool:
        return self.state in ("shutting-down", "terminated")

    @property
    def private_address(self) -> str:
        return f"10{self.address[3:]}"

    def interfaces(self, cloud: Cloud) -> list[dict[str, Any]]:
        """Its network interfaces, as moto has them."""
        found: list[dict[str, Any]] = cloud.moto.client("ec2", self.region).describe_network_interfaces(
            Filters=[{"Name": "attachment.instance-id", "Values": [self.id]}]
        )["NetworkInterfaces"]
        return found


class Instances:
    """All of an account's, in all regions; and the calls that change their state."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.all: dict[str, Instance] = {}
        self.delays = Delays()
        self.stillborn = ""  # a StateReason that the next instance dies of before it runs
        self._ending: list[threading.Thread] = []
        self._net = random.SystemRandom().randrange(64, 127)

    def answers(self) -> dict[str, Callable[[Call], dict[str, Any] | None]]:
        return {
            "ec2:TerminateInstances": self.terminate,
            "ec2:StopInstances": self.stop,
            "ec2:StartInstances": self.start,
            "ec2:RebootInstances": self.reboot,
        }

    def find(self, call: Call, ids: Iterable[str]) -> list[Instance]:
        """Those with these ids, for a caller who may not see all of them yet."""
        found = []
        for name in ids:
            instance = self.all.get(name)
            if instance is None or instance.region != call.region or self.cloud.visibility.hides(name):
                raise Refusal("InvalidInstanceID.NotFound", f"The instance ID '{name}' does not exist")
            found.append(instance)
        return found

    # --- a life ---------------------------------------------------------------------------------------------

    def begin(self, name: str, region: str, pool: Pool, launch: Launch) -> Instance:
        """From the launch on: pending, then running."""
        machine = Machine(self.cloud.folder / name, self.cloud.image, self.cloud.mounts)
        now = self.cloud.clock.now()
        instance = Instance(name, region, pool, launch, machine, now, now, since=now)
        if pool.market == SPOT:
            instance.spot_request = f"sir-{uuid.uuid4().hex[:8]}"
        self.all[name] = instance
        if self.stillborn:
            reason, self.stillborn = (self.stillborn.partition(":")[0], self.stillborn), ""
            self.cloud.clock.after(self.delays.pending, lambda: self.end(instance, reason, ""))
        else:
            self._power_on(instance)
        return instance

    def end(self, instance: Instance, reason: Reason, transition: str) -> None:
        """Shutting-down, then terminated; the disk goes too."""
        if instance.ended:
            return
        delay = 0.0 if instance.state == "stopped" else self.delays.ending
        self._leave(instance, "shutting-down", reason, transition)
        self.cloud.clock.after(delay, lambda: self._power_off(instance, self._terminated))

    def halt(self, instance: Instance, reason: Reason, transition: str) -> None:
        """Stopping, then stopped; the disk stays."""
        self._leave(instance, "stopping", reason, transition)
        self.cloud.clock.after(self.delays.stopping, lambda: self._power_off(instance, self._stopped))

    def interrupt(self, instance: Instance) -> None:
        """The two-minute notice of a spot instance, and what follows."""
        due = self.cloud.clock.now() + self.delays.notice
        instance.interruption = {"action": "terminate", "time": f"{_date(due):%Y-%m-%dT%H:%M:%SZ}"}
        self.cloud.clock.at(due, lambda: self.reclaim(instance))

    def reclaim(self, instance: Instance) -> None:
        """A spot instance is taken back, with or without notice."""
        if instance.living:
            self.end(instance, BY_SPOT, f"Server initiated ({self._when()})")

    def guest_shutdown(self, instance: Instance, action: str, minutes: float) -> float:
        """What `shutdown` in the guest asks for; when it is due. The last one counts."""
        due = self.cloud.clock.now() + minutes * 60
        if action != "warn" and instance.shutdown is not None:
            instance.shutdown.cancel()
        if action in ("poweroff", "reboot"):
            instance.shutdown = self.cloud.clock.at(due, lambda: self._guest_ends(instance, action))
        return due

    def close(self) -> None:
        for thread in self._ending:
            thread.join()
        for instance in self.all.values():
            instance.machine.stop(grace=0)
            instance.machine.discard()
            if instance.imds is not None:
                instance.imds.close()

    def _guest_ends(self, instance: Instance, action: str) -> None:
        if instance.state != "running" or instance.machine.frozen:
            return
        if action == "reboot":
            self._power_cycle(instance)
        elif self._means_of_shutdown(instance) == "terminate":
            self.end(instance, BY_GUEST, "")
        else:
            self.halt(instance, BY_GUEST, "")

    def _power_on(self, instance: Instance) -> None:
        instance.address = self._new_address()
        instance.imds = Imds(instance, self.cloud)
        self._become(instance, "pending")
        self.cloud.clock.after(self.delays.pending, lambda: self._boot(instance))

    def _boot(self, instance: Instance) -> None:
        if instance.state == "pending":
            self._become(instance, "running")
            instance.paid.append([self.cloud.clock.now(), FOREVER])
            if self.cloud.boots:
                instance.machine.start(self._seed(instance))

    def _power_cycle(self, instance: Instance) -> None:
        self._power_off(instance, self._again)

    def _again(self, instance: Instance, at: float) -> None:
        if instance.state == "running":
            instance.machine.start(self._seed(instance))

    def _leave(self, instance: Instance, state: str, reason: Reason, transition: str) -> None:
        """Out of running: from here on nothing is to be paid for the time."""
        instance.reason, instance.transition = reason, transition
        if instance.paid and instance.paid[-1][1] == FOREVER:
            instance.paid[-1][1] = self.cloud.clock.now()
        self._become(instance, state)

    def _stopped(self, instance: Instance, at: float) -> None:
        if instance.state == "stopping":
            self._silence(instance)
            self.cloud.moto.client("ec2", instance.region).stop_instances(InstanceIds=[instance.id])
            self._become(instance, "stopped", at)

    def _terminated(self, instance: Instance, at: float) -> None:
        self._silence(instance)
        instance.machine.discard()
        moto = self.cloud.moto.client("ec2", instance.region)
        interfaces = instance.interfaces(self.cloud)
        moto.modify_instance_attribute(InstanceId=instance.id, DisableApiTermination={"Value": False})
        moto.terminate_instances(InstanceIds=[instance.id])
        for interface in interfaces:  # moto would keep them for ever
            moto.delete_network_interface(NetworkInterfaceId=interface["NetworkInterfaceId"])
        self._become(instance, "terminated", at)

    def _power_off(self, instance: Instance, then: Callable[[Instance, float], None]) -> None:
        """What runs in it may take its time to end, and may need the cloud for that.

        `then` is told when the end began: how long it takes is no time of the cloud's clock.
        """
        if instance.shutdown is not None:
            instance.shutdown.cancel()
        now = self.cloud.clock.now()
        if instance.machine.process is None:
            then(instance, now)
            return

        def off() -> None:
            try:
                instance.machine.stop()
                with self.cloud.lock:
                    then(instance, now)
            except Exception:  # noqa: BLE001 - told when the cloud is closed
                self.cloud.errors.append(traceback.format_exc())

        self._ending = [thread for thread in self._ending if thread.is_alive()]
        self._ending.append(threading.Thread(target=off, name=f"{instance.id} ends"))
        self._ending[-1].start()

    def _silence(self, instance: Instance) -> None:
        if instance.imds is not None:
            instance.imds.close()
            instance.imds = None

    def _become(self, instance: Instance, state: str, at: float | None = None) -> None:
        instance.state, instance.since = state, self.cloud.clock.now() if at is None else at

    def _seed(self, instance: Instance) -> dict[str, Any]:
        """What the instance knows of itself when it boots."""
        assert instance.imds is not None
        instance.open = self.cloud.firewall.lets_in(instance)
        user_data = self._attribute(instance, "UserData") or ""
        return {
            "instance": instance.id,
            "hostname": f"ip-{instance.private_address.replace('.', '-')}",
            "address": instance.address,
            "imds": instance.imds.url,
            "user": instance.launch.user,
            "public_keys": instance.launch.public_keys,
            "user_data": user_data,
            "environment": {
                "AWS_ENDPOINT_URL": self.cloud.url,
                "AWS_EC2_METADATA_SERVICE_ENDPOINT": instance.imds.url,
                **self.cloud.guest_environment,
            },
            "sshd": instance.open,
        }

    def _means_of_shutdown(self, instance: Instance) -> Any:
        return instance.on_shutdown or self._attribute(instance, "InstanceInitiatedShutdownBehavior")

    def _attribute(self, instance: Instance, name: str) -> Any:
        """An attribute that ModifyInstanceAttribute may have changed."""
        moto = self.cloud.moto.client("ec2", instance.region)
        told = moto.describe_instance_attribute(InstanceId=instance.id, Attribute=name[0].lower() + name[1:])
        return told[name].get("Value")

    def _new_address(self) -> str:
        """A loopback address whose ports 22 and 80 nobody has."""
        for _ in range(100):
            address = f"127.{self._net}.{random.randrange(256)}.{random.randrange(1, 255)}"
            try:
                for port in (22, 80):
                    with socket.socket() as s:
                        s.bind((address, port))
            except OSError:
                continue
            return address
        raise AssertionError("ports 22 and 80 are taken on every loopback address of this machine")

    # --- calls ----------------------------------------------------------------------------------------------

    def terminate(self, call: Call) -> dict[str, Any]:
        chosen = self.find(call, call.parameters["InstanceIds"])
        for instance in chosen:
            if not instance.ended and self._attribute(instance, "DisableApiTermination"):
                raise Refusal(
                    "OperationNotPermitted",
                    f"The instance '{instance.id}' may not be terminated. Modify its 'disableApiTermination' "
                    "instance attribute and try again.",
                )
        words = f"User initiated ({self._when()})"
        return {"TerminatingInstances": _changed(chosen, lambda i: self.end(i, BY_USER, words))}

    def stop(self, call: Call) -> dict[str, Any]:
        chosen = self.find(call, call.parameters["InstanceIds"])
        for instance in chosen:
            _expect(instance, "pending", "running", "stopping", "stopped")
            if instance.pool.market == SPOT:
                raise Refusal(
                    "UnsupportedOperation",
                    f"You can't stop the Spot Instance '{instance.id}' because it is associated with a "
                    "one-time Spot Instance request. You can only stop Spot Instances associated with "
                    "persistent Spot Instance requests.",
                )
        words = f"User initiated ({self._when()})"

        def act(instance: Instance) -> None:
            if instance.living:
                self.halt(instance, BY_USER, words)

        return {"StoppingInstances": _changed(chosen, act)}

    def start(self, call: Call) -> dict[str, Any]:
        chosen = self.find(call, call.parameters["InstanceIds"])
        for instance in chosen:
            _expect(instance, "pending", "running", "stopped")
            if instance.state == "stopped":
                self.cloud.market.check(instance.pool, call.region, None)

        def act(instance: Instance) -> None:
            if instance.state == "stopped":
                self.cloud.moto.client("ec2", call.region).start_instances(InstanceIds=[instance.id])
                instance.reason, instance.transition = ("", ""), ""
                instance.launched = self.cloud.clock.now()
                self._power_on(instance)

        return {"StartingInstances": _changed(chosen, act)}

    def reboot(self, call: Call) -> dict[str, Any]:
        for instance in self.find(call, call.parameters["InstanceIds"]):
            _expect(instance, "running")
            self._power_cycle(instance)
        return {}

    def _when(self) -> str:
        return f"{self.cloud.clock.date():%Y-%m-%d %H:%M:%S} GMT"


def _changed(chosen: list[Instance], act: Callable[[Instance], None]) -> list[dict[str, Any]]:
    """What an answer says of each: the state before and the one after."""
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


def _expect(instance: Instance, *states: str) -> None:
    if instance.state not in states:
        raise Refusal(
            "IncorrectInstanceState",
            f"The instance '{instance.id}' is not in a state from which this can be done: {instance.state}.",
        )


def _date(moment: float) -> datetime:
    return datetime.fromtimestamp(moment, UTC)
