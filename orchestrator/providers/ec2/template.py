"""The launch template: what every machine is like, whichever pool it comes from. One for each machine.

IMDSv2 only and for nobody behind the machine, the disk encrypted and gone with it, a shutdown from within
terminates. It holds the user data, so it is deleted as soon as there is a machine.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from orchestrator.errors import BadRequest, Ec2emoError
from orchestrator.providers.ec2 import tags
from orchestrator.providers.ec2.api import Aws
from orchestrator.providers.ec2.image import Image


def body(
    *, image: Image, disk_gb: int, key: str, group: str, user_data: str, profile: str | None
) -> dict[str, Any]:
    """LaunchTemplateData. Pure."""
    disk = {"VolumeSize": disk_gb, "VolumeType": "gp3", "Encrypted": True, "DeleteOnTermination": True}
    data: dict[str, Any] = {
        "ImageId": image.ask_for,
        "KeyName": key,
        "SecurityGroupIds": [group],
        "UserData": base64.b64encode(user_data.encode()).decode(),
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {
            "HttpEndpoint": "enabled",
            "HttpTokens": "required",
            "HttpPutResponseHopLimit": 1,
        },
        "BlockDeviceMappings": [{"DeviceName": image.device, "Ebs": disk}],
    }
    if profile:
        data["IamInstanceProfile"] = {"Name": profile}
    return data


def made(aws: Aws, name: str, data: Mapping[str, Any], made_with: Mapping[str, str]) -> str:
    """The id of the template of this name, made where it is not there yet; the name is what makes it one."""
    try:
        answer = aws.ask(
            "ec2",
            "create_launch_template",
            LaunchTemplateName=name,
            LaunchTemplateData=dict(data),
            TagSpecifications=tags.specification(["launch-template"], made_with),
        )
        return str(answer["LaunchTemplate"]["LaunchTemplateId"])
    except Ec2emoError as e:
        if e.code != "InvalidLaunchTemplateName.AlreadyExistsException":
            raise
    found = aws.ask("ec2", "describe_launch_templates", LaunchTemplateNames=[name])["LaunchTemplates"]
    if not found or tags.read(found[0]).get(tags.UID) != made_with[tags.UID]:
        raise BadRequest(
            f"another computer has a run called {made_with[tags.RUN]} in {aws.region}: choose another --name",
            run=made_with[tags.RUN],
        )
    return str(found[0]["LaunchTemplateId"])


def remove(aws: Aws, template_id: str) -> None:
    """Delete it; one that is gone is gone."""
    try:
        aws.ask("ec2", "delete_launch_template", LaunchTemplateId=template_id)
    except Ec2emoError as e:
        if "NotFound" not in (e.code or ""):
            raise
