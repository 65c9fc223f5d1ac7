"""Ways to an instance that open no port: SSM sessions, EC2 Instance Connect and its endpoint.

The AWS CLI's part is played by `aws_cli.py`: it asks for a session, then speaks to the cloud at the session's
address, which joins the line to an sshd of its own in the instance.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.cloud.policies import Need, allows
from tests.cloud.wire import Call, Refusal

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud
    from tests.cloud.instances import Instance

KEY_SECONDS = 60.0  # for which a key of SendSSHPublicKey is good


class Connections:
    """`endpoint` is whether there is an EC2 Instance Connect Endpoint in the network."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.endpoint = True
        self._sessions: dict[str, str] = {}

    def answers(self) -> dict[str, Callable[[Call], dict[str, Any] | None]]:
        return {
            "ssm:StartSession": self.start_session,
            "ssm:TerminateSession": self.terminate_session,
            "ssm:DescribeInstanceInformation": self.agents_online,
            "ec2:DescribeInstanceConnectEndpoints": self.endpoints,
            "ec2-instance-connect:SendSSHPublicKey": self.send_key,
        }

    def agents_online(self, call: Call) -> dict[str, Any]:
        """Base AMIs have the agent; it is heard where the instance's role lets it speak."""
        asked = call.parameters
        given = [*asked.get("Filters", []), *asked.get("InstanceInformationFilterList", [])]
        wanted = [value for f in given for value in f.get("Values") or f.get("valueSet", [])]
        online = {"PingStatus": "Online", "PlatformType": "Linux", "ResourceType": "EC2Instance"}
        told = [
            {"InstanceId": i.id, **online}
            for i in self.cloud.instances.all.values()
            if i.region == call.region and (not wanted or i.id in wanted) and self._online(i)
        ]
        return {"InstanceInformationList": told}

    def endpoints(self, call: Call) -> dict[str, Any]:
        told = {
            "InstanceConnectEndpointId": "eice-0123456789abcdef0",
            "State": "create-complete",
            "SecurityGroupIds": [self.group(call.region)],
            "PreserveClientIp": False,
        }
        return {"InstanceConnectEndpoints": [told] if self.endpoint else []}

    def group(self, region: str) -> str:
        """The security group that what comes through the endpoint comes from."""
        ec2 = self.cloud.moto.client("ec2", region)
        named = [{"Name": "group-name", "Values": ["default"]}]
        return str(ec2.describe_security_groups(Filters=named)["SecurityGroups"][0]["GroupId"])

    def start_session(self, call: Call) -> dict[str, Any]:
        target = call.parameters["Target"]
        instance = self.cloud.instances.all.get(target)
        if instance is None or not self._online(instance):
            raise Refusal("TargetNotConnected", f"{target} is not connected.")
        session = f"tester-{uuid.uuid4().hex[:17]}"
        self._sessions[session] = target
        url = f"{self.cloud.url}/session/{session}"
        return {"SessionId": session, "TokenValue": "a-token", "StreamUrl": url}

    def terminate_session(self, call: Call) -> dict[str, Any]:
        self._sessions.pop(call.parameters["SessionId"], None)
        return {"SessionId": call.parameters["SessionId"]}

    def send_key(self, call: Call) -> dict[str, Any]:
        asked = call.parameters
        (instance,) = self.cloud.instances.find(call, [asked["InstanceId"]])
        if instance.state != "running":
            raise Refusal("EC2InstanceStateInvalidException", "Instance must be running.")
        file = instance.machine.root / "run/instance-connect" / asked["InstanceOSUser"]
        file.write_text(asked["SSHPublicKey"].strip() + "\n")

        def forget() -> None:
            if instance.state == "running":
                file.unlink(missing_ok=True)

        self.cloud.clock.after(KEY_SECONDS, forget)
        return {"RequestId": str(uuid.uuid4()), "Success": True}

    def open_tunnel(self, call: Call) -> str:
        """What the CLI asks of the endpoint itself, over a signed WebSocket; the name of the line."""
        (instance,) = self.cloud.instances.find(call, [call.parameters["instanceId"]])
        if not self.endpoint or instance.state != "running":
            raise Refusal("ResourceNotFoundException", "There is no endpoint that reaches the instance", 404)
        name = f"tunnel-{uuid.uuid4().hex[:17]}"
        self._sessions[name] = instance.id
        return name

    def join(self, session: str, line: socket.socket) -> None:
        """Relay between a client and the instance of its session, until one of them has had enough."""
        instance = self.cloud.instances.all[self._sessions[session]]
        if instance.state != "running":
            return
        # An agent calls out, but the endpoint knocks like anybody else.
        through = self.group(instance.region) if session.startswith("tunnel-") else None
        if through and not self.cloud.firewall.admits(instance, through):
            return
        inner, outer = socket.socketpair()
        ends = {"stdin": inner, "stdout": inner, "stderr": subprocess.DEVNULL}
        sshd = instance.machine.enter("/usr/sbin/sshd", "-i", "-f", "/run/sshd_config", **ends)
        inner.close()
        there = threading.Thread(target=_copy, args=[line, outer], daemon=True)
        there.start()
        _copy(outer, line)
        with contextlib.suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)
        there.join()
        outer.close()
        sshd.kill()
        sshd.wait()

    def _online(self, instance: Instance) -> bool:
        if instance.state != "running" or instance.machine.frozen or not instance.launch.profile:
            return False
        role, _ = self.cloud.role_credentials(instance)
        return allows(self.cloud.permissions.of_role(role), Need("ssm:UpdateInstanceInformation", "*"))


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
