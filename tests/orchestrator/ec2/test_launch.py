"""Asking for a machine, on a test cloud that says no in every way EC2 does. Nothing boots here."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.errors import BadRequest, CapReached, Ec2emoError, OutcomeUnknown
from orchestrator.lease import Lease
from orchestrator.machine import Terms
from orchestrator.providers.ec2 import api, fleet, instances, ladder, network, provision, setup
from orchestrator.providers.ec2.book import Book
from orchestrator.store import Store
from tests.orchestrator.ec2.conftest import NEVER, errand, user_data

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud


@pytest.fixture(autouse=True)
def nothing_boots(cloud: Cloud, at_home: Store) -> None:
    cloud.instances.delays.pending = NEVER


def launch(store: Store, terms: Terms | None = None, name: str = "a-run") -> Lease:
    """From the wish to a machine that is named in the lease, as `provide` does it."""
    run = errand(store, terms, name).run
    aws = api.connected(run.terms.region if run.terms else None)
    with store.holding(name):
        lease = store.lease(name)
        if lease is None or lease.ended is not None:
            number = lease.number + 1 if lease else 1
            lease = provision.new_lease(aws, run, run.terms or Terms(), number)
        book = Book(store, lease)
        provision.find_or_launch(book, aws, lambda sentence: None)
        return book.lease


def calls(cloud: Cloud, name: str = "ec2:CreateFleet") -> list[Any]:
    return [call for call in cloud.calls if call.name == name]


def left(cloud: Cloud) -> set[str]:
    """What costs or lingers; the user's key may stay."""
    ec2 = cloud.moto.client("ec2", cloud.region)
    groups = [g for g in ec2.describe_security_groups()["SecurityGroups"] if g["GroupName"] != "default"]
    there = {
        "machine": cloud.living(),
        "template": ec2.describe_launch_templates()["LaunchTemplates"],
        "group": groups,
        "disk": ec2.describe_volumes()["Volumes"],
    }
    return {kind for kind, things in there.items() if things}


def test_one_call_asks_for_all_types_in_all_zones(cloud: Cloud, at_home: Store) -> None:
    lease = launch(at_home, Terms(instance_types=tuple(t.name for t in ladder.LADDER)))
    (call,) = calls(cloud)
    overrides = call.parameters["LaunchTemplateConfigs"][0]["Overrides"]
    assert len({o["InstanceType"] for o in overrides}) == 7
    assert len({o["SubnetId"] for o in overrides}) == 5  # of six zones, one has none of these
    assert (lease.instance_type, lease.market, lease.zone) == ("g4dn.xlarge", "on-demand", lease.zone)
    assert [i.id for i in cloud.living()] == [lease.instance]


def test_spot_first_and_then_on_demand_are_two_calls(cloud: Cloud, at_home: Store) -> None:
    cloud.capacity["*", "*", "spot"] = 0
    lease = launch(at_home, Terms(market="spot"))
    asked = [c.parameters["TargetCapacitySpecification"]["DefaultTargetCapacityType"] for c in calls(cloud)]
    assert asked == ["spot", "on-demand"]
    assert lease.market == "on-demand"
    assert [c.outcome for c in lease.calls] == ["InsufficientInstanceCapacity", "launched"]
    assert len({c.token for c in lease.calls}) == 2


def test_the_next_type_is_taken_where_the_first_is_gone(cloud: Cloud, at_home: Store) -> None:
    cloud.capacity["g4dn.xlarge", "*", "*"] = 0
    assert launch(at_home).instance_type == "g5.xlarge"
    assert len(calls(cloud)) == 1


def test_a_quota_ends_the_asking_in_that_market_alone(cloud: Cloud, at_home: Store) -> None:
    cloud.quotas["L-3819A6DF"] = 0
    lease = launch(at_home, Terms(market="spot"))
    assert [c.outcome for c in lease.calls] == ["MaxSpotInstanceCountExceeded", "launched"]
    cloud.quotas["L-DB2E81BA"] = 0
    with pytest.raises(Ec2emoError, match="L-DB2E81BA") as refused:
        launch(at_home, Terms(market="on-demand"), "another")
    assert refused.value.exit_code == 3
    assert len(calls(cloud)) == 3


@pytest.mark.parametrize(
    ("codes", "exit_code"),
    [
        (["InsufficientInstanceCapacity"], 4),
        (["VcpuLimitExceeded"], 3),
        (["SpotMaxPriceTooLow"], 10),
        (["UnauthorizedOperation"], 5),
        (["RequestLimitExceeded"], 11),
        (["InsufficientInstanceCapacity", "RequestLimitExceeded"], 11),
        (["InsufficientInstanceCapacity", "VcpuLimitExceeded", "UnfulfillableCapacity"], 3),
    ],
)
def test_an_answer_without_a_machine_leaves_nothing_behind(
    cloud: Cloud, at_home: Store, codes: list[str], exit_code: int
) -> None:
    for _ in range(40):
        cloud.answer_fleet(codes)
    with pytest.raises(Ec2emoError) as refused:
        launch(at_home)
    assert refused.value.exit_code == exit_code
    assert len(calls(cloud)) == 1 or exit_code == 11
    assert left(cloud) == set()
    lease = at_home.lease("a-run")
    assert lease is not None and lease.ended is not None


def test_a_call_refused_as_a_whole_is_sent_once(cloud: Cloud, at_home: Store) -> None:
    """Left to itself botocore repeats InsufficientInstanceCapacity, because it comes as a 500."""
    cloud.fail("ec2:CreateFleet", "InsufficientInstanceCapacity", times=9)
    with pytest.raises(Ec2emoError) as refused:
        launch(at_home)
    assert refused.value.exit_code == 4
    assert len(calls(cloud)) == 1


def test_half_a_minute_of_throttling_is_waited_out(cloud: Cloud, at_home: Store) -> None:
    cloud.throttle("ec2:CreateFleet", 30)
    lease = launch(at_home)
    assert lease.instance
    assert 1 < len(calls(cloud)) < 20
    assert len({c.parameters["ClientToken"] for c in calls(cloud)}) == 1


def test_throttled_past_our_patience_is_told(cloud: Cloud, at_home: Store) -> None:
    cloud.throttle("ec2:CreateFleet", 3600)
    with pytest.raises(Ec2emoError, match="slow down") as refused:
        launch(at_home)
    assert refused.value.exit_code == 11
    assert left(cloud) == set()


def test_an_answer_that_is_lost_is_asked_for_again_with_the_same_token(cloud: Cloud, at_home: Store) -> None:
    cloud.fail("ec2:CreateFleet", "InternalError", times=2, effect=True)
    lease = launch(at_home)
    assert [i.id for i in cloud.living()] == [lease.instance]
    assert len({c.parameters["ClientToken"] for c in calls(cloud)}) == 1


def test_a_machine_made_by_a_call_never_answered_is_found_by_its_tags(cloud: Cloud, at_home: Store) -> None:
    cloud.visibility_delay = 60
    cloud.fail("ec2:CreateFleet", "InternalError", times=99, effect=True)
    lease = launch(at_home)
    assert [i.id for i in cloud.living()] == [lease.instance]


def test_where_nothing_is_known_nothing_is_assumed(cloud: Cloud, at_home: Store) -> None:
    cloud.fail("ec2:CreateFleet", "Unavailable", times=99)
    with pytest.raises(OutcomeUnknown) as lost:
        launch(at_home)
    assert lost.value.exit_code == 6
    lease = at_home.lease("a-run")
    assert lease is not None and lease.ended is None and lease.open_call
    cloud.faults.failures.clear()
    again = launch(at_home)
    assert again.instance and len(again.calls) == 1
    assert len({c.parameters["ClientToken"] for c in calls(cloud)}) == 1


def test_every_sending_is_written_down_so_that_the_last_one_is_looked_for(
    cloud: Cloud, at_home: Store
) -> None:
    cloud.throttle("ec2:CreateFleet", 60)
    cloud.fail("ec2:CreateFleet", "InternalError", times=99, effect=True)
    cloud.visibility_delay = 200  # longer than anybody looks
    with pytest.raises(OutcomeUnknown):
        launch(at_home)
    lease = at_home.lease("a-run")
    assert lease is not None and lease.open_call and lease.open_call.sent
    assert lease.open_call.sent - lease.open_call.at >= 30  # it was throttled for a minute
    cloud.visibility_delay = 0
    assert [i.id for i in cloud.living()] == [launch(at_home).instance]


def test_what_became_of_a_call_is_asked_until_its_machine_would_be_seen(cloud: Cloud, at_home: Store) -> None:
    """Sent again and again, it was heard a minute after it was written down, and its caller died."""
    cloud.visibility_delay = 60
    cloud.fail("ec2:CreateFleet", "InternalError", times=99, effect=True)
    lease = launch(at_home)
    (call,) = lease.calls
    born = cloud.clock.now()
    late = dataclasses.replace(call, outcome=None, at=born - 100, sent=born - 40)
    book = Book(at_home, dataclasses.replace(lease, calls=(late,), instance=None))
    cloud.visibility_delay = 100
    fleet.close_unheard(book, api.connected(None), lambda sentence: None)
    assert book.lease.instance == lease.instance


def test_an_old_call_without_an_answer_is_looked_for_and_not_repeated(cloud: Cloud, at_home: Store) -> None:
    cloud.fail("ec2:CreateFleet", "Unavailable", times=99)
    with pytest.raises(OutcomeUnknown):
        launch(at_home)
    cloud.faults.failures.clear()
    cloud.clock.advance(3600)
    lease = launch(at_home)
    assert [c.outcome for c in lease.calls] == ["nothing came", "launched"]
    assert len(cloud.living()) == 1


def test_a_machine_that_was_ended_is_followed_by_another_number(cloud: Cloud, at_home: Store) -> None:
    first = launch(at_home)
    book = Book(at_home, first)
    instances.terminate(api.connected(None), str(first.instance))
    book.end("by hand")
    second = launch(at_home)
    assert (second.number, second.instance != first.instance) == (2, True)
    assert {c.token for c in first.calls}.isdisjoint({c.token for c in second.calls})
    assert [i.id for i in cloud.living()] == [second.instance]


@pytest.mark.parametrize(
    "action", ["CreateFleet", "CreateLaunchTemplate", "CreateSecurityGroup", "ImportKeyPair"]
)
def test_a_missing_permission_is_told_and_leaves_nothing(cloud: Cloud, at_home: Store, action: str) -> None:
    cloud.deny(f"ec2:{action}")
    with pytest.raises(Ec2emoError, match=f"ec2:{action}") as refused:
        launch(at_home)
    assert refused.value.exit_code == 5
    assert left(cloud) == set()


def test_what_is_launched_is_closed_encrypted_and_tagged(cloud: Cloud, at_home: Store) -> None:
    """Asserted on what reached the cloud, for every launch request there is."""
    lease = launch(at_home)
    (made,) = calls(cloud, "ec2:CreateLaunchTemplate")
    data = made.parameters["LaunchTemplateData"]
    assert data["MetadataOptions"] == {
        "HttpEndpoint": "enabled",
        "HttpTokens": "required",
        "HttpPutResponseHopLimit": 1,
    }
    (disk,) = data["BlockDeviceMappings"]
    assert disk["Ebs"] | {"VolumeSize": 0} == {
        "VolumeSize": 0,
        "VolumeType": "gp3",
        "Encrypted": True,
        "DeleteOnTermination": True,
    }
    assert data["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert data["ImageId"].startswith("resolve:ssm:/aws/service/deeplearning/ami/")
    assert "InstanceMarketOptions" not in data
    (opened,) = calls(cloud, "ec2:AuthorizeSecurityGroupIngress")
    (rule,) = opened.parameters["IpPermissions"]
    assert rule == {
        "IpProtocol": "tcp",
        "FromPort": 22,
        "ToPort": 22,
        "IpRanges": [{"CidrIp": f"{cloud.caller}/32"}],
    }
    wanted = {"ec2emo:owner", "ec2emo:run", "ec2emo:uid", "ec2emo:attempt", "ec2emo:until"}
    (fleet,) = calls(cloud)
    kinds = {s["ResourceType"]: {t["Key"] for t in s["Tags"]} for s in fleet.parameters["TagSpecifications"]}
    assert set(kinds) == {"fleet", "instance", "volume", "network-interface"}
    assert all(wanted <= keys for keys in kinds.values())
    for name in ("ec2:CreateLaunchTemplate", "ec2:CreateSecurityGroup"):
        (call,) = calls(cloud, name)
        (tagged,) = call.parameters["TagSpecifications"]
        assert wanted <= {t["Key"] for t in tagged["Tags"]}
    tags = cloud.tags(str(lease.instance), cloud.region)
    assert (tags["ec2emo:run"], tags["ec2emo:attempt"]) == ("a-run", "1")


def test_nothing_but_the_temporary_host_key_is_secret_in_user_data(cloud: Cloud, at_home: Store) -> None:
    launch(at_home)
    (instance,) = cloud.living()
    said = user_data(cloud, instance.id)
    assert said.splitlines()[2].startswith("shutdown -h +720")
    assert cloud.environment["AWS_SECRET_ACCESS_KEY"] not in said
    assert said.count("PRIVATE KEY-----") == 2
    assert (at_home.root / "keys" / "id_ed25519").read_text() not in said


def test_a_cap_on_cost_shortens_the_life_and_one_too_low_is_refused(cloud: Cloud, at_home: Store) -> None:
    launch(at_home, Terms(max_cost=1.0, instance_types=("g4dn.xlarge",)))
    (instance,) = cloud.living()
    minutes = int(user_data(cloud, instance.id).splitlines()[2].split("+")[1])
    assert 100 <= minutes <= 114  # a dollar at $0.526 an hour and the disk
    with pytest.raises(CapReached, match=r"--max-cost 0\.1 pays for") as refused:
        launch(at_home, Terms(max_cost=0.1), "another")
    assert refused.value.exit_code == 9
    assert len(calls(cloud)) == 1


def test_a_cap_without_a_price_reckons_with_the_worst_known(cloud: Cloud, at_home: Store) -> None:
    cloud.deny("pricing:*")
    said: list[str] = []
    run = errand(at_home, Terms(max_cost=2.0, instance_types=("g5.12xlarge",)))
    aws = api.connected(None)
    book = Book(at_home, provision.new_lease(aws, run.run, run.run.terms or Terms(), 1))
    provision.launch(book, aws, said.append)
    assert book.lease.worst == 1.861
    assert any("g5.12xlarge" in s and "$1.86" in s for s in said)


def test_two_computers_with_a_run_of_one_name_do_not_mix(cloud: Cloud, at_home: Store) -> None:
    launch(at_home)
    other = Store(at_home.root.parent / "other-home")
    run = errand(other).run
    run = dataclasses.replace(run, spec=dataclasses.replace(run.spec, uid="another"))
    book = Book(other, provision.new_lease(api.connected(None), run, run.terms or Terms(), 1))
    with pytest.raises(BadRequest, match="another computer runs a-run"):
        provision.launch(book, api.connected(None), lambda sentence: None)
    assert len(cloud.living()) == 1


def test_the_rule_follows_the_caller_and_is_never_widened(cloud: Cloud, at_home: Store) -> None:
    lease = launch(at_home)
    cloud.caller = "203.0.113.9"
    assert network.admit(
        api.connected(None), str(lease.group), network.sources(api.connected(None), lease.terms)
    )
    groups = cloud.client("ec2").describe_security_groups(GroupIds=[lease.group])["SecurityGroups"]
    ranges = [r["CidrIp"] for p in groups[0]["IpPermissions"] for r in p["IpRanges"]]
    assert ranges == ["203.0.113.9/32"]
    names = cloud.names()
    assert names.index("ec2:RevokeSecurityGroupIngress") < len(names) - 1 - names[::-1].index(
        "ec2:AuthorizeSecurityGroupIngress"
    )


def test_an_unknown_address_is_asked_for_and_never_becomes_the_world(
    cloud: Cloud, at_home: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EC2EMO_ADDRESS_SERVICE", f"{cloud.url}/nothing-here")
    with pytest.raises(BadRequest, match="--allow-from"):
        launch(at_home)
    for wide in ("0.0.0.0/0", "10.0.0.0/8"):
        with pytest.raises(BadRequest, match="name fewer"):
            launch(at_home, Terms(allow_from=wide), "wide")
    assert "ec2:AuthorizeSecurityGroupIngress" not in cloud.names()
    lease = launch(at_home, Terms(allow_from="203.0.113.0/28"), "office")
    assert lease.instance


def test_a_tunnel_opens_no_port_and_needs_a_program(
    cloud: Cloud, at_home: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nothing")
    with pytest.raises(BadRequest, match="needs the AWS command line"):
        launch(at_home, Terms(via="ssm"))
    monkeypatch.setenv("PATH", str(cloud.programs))
    with pytest.raises(BadRequest, match="'ec2emo setup' has not been run"):
        launch(at_home, Terms(via="ssm"), "roleless")
    cloud.connections.endpoint = False
    with pytest.raises(BadRequest, match="no EC2 Instance Connect Endpoint"):
        launch(at_home, Terms(via="eice"), "pointless")
    assert left(cloud) == set()
    setup.install(api.connected(None), lambda sentence: None)
    assert launch(at_home, Terms(via="ssm")).instance
    assert "ec2:AuthorizeSecurityGroupIngress" not in cloud.names()


def test_without_the_parameter_the_newest_image_is_found_by_name(cloud: Cloud, at_home: Store) -> None:
    cloud.deny("ssm:*")
    launch(at_home)
    (made,) = calls(cloud, "ec2:CreateLaunchTemplate")
    assert made.parameters["LaunchTemplateData"]["ImageId"].startswith("ami-")
