"""Fleets and single launches: pools, tokens, prices, quotas, and all the ways in which EC2 says no."""

from __future__ import annotations

import base64
import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.cloud.cloud import Cloud
from tests.cloud.conftest import DISK, METADATA, Account, code
from tests.conftest import eventually

A, B, C = (("g4dn.xlarge", f"us-east-1{zone}") for zone in "abc")
G5 = ("g5.xlarge", "us-east-1a")
SMALL = [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 8}}]
# The codes of launches that the tools before ec2emo have met.
CODES = """
    InsufficientInstanceCapacity InsufficientCapacity InsufficientHostCapacity
    InsufficientReservedInstanceCapacity UnfulfillableCapacity Unsupported InvalidFleetConfiguration
    MaxSpotInstanceCountExceeded VcpuLimitExceeded InstanceLimitExceeded SpotMaxPriceTooLow
    RequestLimitExceeded EC2ThrottledException InternalError Unavailable ServiceUnavailable
    IdempotentParameterMismatch UnauthorizedOperation AuthFailure OptInRequired Blocked PendingVerification
    ExpiredToken RequestExpired InsufficientFreeAddressesInSubnet VolumeLimitExceeded MaxIOPSLimitExceeded
""".split()  # noqa: SIM905 - a list of 27 lines is no easier to read


@pytest.fixture(autouse=True)
def no_machines(cloud: Cloud) -> None:
    cloud.boots = False


def launched(answer: dict[str, Any]) -> list[tuple[str, str]]:
    overrides = [i["LaunchTemplateAndOverrides"]["Overrides"] for i in answer["Instances"]]
    return [(o["InstanceType"], o["AvailabilityZone"]) for o in overrides]


def errors(answer: dict[str, Any]) -> list[str]:
    return [e["ErrorCode"] for e in answer["Errors"]]


def test_a_fleet_launches_what_template_and_override_say_together(account: Account) -> None:
    cloud = account.cloud
    account.template(
        TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "from", "Value": "template"}]}]
    )
    answer = account.fleet(A, market="spot")
    assert launched(answer) == [A]
    (made,) = answer["Instances"]
    assert made["Lifecycle"] == "spot"
    instance = account.running(made["InstanceIds"][0])
    told = account.described(instance)
    assert told["InstanceLifecycle"] == "spot"
    assert told["SpotInstanceRequestId"].startswith("sir-")
    assert {k: told["MetadataOptions"][k] for k in METADATA} == METADATA
    assert told["SecurityGroups"] == [{"GroupId": account.group, "GroupName": "group"}]
    assert {t["Key"]: t["Value"] for t in told["Tags"]} == {"from": "template", "ec2emo:owner": "me"}
    assert told["ImageId"] == cloud.amis.images[0].id("us-east-1")
    assert told["PublicIpAddress"].startswith("127.")
    attribute = account.ec2.describe_instance_attribute(
        InstanceId=instance.id, Attribute="instanceInitiatedShutdownBehavior"
    )
    assert attribute["InstanceInitiatedShutdownBehavior"]["Value"] == "terminate"
    (volume,) = account.ec2.describe_volumes()["Volumes"]
    (interface,) = account.ec2.describe_network_interfaces()["NetworkInterfaces"]
    assert (volume["Size"], volume["Encrypted"]) == (DISK["VolumeSize"], True)
    for tags in (volume["Tags"], interface["TagSet"]):
        assert {t["Key"]: t["Value"] for t in tags}["ec2emo:owner"] == "me"


def test_a_fleet_takes_the_first_pool_with_room_and_tells_of_those_before(account: Account) -> None:
    account.template()
    cloud = account.cloud
    cloud.capacity["g4dn.xlarge", "*", "spot"] = 0
    answer = account.fleet(A, B, G5, market="spot")
    assert (launched(answer), errors(answer)) == ([G5], ["InsufficientInstanceCapacity"] * 2)
    assert launched(account.fleet(A)) == [A], "on demand there is room"


def test_a_pool_has_room_again_when_its_instance_has_ended(account: Account) -> None:
    account.template()
    account.cloud.capacity["*", "us-east-1a", "on-demand"] = 1
    (made,) = account.fleet(A)["Instances"]
    assert errors(account.fleet(A)) == ["InsufficientInstanceCapacity"]
    account.ec2.terminate_instances(InstanceIds=made["InstanceIds"])
    assert launched(account.fleet(A)) == [A]


def test_spot_goes_by_price_and_on_demand_by_priority_where_that_is_asked(account: Account) -> None:
    account.template()
    account.cloud.market.spot_prices["g5.xlarge", "*"] = 0.05
    assert launched(account.fleet(A, G5, market="spot")) == [G5]
    assert launched(account.fleet(G5, A)) == [A], "the lowest price is the default"
    request = account.fleet_request(G5, A, OnDemandOptions={"AllocationStrategy": "prioritized"})
    for number, override in enumerate(request["LaunchTemplateConfigs"][0]["Overrides"]):
        override["Priority"] = float(number)
    assert launched(account.ec2.create_fleet(**request)) == [G5]


@pytest.mark.parametrize(("market", "quota"), [("on-demand", "L-DB2E81BA"), ("spot", "L-3819A6DF")])
def test_a_quota_counts_virtual_cpus_of_its_own_market(account: Account, market: str, quota: str) -> None:
    account.template()
    cloud = account.cloud
    expected = {"on-demand": "VcpuLimitExceeded", "spot": "MaxSpotInstanceCountExceeded"}[market]
    cloud.quotas[quota] = 7
    assert launched(account.fleet(A, market=market)) == [A]
    assert errors(account.fleet(A, market=market)) == [expected]
    other = {"spot": "on-demand", "on-demand": "spot"}[market]
    assert launched(account.fleet(A, market=other)) == [A]
    del cloud.quotas[quota]
    assert errors(account.fleet(A, market=market)) == [expected], "new accounts have none"


def test_an_ended_instance_may_count_against_its_quota_for_a_while(account: Account) -> None:
    account.template()
    cloud = account.cloud
    cloud.quotas["L-DB2E81BA"] = 4
    cloud.instances.delays.quota = 120
    (made,) = account.fleet(A)["Instances"]
    account.ec2.terminate_instances(InstanceIds=made["InstanceIds"])
    assert errors(account.fleet(A)) == ["VcpuLimitExceeded"]
    cloud.clock.advance(121)
    assert launched(account.fleet(A)) == [A]


def test_a_cap_below_the_market_is_told_as_such(account: Account) -> None:
    account.template()
    account.cloud.market.spot_prices["g4dn.xlarge", "us-east-1a"] = 0.3
    assert errors(account.fleet(A, market="spot", SpotOptions={"MaxTotalPrice": "0.29"})) == [
        "SpotMaxPriceTooLow"
    ]
    assert launched(account.fleet(A, market="spot", SpotOptions={"MaxTotalPrice": "0.3"})) == [A]


def test_a_type_that_is_not_offered_in_a_zone_is_an_error_of_its_own(account: Account) -> None:
    account.template()
    everywhere = {z["ZoneName"] for z in account.ec2.describe_availability_zones()["AvailabilityZones"]}
    nowhere = sorted(everywhere - account.cloud.zones("us-east-1", "g5.xlarge"))[0]
    answer = account.fleet(("g5.xlarge", nowhere))
    assert "is not supported in your requested Availability Zone" in answer["Errors"][0]["ErrorMessage"]
    assert errors(answer) == ["Unsupported"]


def test_two_markets_in_one_request_are_refused(account: Account) -> None:
    account.template(InstanceMarketOptions={"MarketType": "spot"})
    with pytest.raises(ClientError) as refused:
        account.fleet(A)
    assert code(refused) == "InvalidFleetConfiguration"


def test_a_fleet_answers_200_with_any_mixture_of_errors(account: Account) -> None:
    account.template()
    for codes in [CODES[:1], *map(list, itertools.pairwise(CODES))]:
        account.cloud.answer_fleet(codes)
        answer = account.fleet(A, B, C, market="spot")
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200
        assert answer["Instances"] == []
        assert set(errors(answer)) == set(codes)
    assert account.cloud.living() == []


def test_an_instant_fleet_is_told_of_only_by_its_id_and_takes_its_instances_along(account: Account) -> None:
    account.template()
    answer = account.fleet(A, ClientToken="token")
    assert account.ec2.describe_fleets()["Fleets"] == []
    (fleet,) = account.ec2.describe_fleets(FleetIds=[answer["FleetId"]])["Fleets"]
    assert (fleet["Type"], fleet["ClientToken"]) == ("instant", "token")
    (made,) = answer["Instances"]
    account.ec2.delete_fleets(FleetIds=[answer["FleetId"]], TerminateInstances=True)
    assert account.cloud.instances.all[made["InstanceIds"][0]].ended


# --- tokens -------------------------------------------------------------------------------------------------


def test_the_same_token_makes_one_instance_however_often_and_at_once(account: Account) -> None:
    account.template()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: account.fleet(A, ClientToken="token"), range(8)))
    assert len({a["Instances"][0]["InstanceIds"][0] for a in answers}) == 1
    assert len(account.cloud.living()) == 1


def test_the_same_token_for_another_request_is_a_mismatch(account: Account) -> None:
    account.template()
    account.fleet(A, ClientToken="token")
    with pytest.raises(ClientError) as refused:
        account.fleet(B, ClientToken="token")
    assert code(refused) == "IdempotentParameterMismatch"
    west = account.cloud.client("ec2", "us-west-2")
    with pytest.raises(ClientError) as refused:
        west.create_fleet(**account.fleet_request(B, ClientToken="token"))
    assert code(refused) != "IdempotentParameterMismatch", "a token is of one region"


def test_a_token_of_a_failed_launch_stays_bound_to_what_was_asked(account: Account) -> None:
    cloud = account.cloud
    cloud.capacity["*", "*", "*"] = 0
    image = cloud.amis.images[0].id("us-east-1")
    asked = {
        "ImageId": image,
        "InstanceType": "g4dn.xlarge",
        "MinCount": 1,
        "MaxCount": 1,
        "ClientToken": "t",
    }
    with pytest.raises(ClientError) as refused:
        account.ec2.run_instances(**asked)
    assert code(refused) == "InsufficientInstanceCapacity"
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500
    with pytest.raises(ClientError) as refused:
        account.ec2.run_instances(**{**asked, "InstanceType": "g5.xlarge"})
    assert code(refused) == "IdempotentParameterMismatch"
    del cloud.capacity["*", "*", "*"]
    (first,) = account.ec2.run_instances(**asked)["Instances"]
    (again,) = account.ec2.run_instances(**asked)["Instances"]
    assert first["InstanceId"] == again["InstanceId"]
    account.ec2.terminate_instances(InstanceIds=[first["InstanceId"]])
    with pytest.raises(ClientError) as refused:
        account.ec2.run_instances(**asked)
    assert code(refused) == "IdempotentInstanceTerminated"


def test_a_template_with_the_same_token_is_made_once(account: Account) -> None:
    asked = {"LaunchTemplateName": "named", "LaunchTemplateData": {"KeyName": "key"}, "ClientToken": "t"}
    first = account.ec2.create_launch_template(**asked)["LaunchTemplate"]["LaunchTemplateId"]
    assert account.ec2.create_launch_template(**asked)["LaunchTemplate"]["LaunchTemplateId"] == first
    with pytest.raises(ClientError) as refused:
        account.ec2.create_launch_template(**{**asked, "ClientToken": "u"})
    assert code(refused) == "InvalidLaunchTemplateName.AlreadyExistsException"


def test_an_instance_is_found_by_token_and_by_tag(account: Account) -> None:
    account.template()
    (made,) = account.fleet(A, ClientToken="token")["Instances"]
    for name, value in (("client-token", "token"), ("tag:ec2emo:owner", "m*"), ("tag-key", "ec2emo:owner")):
        (found,) = account.ec2.describe_instances(Filters=[{"Name": name, "Values": [value]}])["Reservations"]
        assert [i["InstanceId"] for i in found["Instances"]] == made["InstanceIds"]
    with pytest.raises(ClientError):
        account.ec2.describe_instances(Filters=[{"Name": "no-such-filter", "Values": ["x"]}])


# --- one by one ---------------------------------------------------------------------------------------------


def test_a_single_launch_answers_before_there_is_an_address(account: Account) -> None:
    image = account.cloud.amis.images[0].id("us-east-1")
    answer = account.ec2.run_instances(
        ImageId=image,
        InstanceType="g4dn.xlarge",
        MinCount=1,
        MaxCount=2,
        UserData="#!/bin/sh\n",
        InstanceMarketOptions={"MarketType": "spot", "SpotOptions": {"MaxPrice": "1.0"}},
        NetworkInterfaces=[{"DeviceIndex": 0, "Groups": [account.group], "AssociatePublicIpAddress": False}],
    )
    assert len(answer["Instances"]) == 2
    for told in answer["Instances"]:
        assert (told["State"]["Name"], "PublicIpAddress" in told) == ("pending", False)
        instance = account.running(told["InstanceId"])
        assert "PublicIpAddress" not in account.described(instance)
        assert account.described(instance)["SecurityGroups"][0]["GroupId"] == account.group
    told = account.ec2.describe_instance_attribute(InstanceId=instance.id, Attribute="userData")
    assert base64.b64decode(told["UserData"]["Value"]) == b"#!/bin/sh\n"


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"ImageId": "ami-0123456789abcdef0"}, "InvalidAMIID.NotFound"),
        ({"ImageId": "resolve:ssm:/no/such"}, "InvalidParameterValue"),
        ({"KeyName": "no-such-key"}, "InvalidKeyPair.NotFound"),
        ({"InstanceType": "g99.huge"}, "InvalidParameterValue"),
        ({"UserData": "x" * 16385}, "InvalidParameterValue"),
        ({"ClientToken": "x" * 65}, "InvalidParameterValue"),
        (
            {"TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "aws:x", "Value": ""}]}]},
            "InvalidParameterValue",
        ),
        ({"SubnetId": "subnet-0123456789abcdef0"}, "InvalidSubnetID.NotFound"),
        ({"SecurityGroupIds": ["sg-0123456789abcdef0"]}, "InvalidGroup.NotFound"),
        ({"BlockDeviceMappings": SMALL}, "InvalidBlockDeviceMapping"),
        ({"IamInstanceProfile": {"Name": "nobody"}}, "InvalidParameterValue"),
    ],
)
def test_what_does_not_exist_is_refused_and_nothing_is_made(
    account: Account, changed: dict[str, Any], expected: str
) -> None:
    image = account.cloud.amis.images[0].id("us-east-1")
    asked = {"ImageId": image, "InstanceType": "g4dn.xlarge", "MinCount": 1, "MaxCount": 1}
    with pytest.raises(ClientError) as refused:
        account.ec2.run_instances(**{**asked, **changed})
    assert code(refused) == expected
    assert account.cloud.living() == []
    assert {left.kind for left in account.cloud.leftovers()} == {"group", "key"}


def test_a_dry_run_tells_whether_one_may_and_does_nothing(account: Account) -> None:
    account.template()
    with pytest.raises(ClientError) as answered:
        account.fleet(A, DryRun=True)
    assert code(answered) == "DryRunOperation"
    account.cloud.deny("ec2:CreateFleet")
    with pytest.raises(ClientError) as answered:
        account.fleet(A, DryRun=True)
    assert code(answered) == "UnauthorizedOperation"
    assert account.cloud.living() == []


def test_transitions_that_cannot_be_are_refused(account: Account) -> None:
    account.template()
    (made,) = account.fleet(A, market="spot")["Instances"]
    ids = made["InstanceIds"]
    instance = account.running(ids[0])
    with pytest.raises(ClientError) as refused:
        account.ec2.stop_instances(InstanceIds=ids)
    assert code(refused) == "UnsupportedOperation"
    account.ec2.terminate_instances(InstanceIds=ids)
    eventually(lambda: instance.state == "terminated")
    with pytest.raises(ClientError) as refused:
        account.ec2.start_instances(InstanceIds=ids)
    assert code(refused) == "IncorrectInstanceState"
    (again,) = account.ec2.terminate_instances(InstanceIds=ids)["TerminatingInstances"]
    assert again["CurrentState"]["Name"] == "terminated", "ending what has ended is no error"


def test_a_protected_instance_is_not_terminated(account: Account) -> None:
    account.template()
    (made,) = account.fleet(A)["Instances"]
    ids = made["InstanceIds"]
    account.ec2.modify_instance_attribute(InstanceId=ids[0], DisableApiTermination={"Value": True})
    with pytest.raises(ClientError) as refused:
        account.ec2.terminate_instances(InstanceIds=ids)
    assert code(refused) == "OperationNotPermitted"
    assert len(account.cloud.living()) == 1


def test_a_group_goes_only_when_nothing_holds_it(account: Account) -> None:
    account.template()
    (made,) = account.fleet(A)["Instances"]
    instance = account.running(made["InstanceIds"][0])
    with pytest.raises(ClientError) as refused:
        account.ec2.delete_security_group(GroupId=account.group)
    assert code(refused) == "DependencyViolation"
    account.ec2.terminate_instances(InstanceIds=[instance.id])
    eventually(lambda: instance.state == "terminated")
    account.ec2.delete_security_group(GroupId=account.group)


def test_lists_come_in_pages(account: Account) -> None:
    account.template()
    for zone in "abc":
        account.fleet(("g4dn.xlarge", f"us-east-1{zone}"))
    first = account.ec2.describe_instances(MaxResults=5)
    assert len(first["Reservations"]) == 3
    pages = list(
        account.ec2.get_paginator("describe_instance_status").paginate(IncludeAllInstances=True, MaxResults=2)
    )
    assert [len(p["InstanceStatuses"]) for p in pages] == [2, 1]
