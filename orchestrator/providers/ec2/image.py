"""Which image a machine boots from: the AWS Deep Learning Base AMI with the open NVIDIA driver, the newest.

Names of the SSM parameters are from "Finding the ID of a DLAMI"; their spelling varies by release line, so
several are asked for at once. Where SSM does not answer, EC2 itself is asked for the newest by name.
The driver of these images needs a Turing GPU (T4) or a later one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import BadRequest, Ec2emoError, Refused
from orchestrator.machine import Terms
from orchestrator.providers.ec2.api import Aws

_LINES = (
    "base-oss-nvidia-driver-gpu-ubuntu-24.04",
    "base-oss-nvidia-driver-gpu-ubuntu-22.04",
    "base-oss-nvidia-driver-ubuntu-22.04",
)
PARAMETERS = tuple(f"/aws/service/deeplearning/ami/x86_64/{line}/latest/ami-id" for line in _LINES)
OWNERS = ["898082745236", "amazon"]  # AWS Deep Learning
NAMES = tuple(
    f"Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu {version}) *" for version in ("24.04", "22.04")
)
# Whom cloud-init makes for the image's system; matched in the image's name or description, in this order.
USERS = (
    (r"ubuntu", "ubuntu"),
    (r"amazon linux|amzn|al2023|al2\b", "ec2-user"),
    (r"debian", "admin"),
    (r"centos", "centos"),
    (r"rhel|red hat", "ec2-user"),
    (r"suse|sles", "ec2-user"),
    (r"fedora", "fedora"),
)


@dataclass(frozen=True)
class Image:
    """`ask_for` is what a launch names, `id` what it means today; `device` is where its root disk is."""

    id: str
    ask_for: str
    name: str
    device: str
    user: str
    smallest_disk_gb: int = 8


def find(aws: Aws, terms: Terms) -> Image:
    """The image the terms name, else the newest Base AMI. Raises BadRequest when there is none."""
    if terms.image and terms.image.startswith("ami-"):
        return _made(_described(aws, terms.image), terms.image)
    parameter, image_id = _parameter(aws, (terms.image,) if terms.image else PARAMETERS)
    if parameter:
        return _made(_described(aws, image_id), f"resolve:ssm:{parameter}")
    if terms.image:
        raise BadRequest(
            f"{terms.image!r:.100} is neither an AMI (ami-…) nor an SSM parameter that holds one"
        )
    newest = _newest(aws)
    return _made(newest, str(newest["ImageId"]))


def user_of(aws: Aws, image_id: str) -> str | None:
    """Whom one logs in as on a machine made from an image; None when its name does not tell."""
    try:
        return _user(_described(aws, image_id))
    except (BadRequest, Refused):
        return None  # images are withdrawn while machines made from them go on


def _parameter(aws: Aws, names: tuple[str, ...]) -> tuple[str, str]:
    """The first of these parameters that there is, and what it holds; two empty texts without any."""
    try:
        answer = aws.ask("ssm", "get_parameters", Names=list(names))
    except Ec2emoError:
        return "", ""
    found = {str(p["Name"]): str(p["Value"]) for p in answer.get("Parameters") or ()}
    return next(((n, found[n]) for n in names if n in found), ("", ""))


def _described(aws: Aws, image_id: str) -> dict[str, Any]:
    found = aws.ask("ec2", "describe_images", ImageIds=[image_id]).get("Images") or []
    if not found:
        raise BadRequest(f"there is no image {image_id} in {aws.region}: name another under [ec2] image")
    return dict(found[0])


def _newest(aws: Aws) -> dict[str, Any]:
    filters = [{"Name": "name", "Values": list(NAMES)}, {"Name": "state", "Values": ["available"]}]
    found = list(aws.all("ec2", "describe_images", "Images", Owners=OWNERS, Filters=filters))
    if not found:
        raise BadRequest(
            f"AWS offers no Deep Learning Base AMI in {aws.region}: name an image under [ec2] in "
            f"ec2emo.toml, or another --region"
        )
    return max(found, key=lambda i: ("24.04" in str(i.get("Name")), str(i.get("CreationDate", ""))))


def _made(body: dict[str, Any], ask_for: str) -> Image:
    device = str(body.get("RootDeviceName") or "/dev/sda1")
    disks: list[dict[str, Any]] = [m.get("Ebs") or {} for m in body.get("BlockDeviceMappings") or ()]
    sizes = [int(disk.get("VolumeSize") or 8) for disk in disks]
    return Image(
        id=str(body["ImageId"]),
        ask_for=ask_for,
        name=str(body.get("Name", "")),
        device=device,
        user=_user(body) or "ubuntu",
        smallest_disk_gb=max(sizes, default=8),
    )


def _user(body: dict[str, Any]) -> str | None:
    said = f"{body.get('Name', '')} {body.get('Description', '')}".lower()
    return next((user for pattern, user in USERS if re.search(pattern, said)), None)
