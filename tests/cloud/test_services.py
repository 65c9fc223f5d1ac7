"""What there is beside EC2: policies, roles, schedules, stacks, S3. And that AWS might have answered so."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.cloud import wire
from tests.cloud.cloud import Cloud
from tests.cloud.conftest import OWNED, Account, code
from tests.cloud.policies import Need, allows
from tests.conftest import eventually

OURS = {"StringEquals": {"aws:ResourceTag/ec2emo:owner": "me"}}
TRUST = {
    "Statement": [
        {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
    ]
}
STACK = """
Resources:
  Bucket: {Type: "AWS::S3::Bucket"}
  Policy:
    Type: AWS::S3::BucketPolicy
    Properties: {Bucket: !Ref Bucket, PolicyDocument: {Statement: []}}
  Schedules: {Type: "AWS::Scheduler::ScheduleGroup", Properties: {Name: ours}}
Outputs:
  Bucket: {Value: !Ref Bucket}
  Group: {Value: !Ref Schedules}
"""


@pytest.fixture(autouse=True)
def no_machines(cloud: Cloud) -> None:
    cloud.boots = False


def allow(action: str | list[str], resource: str = "*", **more: Any) -> dict[str, Any]:
    return {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": action, "Resource": resource, **more}],
    }


# --- policies -----------------------------------------------------------------------------------------------


def test_only_what_a_policy_allows_may_be_done(account: Account) -> None:
    cloud = account.cloud
    account.template()
    (made,) = account.fleet()["Instances"]
    (foreign,) = account.fleet(TagSpecifications=[])["Instances"]
    cloud.enforce(allow("ec2:Describe*"), allow("ec2:TerminateInstances", Condition=OURS))
    account.ec2.describe_instances()
    account.ec2.terminate_instances(InstanceIds=made["InstanceIds"])
    with pytest.raises(ClientError) as refused:
        account.ec2.terminate_instances(InstanceIds=foreign["InstanceIds"])
    assert code(refused) == "UnauthorizedOperation"
    assert f"instance/{foreign['InstanceIds'][0]}" in str(refused.value)
    with pytest.raises(ClientError):
        cloud.client("s3").list_buckets()


def test_a_launch_needs_leave_to_run_to_tag_and_to_pass_the_role(account: Account) -> None:
    cloud = account.cloud
    iam = cloud.client("iam")
    iam.create_role(RoleName="machine", AssumeRolePolicyDocument=json.dumps(TRUST))
    iam.create_instance_profile(InstanceProfileName="profile")
    iam.add_role_to_instance_profile(InstanceProfileName="profile", RoleName="machine")
    account.template(IamInstanceProfile={"Name": "profile"})
    tagged = {"StringEquals": {"aws:RequestTag/ec2emo:owner": "me"}}
    creating = {"StringEquals": {"ec2:CreateAction": ["CreateFleet", "RunInstances"]}}
    secure = {"StringEquals": {"ec2:MetadataHttpTokens": "required", "aws:RequestTag/ec2emo:owner": "me"}}
    needed = [
        allow("ec2:CreateFleet", Condition=tagged),
        allow("ec2:RunInstances", "arn:aws:ec2:*:*:instance/*", Condition=secure),
        allow("ec2:RunInstances", "arn:aws:ec2:*:*:volume/*", Condition={"Bool": {"ec2:Encrypted": "true"}}),
        allow("ec2:RunInstances", "arn:aws:ec2:*:*:network-interface/*"),
        {"Statement": [{"Effect": "Allow", "Action": "ec2:RunInstances", "Resource": [
            "arn:aws:ec2:*::image/*", "arn:aws:ec2:*:*:subnet/*", "arn:aws:ec2:*:*:security-group/*",
            "arn:aws:ec2:*:*:key-pair/*", "arn:aws:ec2:*:*:launch-template/*"]}]},
        allow("ec2:CreateTags", Condition=creating),
        allow("iam:PassRole", "arn:aws:iam::*:role/machine"),
    ]  # fmt: skip
    cloud.enforce(*needed)
    assert len(account.fleet()["Instances"]) == 1
    for missing in range(len(needed)):
        cloud.enforce(*needed[:missing], *needed[missing + 1 :])
        with pytest.raises(ClientError) as refused:
            account.fleet()
        assert code(refused) == "UnauthorizedOperation"
    cloud.enforce(*needed, {"Statement": {"Effect": "Deny", "Action": "ec2:RunInstances", "Resource": "*"}})
    with pytest.raises(ClientError):
        account.fleet()
    assert len(cloud.living()) == 1


def test_an_instance_has_its_roles_rights_and_no_others(cloud: Cloud, account: Account) -> None:
    """The credentials of the metadata service, used as boto3 on the instance would."""
    iam, s3 = cloud.client("iam"), cloud.client("s3")
    s3.create_bucket(Bucket="runs")
    iam.create_role(RoleName="machine", AssumeRolePolicyDocument=json.dumps(TRUST))
    policy = allow(["s3:PutObject", "s3:GetObject"], "arn:aws:s3:::runs/runs/*")
    iam.put_role_policy(RoleName="machine", PolicyName="p", PolicyDocument=json.dumps(policy))
    iam.create_instance_profile(InstanceProfileName="profile")
    iam.add_role_to_instance_profile(InstanceProfileName="profile", RoleName="machine")
    account.template(IamInstanceProfile={"Name": "profile"})
    (made,) = account.fleet()["Instances"]
    instance = account.running(made["InstanceIds"][0])
    role, credentials = cloud.role_credentials(instance)
    assert role == "machine"
    assert instance.imds is not None
    status, told = instance.imds.get("/latest/meta-data/iam/security-credentials/machine", None)
    assert status == 401, told
    session = wire.session()
    theirs = {
        "endpoint_url": cloud.url,
        "aws_access_key_id": credentials["AccessKeyId"],
        "aws_secret_access_key": credentials["SecretAccessKey"],
        "aws_session_token": credentials["Token"],
        "region_name": "us-east-1",
    }
    on_it = session.client("s3", **theirs)
    on_it.put_object(Bucket="runs", Key="runs/a/index.json", Body=b"x")
    for key in ("elsewhere", "runs"):
        with pytest.raises(ClientError) as refused:
            on_it.put_object(Bucket="runs", Key=key, Body=b"x")
        assert code(refused) == "AccessDenied"
    with pytest.raises(ClientError) as refused:
        session.client("ec2", **theirs).terminate_instances(InstanceIds=[instance.id])
    assert code(refused) == "UnauthorizedOperation"


# --- schedules ----------------------------------------------------------------------------------------------


def at(cloud: Cloud, seconds: float) -> str:
    due = datetime.datetime.fromtimestamp(cloud.clock.now() + seconds, datetime.UTC)
    return f"at({due:%Y-%m-%dT%H:%M:%S})"


def schedule(cloud: Cloud, instance: str, seconds: float, **more: Any) -> dict[str, Any]:
    return {
        "Name": "end",
        "ScheduleExpression": at(cloud, seconds),
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "ActionAfterCompletion": "DELETE",
        "Target": {
            "Arn": "arn:aws:scheduler:::aws-sdk:ec2:terminateInstances",
            "RoleArn": "arn:aws:iam::123456789012:role/ender",
            "Input": json.dumps({"InstanceIds": [instance]}),
        },
        **more,
    }


@pytest.fixture
def ender(cloud: Cloud) -> None:
    iam = cloud.client("iam")
    iam.create_role(RoleName="ender", AssumeRolePolicyDocument=json.dumps(TRUST))
    policy = allow("ec2:TerminateInstances", Condition=OURS)
    iam.put_role_policy(RoleName="ender", PolicyName="p", PolicyDocument=json.dumps(policy))


@pytest.mark.usefixtures("ender")
def test_a_schedule_ends_an_instance_and_goes(account: Account) -> None:
    cloud = account.cloud
    scheduler = cloud.client("scheduler")
    account.template()
    (made,) = account.fleet()["Instances"]
    instance = account.running(made["InstanceIds"][0])
    scheduler.create_schedule(**schedule(cloud, instance.id, 600))
    scheduler.update_schedule(**schedule(cloud, instance.id, 1200))
    cloud.clock.advance(700)
    assert instance.state == "running"
    assert "schedule" in [left.kind for left in cloud.leftovers()]
    cloud.clock.advance(600)
    eventually(lambda: instance.state == "terminated")
    assert cloud.schedules.fired == [("end", "terminateInstances", "200")]
    assert scheduler.list_schedules()["Schedules"] == []


@pytest.mark.usefixtures("ender")
def test_a_schedule_may_do_only_what_its_role_may(account: Account) -> None:
    cloud = account.cloud
    account.template()
    (foreign,) = account.fleet(TagSpecifications=[])["Instances"]
    instance = account.running(foreign["InstanceIds"][0])
    cloud.client("scheduler").create_schedule(**schedule(cloud, instance.id, 60))
    cloud.clock.advance(61)
    assert cloud.schedules.fired == [("end", "terminateInstances", "UnauthorizedOperation")]
    assert instance.state == "running"


@pytest.mark.usefixtures("ender")
def test_a_deleted_schedule_does_nothing(account: Account) -> None:
    cloud = account.cloud
    account.template()
    (made,) = account.fleet()["Instances"]
    cloud.client("scheduler").create_schedule(**schedule(cloud, made["InstanceIds"][0], 60))
    cloud.client("scheduler").delete_schedule(Name="end")
    cloud.clock.advance(61)
    assert cloud.schedules.fired == []


# --- stacks, S3 ---------------------------------------------------------------------------------------------


def test_a_stack_has_what_moto_leaves_out_and_keeps_a_bucket_that_is_not_empty(cloud: Cloud) -> None:
    cfn, s3 = cloud.client("cloudformation"), cloud.client("s3")
    cfn.create_stack(StackName="ours", TemplateBody=STACK)
    (stack,) = cfn.describe_stacks(StackName="ours")["Stacks"]
    outputs = {o["OutputKey"]: o["OutputValue"] for o in stack["Outputs"]}
    assert outputs["Group"] == "ours"
    cloud.client("scheduler").get_schedule_group(Name="ours")
    listed = cfn.describe_stack_resources(StackName="ours")["StackResources"]
    assert {r["LogicalResourceId"] for r in listed} == {"Bucket", "Policy", "Schedules"}
    s3.put_object(Bucket=outputs["Bucket"], Key="runs/a", Body=b"x")
    cfn.delete_stack(StackName="ours")
    (stack,) = cfn.describe_stacks(StackName="ours")["Stacks"]
    assert stack["StackStatus"] == "DELETE_FAILED"
    assert "not empty" in stack["StackStatusReason"]
    s3.delete_object(Bucket=outputs["Bucket"], Key="runs/a")
    cfn.delete_stack(StackName="ours")
    with pytest.raises(ClientError):
        cfn.describe_stacks(StackName="ours")
    assert s3.list_buckets()["Buckets"] == []
    with pytest.raises(ClientError):
        cloud.client("scheduler").get_schedule_group(Name="ours")


def test_s3_compares_and_swaps_and_its_calls_are_logged_by_name(cloud: Cloud) -> None:
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket="bucket")
    etag = s3.put_object(Bucket="bucket", Key="a/b c", Body=b"1", IfNoneMatch="*")["ETag"]
    with pytest.raises(ClientError) as refused:
        s3.put_object(Bucket="bucket", Key="a/b c", Body=b"2", IfNoneMatch="*")
    assert code(refused) == "PreconditionFailed"
    s3.put_object(
        Bucket="bucket", Key="a/b c", Body=b"2" * 3_000_000, IfMatch=etag, ChecksumAlgorithm="SHA256"
    )
    assert len(s3.get_object(Bucket="bucket", Key="a/b c")["Body"].read()) == 3_000_000
    s3.list_objects_v2(Bucket="bucket", Prefix="a/")
    upload = s3.create_multipart_upload(Bucket="bucket", Key="big")["UploadId"]
    part = s3.upload_part(Bucket="bucket", Key="big", UploadId=upload, PartNumber=1, Body=b"x")
    parts = {"Parts": [{"ETag": part["ETag"], "PartNumber": 1}]}
    s3.complete_multipart_upload(Bucket="bucket", Key="big", UploadId=upload, MultipartUpload=parts)
    s3.head_object(Bucket="bucket", Key="big")
    s3.delete_object(Bucket="bucket", Key="big")
    actions = (
        "CreateBucket PutObject PutObject PutObject GetObject ListObjectsV2 CreateMultipartUpload UploadPart "
        "CompleteMultipartUpload HeadObject DeleteObject"
    )
    assert [c.action for c in cloud.calls] == actions.split()
    assert cloud.calls[1].parameters["Key"] == "a/b c"


def test_a_role_may_have_a_policy_of_aws_through_its_stack(cloud: Cloud) -> None:
    body = """
    Resources:
      Role:
        Type: AWS::IAM::Role
        Properties:
          AssumeRolePolicyDocument: {Statement: []}
          ManagedPolicyArns: ["arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore"]
    """
    cfn = cloud.client("cloudformation")
    cfn.create_stack(StackName="ours", TemplateBody=body)
    (role,) = cfn.describe_stack_resources(StackName="ours")["StackResources"]
    policies = cloud.permissions.of_role(role["PhysicalResourceId"])
    assert allows(policies, Need("ssm:UpdateInstanceInformation", "*"))
    assert not allows(policies, Need("ec2:TerminateInstances", "*"))


@pytest.mark.parametrize(
    ("service", "ask", "parameters", "expected"),
    [
        ("ec2", "create_security_group", {"GroupName": "sg-x", "Description": "d"}, "InvalidParameterValue"),
        ("ec2", "create_security_group", {"GroupName": "g", "Description": "d|"}, "InvalidParameterValue"),
        ("ec2", "import_key_pair", {"KeyName": "ü", "PublicKeyMaterial": b""}, "InvalidParameterValue"),
        ("scheduler", "get_schedule", {"Name": "a:b"}, "ValidationException"),
        ("iam", "get_role", {"RoleName": "a/b"}, "ValidationError"),
        ("cloudformation", "describe_change_set", {"ChangeSetName": "a_b"}, "ValidationError"),
    ],
)
def test_what_the_model_does_not_allow_is_refused(
    cloud: Cloud, service: str, ask: str, parameters: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ClientError) as refused:
        getattr(cloud.client(service), ask)(**parameters)
    assert code(refused) == expected


# --- the shapes ---------------------------------------------------------------------------------------------


def test_every_answer_of_ours_is_of_an_operation_that_there_is(cloud: Cloud) -> None:
    for name in (*cloud._answers, *cloud._amends):
        service, _, action = name.partition(":")
        assert action in wire.model(service).operation_names, name


def test_an_answer_that_aws_would_not_give_is_not_given() -> None:
    call = wire.Call("ec2", "us-east-1", "DescribeInstances", {}, "key", "ec2")
    for wrong in ({"Instances": []}, {"Reservations": {}}, {"Reservations": [{"OwnerId": 1}]}):
        with pytest.raises(AssertionError, match="would never answer so"):
            wire.success(call, wrong)


def test_what_boto3_sends_and_reads_is_what_we_read_and_write(cloud: Cloud) -> None:
    """Through every protocol: form and XML of EC2 and IAM, JSON of SSM, paths of Scheduler."""
    ec2 = cloud.client("ec2")
    tags = [{"ResourceType": "key-pair", "Tags": [*OWNED, {"Key": "a&b", "Value": "<ü>"}]}]
    ec2.create_key_pair(KeyName="key", TagSpecifications=tags)
    assert cloud.calls[-1].parameters["TagSpecifications"] == tags
    (pair,) = ec2.describe_key_pairs(KeyNames=["key"])["KeyPairs"]
    assert pair["Tags"] == tags[0]["Tags"]
    cloud.client("iam").list_roles(MaxItems=7, PathPrefix="/x/")
    assert cloud.calls[-1].parameters == {"MaxItems": 7, "PathPrefix": "/x/"}
    cloud.client("ssm").put_parameter(Name="p", Value="v", Type="String", Overwrite=True)
    assert cloud.calls[-1].parameters["Overwrite"] is True
    cloud.client("scheduler").list_schedules(GroupName="default", MaxResults=3)
    assert cloud.calls[-1].parameters == {"GroupName": "default", "MaxResults": "3"}
    assert cloud.calls[-1].name == "scheduler:ListSchedules"
    assert cloud.client("sts").get_caller_identity()["Account"] == "123456789012"
