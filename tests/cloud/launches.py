"""RunInstances: what a request and its launch template say together, checked and carried out."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from tests.cloud.market import ON_DEMAND, SPOT, Pool
from tests.cloud.wire import Call, Refusal, refusal

if TYPE_CHECKING:
    from tests.cloud.amis import Ami
    from tests.cloud.cloud import Cloud
    from tests.cloud.instances import Instance

# What moto takes as it is; the rest the cloud keeps itself.
MOTO_TAKES = {
    "BlockDeviceMappings",
    "DisableApiTermination",
    "EbsOptimized",
    "IamInstanceProfile",
    "ImageId",
    "InstanceInitiatedShutdownBehavior",
    "InstanceType",
    "KeyName",
    "MetadataOptions",
    "Monitoring",
    "SecurityGroupIds",
    "SecurityGroups",
}
BY_EC2 = ("Server.InternalError", "Server.InternalError: Internal error on launch")
TAGGED = ("instance", "volume", "network-interface", "spot-instances-request")


@dataclass
class Launch:
    """One instance as it was wished for, once nothing is left open."""

    request: dict[str, Any]
    token: str
    image: str
    user: str
    public_keys: list[str]
    profile: str
    public: bool = True
    reservation: str = ""
    metadata_options: dict[str, Any] = field(default_factory=dict)


class Launches:
    """Starts instances, for RunInstances and for fleets."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud

    def answers(self) -> dict[str, Callable[[Call], dict[str, Any]]]:
        return {"ec2:RunInstances": self.run}

    def run(self, call: Call) -> dict[str, Any]:
        request = self.whole(call, call.parameters)
        least, most = request.get("MinCount", 1), request.get("MaxCount", 1)
        options = request.get("InstanceMarketOptions", {})
        market = SPOT if options.get("MarketType") == "spot" else ON_DEMAND
        cap = options.get("SpotOptions", {}).get("MaxPrice")
        begun: list[Instance] = []
        for number in range(most):
            try:
                begun.append(self.start(call, request, market, float(cap) if cap else None))
            except Refusal:
                if number >= least:
                    break
                for instance in begun:
                    self.cloud.instances.end(instance, BY_EC2, "")
                raise
        for instance in begun:
            instance.launch.reservation = begun[0].launch.reservation
        (reservation,) = self.cloud.descriptions.reservations(call.region, begun)
        for instance in reservation["Instances"]:  # the answer comes before there is an address
            instance.pop("PublicIpAddress", None)
            instance |= {"State": {"Name": "pending", "Code": 0}, "PublicDnsName": ""}
        return reservation

    def whole(self, call: Call, parameters: dict[str, Any]) -> dict[str, Any]:
        """The request over its launch template, with the image found and the first interface spelled out."""
        request = dict(parameters)
        if "LaunchTemplate" in request:
            data = self.cloud.templates.data(call, request.pop("LaunchTemplate"))
            tags = _merged(data.get("TagSpecifications", []), request.get("TagSpecifications", []))
            request = data | request
            if tags:
                request["TagSpecifications"] = tags
        for interface in request.pop("NetworkInterfaces", [])[:1]:
            request["SecurityGroupIds"] = interface.get("Groups", [])
            request["_public"] = interface.get("AssociatePublicIpAddress", True)
            if "SubnetId" in interface:
                request["SubnetId"] = interface["SubnetId"]
        if "ImageId" not in request:
            raise Refusal("MissingParameter", "The request must contain the parameter ImageId")
        request["ImageId"] = self.cloud.amis.resolve(call, request["ImageId"])
        return request

    def start(self, call: Call, request: dict[str, Any], market: str, cap: float | None) -> Instance:
        """One instance, or the Refusal that EC2 would answer."""
        kind = request.get("InstanceType", "m1.small")
        offered = self.cloud.zones(call.region, kind)
        subnet, zone = self._subnet(call, request, Pool(kind, "", market), offered)
        if zone not in offered:
            raise Refusal(
                "Unsupported",
                f"Your requested instance type ({kind}) is not supported in your requested Availability Zone "
                f"({zone}). Please retry your request by not specifying an Availability Zone or choosing "
                f"{', '.join(sorted(offered))}.",
            )
        ami = self.cloud.amis.known(call, request["ImageId"])
        _check_disk(request, ami)
        profile = request.get("IamInstanceProfile", {})
        launch = Launch(
            request,
            request.get("ClientToken", ""),
            request["ImageId"],
            ami.user,
            self._keys(call, request),
            profile.get("Name") or profile.get("Arn", "").rpartition("/")[2],
            public=request.get("_public", True),
            metadata_options=request.get("MetadataOptions", {}),
        )
        pool = Pool(kind, zone, market)
        self.cloud.market.check(pool, call.region, cap)
        return self.cloud.instances.begin(self._made(call, launch, subnet), call.region, pool, launch)

    def _made(self, call: Call, launch: Launch, subnet: str) -> str:
        """The id of the instance in moto, with its disk and its interface."""
        moto = self.cloud.moto.client("ec2", call.region)
        request = launch.request
        tags = {s["ResourceType"]: s["Tags"] for s in request.get("TagSpecifications", [])}
        passed = {k: v for k, v in request.items() if k in MOTO_TAKES} | {
            "SubnetId": subnet,
            "UserData": base64.b64decode(request.get("UserData", "")),
            "TagSpecifications": [
                {"ResourceType": kind, "Tags": tags[kind]} for kind in ("instance", "volume") if kind in tags
            ],
        }
        try:
            made = moto.run_instances(MinCount=1, MaxCount=1, **passed)
        except ClientError as e:
            if e.response["Error"]["Code"] == "NoSuchEntity":
                said = f"Value ({launch.profile}) for parameter iamInstanceProfile.name is invalid."
                raise Refusal("InvalidParameterValue", said) from e
            raise refusal(e) from e
        launch.reservation = made["ReservationId"]
        (known,) = made["Instances"]
        name: str = known["InstanceId"]
        disks = [m["Ebs"]["VolumeId"] for m in known["BlockDeviceMappings"]]
        interfaces = [i["NetworkInterfaceId"] for i in known["NetworkInterfaces"]]
        self.cloud.visibility.made("instance", name, *disks, *interfaces)
        if "network-interface" in tags:
            moto.create_tags(Resources=interfaces, Tags=tags["network-interface"])
        if request.get("DisableApiTermination"):
            moto.modify_instance_attribute(InstanceId=name, DisableApiTermination={"Value": True})
        return name

    def _subnet(self, call: Call, request: dict[str, Any], pool: Pool, offered: set[str]) -> tuple[str, str]:
        """Where it goes: the subnet that is asked for, or EC2's choice of a default one."""
        moto = self.cloud.moto.client("ec2", call.region)
        if asked := request.get("SubnetId"):
            try:
                found = moto.describe_subnets(SubnetIds=[asked])["Subnets"]
            except ClientError as e:
                raise refusal(e) from e
            return asked, found[0]["AvailabilityZone"]
        default = [{"Name": "default-for-az", "Values": ["true"]}]
        found = moto.describe_subnets(Filters=default)["Subnets"]
        defaults = {s["AvailabilityZone"]: s["SubnetId"] for s in found}
        zone = request.get("Placement", {}).get("AvailabilityZone")
        if zone is None:
            room = self.cloud.market.capacity.of
            free = [z for z in sorted(offered) if room(Pool(pool.type, z, pool.market)) != 0]
            zone = (free or sorted(offered) or sorted(defaults))[0]
        if zone not in defaults:
            raise Refusal("InvalidParameterValue", f"Invalid availability zone: [{zone}]")
        return defaults[zone], zone

    def _keys(self, call: Call, request: dict[str, Any]) -> list[str]:
        name = request.get("KeyName")
        if not name:
            return []
        moto = self.cloud.moto.client("ec2", call.region)
        pairs = moto.describe_key_pairs(IncludePublicKey=True)["KeyPairs"]
        found = [p["PublicKey"] for p in pairs if p["KeyName"] == name]
        if not found:
            raise Refusal("InvalidKeyPair.NotFound", f"The key pair '{name}' does not exist")
        return found


def _merged(below: list[dict[str, Any]], above: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tags by resource type, those of the request over those of the template."""
    found: dict[str, dict[str, str]] = {}
    for spec in [*below, *above]:
        if spec["ResourceType"] in TAGGED:
            found.setdefault(spec["ResourceType"], {}).update({t["Key"]: t["Value"] for t in spec["Tags"]})
    return [
        {"ResourceType": kind, "Tags": [{"Key": k, "Value": v} for k, v in tags.items()]}
        for kind, tags in found.items()
    ]


def _check_disk(request: dict[str, Any], ami: Ami) -> None:
    for mapping in request.get("BlockDeviceMappings", []):
        size = mapping.get("Ebs", {}).get("VolumeSize")
        if mapping["DeviceName"] == ami.root and size is not None and size < ami.size:
            raise Refusal(
                "InvalidBlockDeviceMapping",
                f"Volume of size {size}GB is smaller than snapshot '{ami.snapshot}', expect size >= "
                f"{ami.size}GB",
            )
