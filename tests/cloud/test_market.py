"""What AWS publishes: prices, quotas, images, parameters; and what it bills."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from botocore.exceptions import ClientError

from tests.cloud.cloud import Cloud
from tests.cloud.conftest import IMAGE, Account, code

LINUX = {
    "instanceType": "g5.xlarge",
    "regionCode": "us-west-2",
    "operatingSystem": "Linux",
    "tenancy": "Shared",
    "preInstalledSw": "NA",
    "capacitystatus": "Used",
}


@pytest.fixture(autouse=True)
def no_machines(cloud: Cloud) -> None:
    cloud.boots = False


def products(cloud: Cloud, wanted: dict[str, str]) -> list[dict[str, object]]:
    filters = [{"Type": "TERM_MATCH", "Field": k, "Value": v} for k, v in wanted.items()]
    pages = cloud.client("pricing").get_paginator("get_products")
    found = pages.paginate(ServiceCode="AmazonEC2", Filters=filters, MaxResults=2)
    return [json.loads(text) for page in found for text in page["PriceList"]]


def test_the_price_list_has_one_product_for_what_people_mean_and_others_beside_it(cloud: Cloud) -> None:
    (product,) = products(cloud, LINUX)
    terms = product["terms"]["OnDemand"].values()  # type: ignore[index]
    (price,) = [d["pricePerUnit"]["USD"] for t in terms for d in t["priceDimensions"].values()]
    assert price == "1.0060000000"
    assert len(products(cloud, {"instanceType": "g5.xlarge", "regionCode": "us-west-2"})) == 5
    cloud.market.prices["g5.xlarge"] = 2.0
    assert '"2.0000000000"' in json.dumps(products(cloud, LINUX))
    with pytest.raises(ClientError):
        cloud.client("pricing", "us-west-2").get_products(ServiceCode="AmazonEC2")


def test_spot_prices_differ_by_zone_and_have_a_history(cloud: Cloud) -> None:
    ec2 = cloud.client("ec2")
    cloud.market.spot_prices["g4dn.xlarge", "us-east-1b"] = 0.199
    now = cloud.clock.date()
    asked = {"InstanceTypes": ["g4dn.xlarge"], "ProductDescriptions": ["Linux/UNIX"]}
    current = ec2.describe_spot_price_history(StartTime=now, EndTime=now, **asked)["SpotPriceHistory"]
    prices = {p["AvailabilityZone"]: p["SpotPrice"] for p in current}
    assert prices["us-east-1b"] == "0.199000"
    assert len(prices) == len(current) > 2, "one price of each zone: the one that holds"
    longer = ec2.describe_spot_price_history(StartTime=now - timedelta(days=2), **asked)["SpotPriceHistory"]
    assert len(longer) == 3 * len(current)
    assert longer == sorted(longer, key=lambda p: p["Timestamp"], reverse=True)
    assert ec2.describe_spot_price_history(ProductDescriptions=["Windows"])["SpotPriceHistory"] == []


def test_a_quota_that_was_never_applied_has_only_a_default(cloud: Cloud) -> None:
    quotas = cloud.client("service-quotas")
    asked = {"ServiceCode": "ec2", "QuotaCode": "L-DB2E81BA"}
    assert quotas.get_service_quota(**asked)["Quota"]["Value"] == 64
    del cloud.quotas["L-DB2E81BA"]
    with pytest.raises(ClientError) as refused:
        quotas.get_service_quota(**asked)
    assert code(refused) == "NoSuchResourceException"
    assert quotas.get_aws_default_service_quota(**asked)["Quota"]["Value"] == 0
    listed = quotas.list_service_quotas(ServiceCode="ec2")["Quotas"]
    assert {q["QuotaCode"] for q in listed} == set(cloud.quotas)


def test_images_are_found_by_parameter_and_by_name(cloud: Cloud) -> None:
    ssm, ec2 = cloud.client("ssm", "us-west-2"), cloud.client("ec2", "us-west-2")
    name = IMAGE.removeprefix("resolve:ssm:")
    found = ssm.get_parameter(Name=name)["Parameter"]["Value"]
    told = ssm.get_parameters(Names=[name, "/aws/service/deeplearning/no"])
    assert [p["Value"] for p in told["Parameters"]] == [found]
    assert told["InvalidParameters"] == ["/aws/service/deeplearning/no"]
    path = "/aws/service/deeplearning/ami/x86_64"
    assert ssm.get_parameters_by_path(Path=path)["Parameters"] == []
    assert name in [p["Name"] for p in ssm.get_parameters_by_path(Path=path, Recursive=True)["Parameters"]]
    by_name = [{"Name": "name", "Values": ["Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 22.04) *"]}]
    images = ec2.describe_images(Owners=["amazon"], Filters=by_name)["Images"]
    assert [i["ImageId"] for i in images] == [found], "deprecated ones are not told of"
    assert (
        len(ec2.describe_images(Owners=["898082745236"], Filters=by_name, IncludeDeprecated=True)["Images"])
        == 2
    )
    (image,) = ec2.describe_images(ImageIds=[found])["Images"]
    assert image["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] == 75
    cloud.amis.parameters.clear()
    with pytest.raises(ClientError) as refused:
        ssm.get_parameter(Name=name)
    assert code(refused) == "ParameterNotFound"
    assert ssm.get_parameter(Name="/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64")


def test_the_bill_is_seconds_times_price_with_a_minute_at_least(account: Account) -> None:
    cloud = account.cloud
    account.template()
    cloud.market.spot_prices["g4dn.xlarge", "us-east-1a"] = 0.2
    (made,) = account.fleet(market="spot")["Instances"]
    instance = account.running(made["InstanceIds"][0])
    machine, disk = cloud.bill().lines
    assert (machine.seconds, machine.hourly) == (60, 0.2)
    cloud.clock.advance(3600)
    account.ec2.terminate_instances(InstanceIds=[instance.id])
    cloud.clock.advance(3600)
    machine, disk = cloud.bill().lines
    assert machine.dollars == pytest.approx(0.2, rel=0.01)
    assert disk.dollars == pytest.approx(100 * 0.08 / 730, rel=0.01)
    assert cloud.bill().dollars == machine.dollars + disk.dollars


def test_a_stopped_instance_pays_for_its_disk_alone(account: Account) -> None:
    cloud = account.cloud
    account.template()
    (made,) = account.fleet()["Instances"]
    instance = account.running(made["InstanceIds"][0])
    account.ec2.stop_instances(InstanceIds=[instance.id])
    cloud.clock.advance(7 * 24 * 3600)
    assert instance.state == "stopped"
    machine, disk = cloud.bill().lines
    assert machine.seconds == 60
    assert disk.seconds == pytest.approx(7 * 24 * 3600, abs=60)
    assert [left.kind for left in cloud.leftovers("me")][:2] == ["instance", "volume"]
    assert "instance" not in [left.kind for left in cloud.leftovers("somebody else")]
