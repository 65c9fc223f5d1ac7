"""What AWS checks of every request before anything else, and moto does not: names, lengths, words."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Any

from botocore.model import Shape

from tests.cloud.wire import Call, Refusal

MOST_USER_DATA = 16384  # bytes
MOST_TAGS = 50
# EC2's model has few patterns; these are in the text of its API reference.
EC2_RULES = {
    "ClientToken": r"[\x21-\x7e]{1,64}",
    "GroupDescription": r"[a-zA-Z0-9. _\-:/()#,@\[\]+=&;{}!$*]{1,255}",
    "GroupName": r"(?!sg-)[a-zA-Z0-9. _\-:/()#,@\[\]+=&;{}!$*]{1,255}",
    "KeyName": r"[\x20-\x7e]{1,255}",
    "LaunchTemplateName": r"[a-zA-Z0-9().\-/_]{3,128}",
    "Key": r"(?!aws:).{1,128}",
    "Value": r".{0,256}",
}
WRITTEN_BY_USERS = ("CreateSecurityGroup", "CreateLaunchTemplate", "ImportKeyPair", "CreateKeyPair")


def check(call: Call) -> None:
    """Raises Refusal for what the service's model, or EC2's documentation, does not allow."""
    shape = call.operation.input_shape
    if shape is None or call.service == "s3":  # of S3 only a part of the parameters is read
        return
    for name, member, value in _walk("", shape, call.parameters):
        _check_model(call, name, member, value)
    if call.service == "ec2":
        _check_ec2(call)


def _walk(name: str, shape: Shape, value: Any) -> Iterator[tuple[str, Shape, Any]]:
    """Every text in a request, with its name and its shape."""
    if shape.type_name == "structure":
        for key, member in shape.members.items():
            if value.get(key) is not None:
                yield from _walk(key, member, value[key])
    elif shape.type_name == "list":
        for item in value:
            yield from _walk(name, shape.member, item)
    elif isinstance(value, str):
        yield name, shape, value


def _check_model(call: Call, name: str, shape: Shape, value: str) -> None:
    words = getattr(shape, "enum", None)
    if words and value not in words:
        raise _wrong(call, f"Invalid value '{value}' for {name}.")
    if (pattern := shape.metadata.get("pattern")) and not re.search(_whole(pattern), value):
        raise _wrong(call, f"Value '{value}' at '{name}' failed to satisfy the pattern {pattern}")
    if len(value) > shape.metadata.get("max", len(value)):
        raise _wrong(call, f"Value at '{name}' is longer than {shape.metadata['max']}")


def _whole(pattern: str) -> str:
    return rf"\A(?:{pattern})\Z"


def _check_ec2(call: Call) -> None:
    asked = call.parameters
    named = {k: asked[k] for k in ("ClientToken",) if k in asked}
    if call.action in WRITTEN_BY_USERS:
        named |= {k: asked[k] for k in ("GroupName", "KeyName", "LaunchTemplateName") if k in asked}
        named |= {"GroupDescription": asked["Description"]} if "Description" in asked else {}
    for name, value in named.items():
        _check_rule(call, name, value)
    specified = [spec["Tags"] for spec in asked.get("TagSpecifications", [])]
    for tags in [*specified, asked.get("Tags", [])]:
        if len(tags) > MOST_TAGS or len({t["Key"] for t in tags}) < len(tags):
            raise _wrong(call, f"At most {MOST_TAGS} tags, and no key twice")
        for tag in tags:
            for part in ("Key", "Value"):
                _check_rule(call, part, tag.get(part, ""))
    for holder in (asked, asked.get("LaunchTemplateData", {})):
        if len(base64.b64decode(holder.get("UserData", ""))) > MOST_USER_DATA:
            raise _wrong(call, f"User data is limited to {MOST_USER_DATA} bytes")


def _check_rule(call: Call, name: str, value: str) -> None:
    if not re.fullmatch(EC2_RULES[name], value, re.DOTALL):
        raise _wrong(call, f"Value ({value}) for parameter {name} is invalid.")


def _wrong(call: Call, said: str) -> Refusal:
    codes = {"ec2": "InvalidParameterValue", "query": "ValidationError"}
    return Refusal(codes.get(call.protocol, "ValidationException"), said)
