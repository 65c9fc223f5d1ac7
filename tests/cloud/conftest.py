"""An account with what a launch needs, and the ways in which tests of the cloud ask it."""

from __future__ import annotations

import base64
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cloud.cloud import Cloud
from tests.cloud.instances import Instance
from tests.conftest import eventually

IMAGE = (
    "resolve:ssm:/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id"
)
METADATA = {"HttpTokens": "required", "HttpPutResponseHopLimit": 1, "InstanceMetadataTags": "enabled"}
DISK = {"VolumeSize": 100, "VolumeType": "gp3", "Encrypted": True, "DeleteOnTermination": True}
OWNED = [{"Key": "ec2emo:owner", "Value": "me"}]


@dataclass
class Account:
    """A user with a key, a group that lets the caller in, and a template that says how machines are to be."""

    cloud: Cloud
    ec2: Any
    key: Path
    group: str
    known_hosts: Path

    def template(self, name: str = "template", user_data: str = "#!/bin/sh\n", **data: Any) -> str:
        body = {
            "ImageId": IMAGE,
            "KeyName": "key",
            "SecurityGroupIds": [self.group],
            "UserData": base64.b64encode(user_data.encode()).decode(),
            "InstanceInitiatedShutdownBehavior": "terminate",
            "MetadataOptions": METADATA,
            "BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": DISK}],
            **data,
        }
        made = self.ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData=body)
        identifier: str = made["LaunchTemplate"]["LaunchTemplateId"]
        return identifier

    def fleet_request(
        self, *pools: tuple[str, str], market: str = "on-demand", template: str = "template", **more: Any
    ) -> dict[str, Any]:
        pools = pools or (("g4dn.xlarge", "us-east-1a"),)
        overrides = [{"InstanceType": t, "AvailabilityZone": z} for t, z in pools]
        named = {"LaunchTemplateName": template, "Version": "$Latest"}
        kinds = ("fleet", "instance", "volume", "network-interface")
        return {
            "Type": "instant",
            "LaunchTemplateConfigs": [{"LaunchTemplateSpecification": named, "Overrides": overrides}],
            "TargetCapacitySpecification": {"TotalTargetCapacity": 1, "DefaultTargetCapacityType": market},
            "TagSpecifications": [{"ResourceType": kind, "Tags": OWNED} for kind in kinds],
            **more,
        }

    def fleet(self, *pools: tuple[str, str], **more: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.ec2.create_fleet(**self.fleet_request(*pools, **more))
        return answer

    def launch(self, user_data: str = "#!/bin/sh\n", **more: Any) -> Instance:
        """One instance, running."""
        self.template(user_data=user_data)
        (made,) = self.fleet(**more)["Instances"]
        return self.running(made["InstanceIds"][0])

    def running(self, name: str) -> Instance:
        instance = self.cloud.instances.all[name]
        eventually(lambda: instance.state == "running")
        return instance

    def described(self, instance: Instance) -> dict[str, Any]:
        (reservation,) = self.ec2.describe_instances(InstanceIds=[instance.id])["Reservations"]
        found: dict[str, Any] = reservation["Instances"][0]
        return found

    def ssh(self, instance: Instance, command: str, *options: str) -> subprocess.CompletedProcess[str]:
        """A command on it, over the first connection that it lets us have; its key is taken as it is."""
        address = self.described(instance)["PublicIpAddress"]
        chosen = [
            "-o", f"UserKnownHostsFile={self.known_hosts}", "-o", "StrictHostKeyChecking=accept-new",
            "-o", "LogLevel=ERROR", "-o", "BatchMode=yes", "-i", str(self.key), *options,
        ]  # fmt: skip
        return subprocess.run(
            ["ssh", "-F", "none", *chosen, f"ubuntu@{address}", command],
            capture_output=True,
            text=True,
            check=False,
        )

    def reached(self, instance: Instance, command: str = "true", *options: str) -> str:
        """What a command says once sshd answers and lets us in."""
        done: list[subprocess.CompletedProcess[str]] = []

        def works() -> bool:
            done.append(self.ssh(instance, command, *options))
            return done[-1].returncode != 255

        eventually(works, 30)
        assert done[-1].returncode == 0, done[-1].stderr
        return done[-1].stdout


@pytest.fixture
def account(cloud: Cloud, tmp_path: Path) -> Account:
    ec2 = cloud.client("ec2")
    key = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    ec2.import_key_pair(KeyName="key", PublicKeyMaterial=key.with_suffix(".pub").read_bytes())
    group = ec2.create_security_group(GroupName="group", Description="port 22")["GroupId"]
    rule = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": f"{cloud.caller}/32"}]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])
    return Account(cloud, ec2, key, group, tmp_path / "known_hosts")


def code(error: pytest.ExceptionInfo[Any]) -> str:
    """The error code of a ClientError that was raised."""
    said: str = error.value.response["Error"]["Code"]
    return said
