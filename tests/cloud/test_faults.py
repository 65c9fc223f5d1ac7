"""What goes wrong on purpose, and that it goes wrong as it does at AWS."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError

from tests.cloud.cloud import Cloud
from tests.cloud.conftest import Account, code
from tests.conftest import eventually


@pytest.fixture(autouse=True)
def no_machines(cloud: Cloud) -> None:
    cloud.boots = False


def test_a_lost_reply_leaves_the_effect_and_the_token_finds_it(account: Account) -> None:
    cloud = account.cloud
    account.template()
    cloud.lose_reply_at(2)
    with pytest.raises(ConnectionClosedError):
        account.fleet(ClientToken="token")
    assert [(p.when, p.call) for p in cloud.points] == [
        ("before", "ec2:CreateFleet"),
        ("after", "ec2:CreateFleet"),
    ]
    (instance,) = cloud.living()
    cloud.lose_reply_at()
    (made,) = account.fleet(ClientToken="token")["Instances"]
    assert made["InstanceIds"] == [instance.id]
    assert [c.outcome for c in cloud.named("ec2:CreateFleet")] == ["lost", "200"]


def test_a_request_lost_on_the_way_has_no_effect(account: Account) -> None:
    account.template()
    account.cloud.lose_reply_at(1)
    with pytest.raises(ConnectionClosedError):
        account.fleet()
    assert account.cloud.living() == []


ASK = """
import boto3, sys
ec2 = boto3.client("ec2")
ec2.describe_instances()
for name in ("one", "two"):
    ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData={"KeyName": "key"})
    print(name, flush=True)
"""


@pytest.mark.parametrize(
    ("point", "made", "said"),
    [
        (1, [], ""),
        (2, ["one"], ""),
        (3, ["one"], "one\n"),
        (4, ["one", "two"], "one\n"),
        (5, ["one", "two"], "one\ntwo\n"),
    ],
)
def test_the_caller_dies_at_the_numbered_point(cloud: Cloud, point: int, made: list[str], said: str) -> None:
    cloud.kill_at(point)
    done = subprocess.run(
        [sys.executable, "-c", ASK], env=cloud.environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0 if point == 5 else -9, said), done.stderr
    left = cloud.client("ec2").describe_launch_templates()["LaunchTemplates"]
    assert [t["LaunchTemplateName"] for t in left] == made
    assert len(cloud.points) == min(point, 4)


def test_what_was_launched_is_not_seen_for_a_while(account: Account) -> None:
    cloud = account.cloud
    account.template()
    cloud.visibility_delay = 60
    (made,) = account.fleet()["Instances"]
    ids = made["InstanceIds"]
    cloud.clock.advance(50)
    owned = [{"Name": "tag:ec2emo:owner", "Values": ["me"]}]
    assert account.ec2.describe_instances(Filters=owned)["Reservations"] == []
    assert account.ec2.describe_volumes(Filters=owned)["Volumes"] == []
    assert account.ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": ids}])["Tags"] == []
    for ask in (account.ec2.describe_instances, account.ec2.terminate_instances):
        with pytest.raises(ClientError) as refused:
            ask(InstanceIds=ids)
        assert code(refused) == "InvalidInstanceID.NotFound"
    assert [left.kind for left in cloud.leftovers()] == [
        "instance",
        "volume",
        "interface",
        "template",
        "group",
        "key",
    ]
    cloud.clock.advance(11)
    assert len(account.ec2.describe_instances(Filters=owned)["Reservations"]) == 1
    assert len(account.ec2.describe_volumes(Filters=owned)["Volumes"]) == 1


def test_other_things_may_be_slow_to_show_too(account: Account) -> None:
    cloud = account.cloud
    cloud.visibility.delay["template"] = 5
    account.template("late")
    assert account.ec2.describe_launch_templates()["LaunchTemplates"] == []
    with pytest.raises(ClientError):
        account.ec2.describe_launch_templates(LaunchTemplateNames=["late"])
    with pytest.raises(ClientError) as refused:
        account.template("late")
    assert code(refused) == "InvalidLaunchTemplateName.AlreadyExistsException"
    cloud.clock.advance(5)
    assert len(account.ec2.describe_launch_templates(LaunchTemplateNames=["late"])["LaunchTemplates"]) == 1


def test_a_terminated_instance_is_forgotten_after_an_hour(account: Account) -> None:
    account.template()
    (made,) = account.fleet()["Instances"]
    instance = account.running(made["InstanceIds"][0])
    account.ec2.terminate_instances(InstanceIds=[instance.id])
    eventually(lambda: instance.state == "terminated")
    assert account.described(instance)["State"]["Name"] == "terminated"
    account.cloud.clock.advance(3700)
    assert account.ec2.describe_instances()["Reservations"] == []


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("InsufficientInstanceCapacity", 500),
        ("RequestLimitExceeded", 503),
        ("InternalError", 500),
        ("Unavailable", 503),
        ("AuthFailure", 401),
        ("OptInRequired", 403),
        ("PendingVerification", 400),
        ("VcpuLimitExceeded", 400),
    ],
)
def test_a_call_can_end_with_any_error_so_many_times(cloud: Cloud, name: str, status: int) -> None:
    cloud.fail("ec2:CreateKeyPair", name, times=2)
    ec2 = cloud.client("ec2")
    for _ in range(2):
        with pytest.raises(ClientError) as refused:
            ec2.create_key_pair(KeyName="key")
        assert code(refused) == name
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    ec2.create_key_pair(KeyName="key")


def test_an_error_may_come_after_the_effect(account: Account) -> None:
    account.template()
    account.cloud.fail("ec2:CreateFleet", "InternalError", effect=True)
    with pytest.raises(ClientError) as refused:
        account.fleet(ClientToken="token")
    assert code(refused) == "InternalError"
    (instance,) = account.cloud.living()
    assert account.fleet(ClientToken="token")["Instances"][0]["InstanceIds"] == [instance.id]


def test_throttling_lasts_on_the_clouds_clock(cloud: Cloud) -> None:
    ec2 = cloud.client("ec2")
    cloud.throttle("ec2:Describe*", 30)
    for _ in range(2):
        with pytest.raises(ClientError) as refused:
            ec2.describe_instances()
        assert code(refused) == "RequestLimitExceeded"
        cloud.clock.advance(14)
    cloud.clock.advance(3)
    ec2.describe_instances()


def test_a_bucket_of_calls_refills(cloud: Cloud) -> None:
    ec2 = cloud.client("ec2")
    cloud.limit("ec2:DescribeKeyPairs", capacity=2, refill=0.1)
    ec2.describe_key_pairs()
    ec2.describe_key_pairs()
    with pytest.raises(ClientError) as refused:
        ec2.describe_key_pairs()
    assert code(refused) == "RequestLimitExceeded"
    cloud.clock.advance(10)
    ec2.describe_key_pairs()


def test_a_denial_is_in_the_words_of_its_service_and_decodes(cloud: Cloud) -> None:
    cloud.deny("ec2:Create*", "ssm:*", "s3:ListBuckets", "cloudformation:DescribeStacks")
    for service, ask, expected in (
        ("ec2", "create_default_vpc", "UnauthorizedOperation"),
        ("ssm", "describe_parameters", "AccessDeniedException"),
        ("s3", "list_buckets", "AccessDenied"),
        ("cloudformation", "describe_stacks", "AccessDenied"),
    ):
        with pytest.raises(ClientError) as refused:
            getattr(cloud.client(service), ask)()
        assert code(refused) == expected
        if service == "ec2":
            encoded = str(refused.value).rpartition("message: ")[2]
    decoded = cloud.client("sts").decode_authorization_message(EncodedMessage=encoded)["DecodedMessage"]
    assert '"action": "ec2:CreateDefaultVpc"' in decoded


def test_time_flies_and_jumps(cloud: Cloud) -> None:
    happened = []
    clock = cloud.clock
    start = clock.now()
    for seconds in (30, 10, 20):
        clock.after(seconds, lambda s=seconds: happened.append((s, round(clock.now() - start))))  # type: ignore[misc]
    clock.after(15, lambda: happened.append((0, 0))).cancel()
    clock.advance(25)
    assert happened == [(10, 10), (20, 20)]
    began = time.monotonic()
    clock.speed = 1000
    eventually(lambda: len(happened) == 3, 5)
    assert time.monotonic() - began < 1
    clock.speed = 1
    now = cloud.client("sts").get_caller_identity()["ResponseMetadata"]["HTTPHeaders"]["date"]
    assert now, "answers carry the cloud's date"
