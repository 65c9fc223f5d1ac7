"""Machine images: those of AWS that moto does not know, as images and as public parameters."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from tests.cloud.wire import Call, Refusal, refusal

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud

AMAZON, CANONICAL = "898082745236", "099720109477"
PUBLIC = ("/aws/service/deeplearning/", "/aws/service/canonical/")
OURS = ("/aws/service/deeplearning", "/aws/service/canonical")
BASE = "Deep Learning Base OSS Nvidia Driver GPU AMI"
DEEP = "/aws/service/deeplearning/ami/x86_64"


@dataclass(frozen=True)
class Ami:
    """An image; its id differs by region."""

    name: str
    owner: str
    user: str
    created: str
    size: int = 8  # GiB, the least that its disk may have
    root: str = "/dev/sda1"
    deprecated: bool = False

    def id(self, region: str) -> str:
        return "ami-" + hashlib.sha256(f"{region} {self.name}".encode()).hexdigest()[:17]

    @property
    def snapshot(self) -> str:
        return "snap-" + hashlib.sha256(self.name.encode()).hexdigest()[:17]


UBUNTU_22 = Ami(f"{BASE} (Ubuntu 22.04) 20251031", AMAZON, "ubuntu", "2025-10-31T08:15:30.000Z", 75)
UBUNTU_24 = Ami(f"{BASE} (Ubuntu 24.04) 20251107", AMAZON, "ubuntu", "2025-11-07T10:02:11.000Z", 75)
OLDER = Ami(
    f"{BASE} (Ubuntu 22.04) 20240115", AMAZON, "ubuntu", "2024-01-15T23:59:59.000Z", 45, deprecated=True
)
LINUX_2023 = Ami(
    f"{BASE} (Amazon Linux 2023) 20251031", AMAZON, "ec2-user", "2025-10-31T09:00:00.000Z", 75, "/dev/xvda"
)
PLAIN = Ami(
    "ubuntu/images/hvm-ssd/ubuntu-jammy-22.04-amd64-server-20251015",
    CANONICAL,
    "ubuntu",
    "2025-10-15T00:00:00.000Z",
)


class Amis:
    """The catalogue, which a test may thin out: `images`, and `parameters` that lead to them."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.images = [UBUNTU_22, UBUNTU_24, OLDER, LINUX_2023, PLAIN]
        self.parameters = {
            f"{DEEP}/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id": UBUNTU_22,
            f"{DEEP}/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id": UBUNTU_24,
            f"{DEEP}/base-oss-nvidia-driver-gpu-amazon-linux-2023/latest/ami-id": LINUX_2023,
            "/aws/service/canonical/ubuntu/server/22.04/stable/current/amd64/hvm/ebs-gp2/ami-id": PLAIN,
        }

    def answers(self) -> dict[str, Callable[[Call], dict[str, Any] | None]]:
        return {
            "ec2:DescribeImages": self.describe,
            "ssm:GetParameter": self.get_parameter,
            "ssm:GetParameters": self.get_parameters,
            "ssm:GetParametersByPath": self.get_parameters_by_path,
        }

    def resolve(self, call: Call, image: str) -> str:
        """An image id, also for `resolve:ssm:NAME`."""
        if not image.startswith("resolve:ssm:"):
            return image
        name = image.removeprefix("resolve:ssm:").partition(":")[0]
        if name in self.parameters:
            return self.parameters[name].id(call.region)
        try:
            found = self.cloud.moto.client("ssm", call.region).get_parameter(Name=name)
        except ClientError:
            raise Refusal(
                "InvalidParameterValue", f"Could not resolve the SSM parameter {name} of the image"
            ) from None
        value: str = found["Parameter"]["Value"]
        return value

    def known(self, call: Call, image: str) -> Ami:
        """The image of an id; EC2 refuses to start another."""
        for ami in self.images:
            if ami.id(call.region) == image:
                return ami
        try:
            (found,) = self.cloud.moto.client("ec2", call.region).describe_images(ImageIds=[image])["Images"]
        except (ClientError, ValueError):
            raise Refusal("InvalidAMIID.NotFound", f"The image id '[{image}]' does not exist") from None
        user = "ubuntu" if "ubuntu" in found.get("Name", "").lower() else "ec2-user"
        return Ami(
            found.get("Name", ""), found["OwnerId"], user, found["CreationDate"], 8, found["RootDeviceName"]
        )

    def describe(self, call: Call) -> dict[str, Any]:
        asked = call.parameters
        ids = list(asked.get("ImageIds", []))
        ours = [self._image(a, call.region) for a in self.images if _fits(a, a.id(call.region), asked)]
        left = [i for i in ids if i not in [a.id(call.region) for a in self.images]]
        theirs: list[dict[str, Any]] = []
        if left or not ids:
            rest = {k: v for k, v in asked.items() if k in ("Filters", "Owners", "ExecutableUsers")}
            if left:
                rest["ImageIds"] = left
            try:
                found = self.cloud.moto.client("ec2", call.region).describe_images(**rest)["Images"]
            except ClientError as e:
                raise refusal(e) from e
            theirs = [i for i in found if i.get("OwnerId") not in (AMAZON, CANONICAL)]
        return {"Images": [*ours, *theirs]}

    def _image(self, ami: Ami, region: str) -> dict[str, Any]:
        disk = {
            "SnapshotId": ami.snapshot,
            "VolumeSize": ami.size,
            "VolumeType": "gp3",
            "DeleteOnTermination": True,
        }
        return {
            "ImageId": ami.id(region),
            "Name": ami.name,
            "Description": ami.name,
            "OwnerId": ami.owner,
            "ImageOwnerAlias": "amazon",
            "CreationDate": ami.created,
            "DeprecationTime": "2025-01-15T23:59:59.000Z" if ami.deprecated else "2027-10-31T08:15:30.000Z",
            "Architecture": "x86_64",
            "State": "available",
            "Public": True,
            "ImageType": "machine",
            "Hypervisor": "xen",
            "VirtualizationType": "hvm",
            "RootDeviceType": "ebs",
            "RootDeviceName": ami.root,
            "PlatformDetails": "Linux/UNIX",
            "EnaSupport": True,
            "BlockDeviceMappings": [{"DeviceName": ami.root, "Ebs": disk | {"Encrypted": False}}],
        }

    def get_parameter(self, call: Call) -> dict[str, Any] | None:
        name = call.parameters["Name"]
        if not name.startswith(OURS):
            return None
        if name not in self.parameters:
            raise Refusal("ParameterNotFound", f"Parameter {name} not found.")
        return {"Parameter": self._parameter(name, call.region)}

    def get_parameters(self, call: Call) -> dict[str, Any] | None:
        names = call.parameters["Names"]
        if not any(n.startswith(OURS) for n in names):
            return None
        known = [n for n in names if n in self.parameters]
        return {
            "Parameters": [self._parameter(n, call.region) for n in known],
            "InvalidParameters": [n for n in names if n not in known],
        }

    def get_parameters_by_path(self, call: Call) -> dict[str, Any] | None:
        path = call.parameters["Path"].rstrip("/") + "/"
        if not path.startswith(PUBLIC):
            return None
        deep = call.parameters.get("Recursive", False)
        found = [n for n in self.parameters if n.startswith(path) and (deep or "/" not in n[len(path) :])]
        return {"Parameters": [self._parameter(n, call.region) for n in found]}

    def _parameter(self, name: str, region: str) -> dict[str, Any]:
        ami = self.parameters[name]
        return {
            "Name": name,
            "Type": "String",
            "Value": ami.id(region),
            "Version": 3,
            "LastModifiedDate": datetime.fromisoformat(ami.created.replace("Z", "+00:00")),
            "ARN": f"arn:aws:ssm:{region}::parameter{name}",
            "DataType": "aws:ec2:image",
        }


def _fits(ami: Ami, image: str, asked: dict[str, Any]) -> bool:
    if asked.get("ImageIds") and image not in asked["ImageIds"]:
        return False
    if asked.get("Owners") and not {ami.owner, "amazon"} & set(asked["Owners"]):
        return False
    if ami.deprecated and not asked.get("IncludeDeprecated") and not asked.get("ImageIds"):
        return False
    seen = {
        "architecture": "x86_64",
        "image-id": image,
        "image-type": "machine",
        "is-public": "true",
        "name": ami.name,
        "owner-alias": "amazon",
        "owner-id": ami.owner,
        "root-device-type": "ebs",
        "state": "available",
        "virtualization-type": "hvm",
    }
    for wanted in asked.get("Filters", []):
        if wanted["Name"] not in seen:
            raise Refusal("InvalidParameterValue", f"The filter '{wanted['Name']}' is invalid")
        if not any(fnmatch.fnmatchcase(seen[wanted["Name"]], value) for value in wanted["Values"]):
            return False
    return True
