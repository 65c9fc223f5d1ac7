"""IAM policies, evaluated for every call: which actions on which resources it takes, and who may do that.

Covers what ec2emo's policies use: Allow and Deny, wildcards in Action and Resource, and the condition
operators below. A call that needs several permissions (a launch tags, and passes a role) needs all of them.
Resource ARNs and condition keys are those of the Service Authorization Reference.
"""

from __future__ import annotations

import ast
import fnmatch
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from tests.cloud.moto import ACCOUNT
from tests.cloud.wire import Call

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud

Policy = dict[str, Any]
Context = dict[str, list[str]]

# Resources of EC2 that calls name by these parameters.
NAMED = {
    "FleetIds": "fleet",
    "GroupId": "security-group",
    "GroupIds": "security-group",
    "InstanceId": "instance",
    "InstanceIds": "instance",
    "KeyName": "key-pair",
    "KeyPairId": "key-pair",
    "LaunchTemplateId": "launch-template",
    "NetworkInterfaceId": "network-interface",
    "SpotInstanceRequestIds": "spot-instances-request",
    "VolumeId": "volume",
}
PREFIXES = {
    "i": "instance",
    "vol": "volume",
    "eni": "network-interface",
    "sg": "security-group",
    "lt": "launch-template",
    "key": "key-pair",
    "fleet": "fleet",
}
# What calls of EC2 make, by the type in their tag specification.
MADE = {
    "CreateFleet": "fleet",
    "CreateLaunchTemplate": "launch-template",
    "CreateSecurityGroup": "security-group",
    "CreateVolume": "volume",
    "ImportKeyPair": "key-pair",
}
# AWS's own policies, in so far as something here depends on them.
MANAGED: dict[str, Policy] = {
    "AmazonSSMManagedInstanceCore": {
        "Statement": {
            "Effect": "Allow",
            "Action": [
                "ssm:UpdateInstanceInformation",
                "ssm:GetParameters",
                "ssmmessages:*",
                "ec2messages:*",
            ],
            "Resource": "*",
        }
    }
}
# Where the permission is not called like the operation.
S3_ACTIONS = {
    "HeadObject": "GetObject",
    "HeadBucket": "ListBucket",
    "ListObjects": "ListBucket",
    "ListObjectsV2": "ListBucket",
    "ListObjectVersions": "ListBucketVersions",
    "CreateMultipartUpload": "PutObject",
    "UploadPart": "PutObject",
    "CompleteMultipartUpload": "PutObject",
    "CopyObject": "PutObject",
    "DeleteObjects": "DeleteObject",
    "ListBuckets": "ListAllMyBuckets",
}


@dataclass(frozen=True)
class Need:
    """One permission that a call needs: an action on a resource, in a context."""

    action: str
    resource: str
    context: Context = field(default_factory=dict)


def allows(policies: list[Policy], need: Need) -> bool:
    """Whether some statement allows it and none denies it."""
    applying = [s["Effect"] for p in policies for s in _list(p["Statement"]) if _applies(s, need)]
    return "Allow" in applying and "Deny" not in applying


def _applies(statement: dict[str, Any], need: Need) -> bool:
    actions = [a.lower() for a in _list(statement.get("Action", []))]
    if not any(fnmatch.fnmatchcase(need.action.lower(), a) for a in actions):
        return False
    if not any(fnmatch.fnmatchcase(need.resource, _pattern(r)) for r in _list(statement["Resource"])):
        return False
    conditions = statement.get("Condition", {})
    return all(
        _holds(operator, key, _list(values), need.context)
        for operator, keys in conditions.items()
        for key, values in keys.items()
    )


def _holds(operator: str, key: str, values: list[str], context: Context) -> bool:
    quantifier, _, name = operator.rpartition(":")
    optional = name.endswith("IfExists")
    name = name.removesuffix("IfExists")
    seen = next((v for k, v in context.items() if k.lower() == key.lower()), None)
    if name == "Null":
        return (seen is None) == (values[0] == "true")
    if seen is None:
        return optional or quantifier == "ForAllValues" or "Not" in name
    tests: dict[str, Callable[[str, str], bool]] = {
        "StringEquals": lambda s, v: s == v,
        "StringEqualsIgnoreCase": lambda s, v: s.lower() == v.lower(),
        "StringLike": lambda s, v: fnmatch.fnmatchcase(s, _pattern(v)),
        "ArnEquals": lambda s, v: fnmatch.fnmatchcase(s, _pattern(v)),
        "ArnLike": lambda s, v: fnmatch.fnmatchcase(s, _pattern(v)),
        "Bool": lambda s, v: s.lower() == v.lower(),
        "NumericEquals": lambda s, v: float(s) == float(v),
        "NumericLessThanEquals": lambda s, v: float(s) <= float(v),
    }
    negated = "Not" in name
    test = tests[name.replace("Not", "")]
    hits = [any(test(s, v) for v in values) for s in seen]
    held = all(hits) if quantifier == "ForAllValues" else any(hits)
    return not held if negated else held


def _pattern(text: str) -> str:
    """IAM knows * and ?, and takes brackets for what they are."""
    return text.replace("[", "[[]")


def _document(said: Any) -> Policy:
    """As moto has it; what came by CloudFormation it keeps as Python would write it."""
    if not isinstance(said, str):
        return said
    try:
        return json.loads(said)
    except ValueError:
        return ast.literal_eval(said)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


class Permissions:
    """Who may do what. `user` is the caller's policies; None means everything."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.user: list[Policy] | None = None

    def refused(self, call: Call) -> Need | None:
        """The first permission that the caller of a call lacks."""
        role = self.cloud.role_of(call.access_key)
        policies = self.user if role is None else self.of_role(role)
        if policies is None:
            return None
        return next((need for need in self.needs(call) if not allows(policies, need)), None)

    def of_role(self, role: str) -> list[Policy]:
        """The policies of a role, as they lie in moto's IAM."""
        iam = self.cloud.moto.client("iam", "us-east-1")
        try:
            inline = iam.list_role_policies(RoleName=role)["PolicyNames"]
        except ClientError:
            return []
        found = [
            _document(iam.get_role_policy(RoleName=role, PolicyName=n)["PolicyDocument"]) for n in inline
        ]
        for attached in iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]:
            arn = attached["PolicyArn"]
            version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
            document = iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"]
            found.append(_document(document))
        return found + [MANAGED[name] for name in self.cloud.stacks.managed(role)]

    def needs(self, call: Call) -> Iterator[Need]:
        """What a call takes. Services that are not looked into need their action on `*`."""
        looked_into = {
            "cloudformation": _stack,
            "ec2": self._ec2,
            "ec2-instance-connect": _connect,
            "s3": _s3,
            "scheduler": _scheduler,
            "ssm": self._ssm,
        }
        found = looked_into.get(call.service, _any)(call)
        for need in found:
            region = {"aws:RequestedRegion": [call.region]}
            yield Need(need.action, need.resource, {**region, **need.context})

    # --- EC2 ------------------------------------------------------------------------------------------------

    def _ec2(self, call: Call) -> Iterator[Need]:
        if call.action in ("RunInstances", "CreateFleet"):
            yield from self._launch(call)
        elif call.action in MADE:
            kind = MADE[call.action]
            tags = _request_tags(call.parameters, kind)
            yield Need(call.name, _arn(call, f"{kind}/*"), tags)
            if tags:
                yield Need(
                    "ec2:CreateTags", _arn(call, f"{kind}/*"), {**tags, "ec2:CreateAction": [call.action]}
                )
            if call.action == "CreateSecurityGroup":
                yield Need(call.name, _arn(call, f"vpc/{call.parameters.get('VpcId', '*')}"))
        elif call.action in ("CreateTags", "DeleteTags"):
            given = call.parameters.get("Tags", [])
            for name in call.parameters["Resources"]:
                context = {**self._tags_of(call, name), **_as_request_tags(given)}
                yield Need(call.name, _arn(call, f"{PREFIXES.get(name.split('-')[0], '*')}/{name}"), context)
        else:
            yield from self._named(call)

    def _named(self, call: Call) -> Iterator[Need]:
        """A call about things that are there."""
        found = False
        for parameter, kind in NAMED.items():
            if parameter in call.parameters and not call.action.startswith("Describe"):
                for name in _list(call.parameters[parameter]):
                    found = True
                    tagged = self._key_pair(call, name) if parameter == "KeyName" else name
                    yield Need(call.name, _arn(call, f"{kind}/{name}"), self._tags_of(call, tagged))
        if not found:
            yield Need(call.name, "*")

    def _key_pair(self, call: Call, name: str) -> str:
        """The id of a key pair, by which its tags are found."""
        pairs = self.cloud.moto.client("ec2", call.region).describe_key_pairs()["KeyPairs"]
        return next((str(pair["KeyPairId"]) for pair in pairs if pair["KeyName"] == name), name)

    def _launch(self, call: Call) -> Iterator[Need]:
        """A launch makes several things, tags them, uses several more, and may hand a role on."""
        asked = call.parameters
        configs = asked.get("LaunchTemplateConfigs", [])
        named = [c["LaunchTemplateSpecification"] for c in configs] or _list(asked.get("LaunchTemplate", []))
        templates = [self.cloud.templates.data(call, n) for n in named]
        if call.action == "CreateFleet":
            fleet = _request_tags(asked, "fleet")
            yield Need("ec2:CreateFleet", _arn(call, "fleet/*"), fleet)
            if fleet:
                yield Need(
                    "ec2:CreateTags", _arn(call, "fleet/*"), {**fleet, "ec2:CreateAction": ["CreateFleet"]}
                )
        for data in templates or [{}]:
            whole = {**data, **asked}
            for kind in ("instance", "volume", "network-interface"):
                tags = {**_request_tags(data, kind), **_request_tags(asked, kind)}
                context = {**tags, **_details(whole, kind)}
                yield Need("ec2:RunInstances", _arn(call, f"{kind}/*"), context)
                if tags:
                    tagging = {**tags, "ec2:CreateAction": ["RunInstances"]}
                    yield Need("ec2:CreateTags", _arn(call, f"{kind}/*"), tagging)
            yield Need("ec2:RunInstances", f"arn:aws:ec2:{call.region}::image/*")
            yield Need("ec2:RunInstances", _arn(call, "subnet/*"))
            yield Need("ec2:RunInstances", _arn(call, f"key-pair/{whole.get('KeyName', '*')}"))
            for group in whole.get("SecurityGroupIds", []):
                resource = _arn(call, f"security-group/{group}")
                yield Need("ec2:RunInstances", resource, self._tags_of(call, group))
            if profile := whole.get("IamInstanceProfile"):
                yield from self._pass_role(profile)
        for name in named:
            template = self.cloud.templates.specification(call, name)["LaunchTemplateId"]
            resource = _arn(call, f"launch-template/{template}")
            yield Need("ec2:RunInstances", resource, self._tags_of(call, template))

    def _ssm(self, call: Call) -> Iterator[Need]:
        names = call.parameters.get("Names") or [call.parameters.get("Name") or call.parameters.get("Path")]
        if call.action == "StartSession":
            target = call.parameters["Target"]
            tags = self.cloud.tags(target, call.region)
            context = {f"ssm:resourceTag/{key}": [value] for key, value in tags.items()}
            yield Need(call.name, f"arn:aws:ec2:{call.region}:{ACCOUNT}:instance/{target}", context)
            if document := call.parameters.get("DocumentName"):
                yield Need(call.name, f"arn:aws:ssm:{call.region}::document/{document}")
        elif names != [None]:
            for name in names:
                account = "" if name.startswith("/aws/") else ACCOUNT
                yield Need(call.name, f"arn:aws:ssm:{call.region}:{account}:parameter/{name.lstrip('/')}")
        else:
            yield Need(call.name, "*")

    def _pass_role(self, profile: dict[str, Any]) -> Iterator[Need]:
        name = profile.get("Name") or profile["Arn"].rpartition("/")[2]
        iam = self.cloud.moto.client("iam", "us-east-1")
        profiles = {p["InstanceProfileName"]: p for p in iam.list_instance_profiles()["InstanceProfiles"]}
        for role in profiles.get(name, {"Roles": []})["Roles"]:
            yield Need("iam:PassRole", role["Arn"], {"iam:PassedToService": ["ec2.amazonaws.com"]})

    def _tags_of(self, call: Call, name: str) -> Context:
        tags = self.cloud.tags(name, call.region)
        prefixes = ("aws:ResourceTag/", "ec2:ResourceTag/")
        return {f"{prefix}{key}": [value] for key, value in tags.items() for prefix in prefixes}


def _arn(call: Call, rest: str) -> str:
    return f"arn:aws:{call.service}:{call.region}:{ACCOUNT}:{rest}"


def _details(whole: dict[str, Any], kind: str) -> Context:
    if kind == "instance":
        options = whole.get("MetadataOptions", {})
        found = {"ec2:MetadataHttpTokens": [options.get("HttpTokens", "optional")]}
        return found | ({"ec2:InstanceType": [whole["InstanceType"]]} if "InstanceType" in whole else {})
    if kind == "volume":
        disks = [m.get("Ebs", {}) for m in whole.get("BlockDeviceMappings", [])]
        return {"ec2:Encrypted": [str(bool(disks) and all(d.get("Encrypted") for d in disks)).lower()]}
    return {}


def _request_tags(parameters: dict[str, Any], kind: str) -> Context:
    specs = parameters.get("TagSpecifications", [])
    return _as_request_tags([t for s in specs if s["ResourceType"] == kind for t in s["Tags"]])


def _as_request_tags(tags: list[dict[str, str]]) -> Context:
    if not tags:
        return {}
    named = {f"aws:RequestTag/{t['Key']}": [t.get("Value", "")] for t in tags}
    return named | {"aws:TagKeys": [t["Key"] for t in tags]}


# --- other services -----------------------------------------------------------------------------------------


def _s3(call: Call) -> Iterator[Need]:
    bucket, key = call.parameters.get("Bucket", ""), call.parameters.get("Key")
    action = f"s3:{S3_ACTIONS.get(call.action, call.action)}"
    if action == "s3:DeleteObject" and "VersionId" in call.parameters:
        action = "s3:DeleteObjectVersion"
    resource = f"arn:aws:s3:::{bucket}/{key}" if key else f"arn:aws:s3:::{bucket}" if bucket else "*"
    context = {"s3:prefix": [call.parameters["Prefix"]]} if "Prefix" in call.parameters else {}
    yield Need(action, resource, context)


def _scheduler(call: Call) -> Iterator[Need]:
    group, name = call.parameters.get("GroupName", "default"), call.parameters.get("Name", "*")
    grouped = call.action.endswith(("Group", "Groups"))
    kind = f"schedule-group/{name}" if grouped else f"schedule/{group}/{name}"
    yield Need(call.name, _arn(call, kind))
    if role := call.parameters.get("Target", {}).get("RoleArn"):
        yield Need("iam:PassRole", role, {"iam:PassedToService": ["scheduler.amazonaws.com"]})


def _stack(call: Call) -> Iterator[Need]:
    name = call.parameters.get("StackName")
    yield Need(call.name, _arn(call, f"stack/{name}/00000000-0000") if name else "*")


def _connect(call: Call) -> Iterator[Need]:
    name = call.parameters.get("InstanceId") or call.parameters.get("instanceId")
    arn = f"arn:aws:ec2:{call.region}:{ACCOUNT}:"
    if call.action == "OpenTunnel":
        port = {"ec2-instance-connect:remotePort": [call.parameters.get("remotePort", "22")]}
        yield Need(call.name, f"{arn}instance-connect-endpoint/*", port)
    else:
        yield Need(call.name, f"{arn}instance/{name}")


def _any(call: Call) -> Iterator[Need]:
    prefix = {"service-quotas": "servicequotas"}.get(call.service, call.service)
    yield Need(f"{prefix}:{call.action}", "*")
