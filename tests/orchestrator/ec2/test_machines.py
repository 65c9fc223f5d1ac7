"""Machines found by their tags, stopped, started, ended, and swept up. They run here, but do not boot."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator import pins, providers
from orchestrator.commands import gc
from orchestrator.commands import machines as listed
from orchestrator.errors import BadRequest, CapReached, MachineGone, Refused
from orchestrator.lease import Lease
from orchestrator.machine import Machine, Terms
from orchestrator.providers import Errand
from orchestrator.providers.ec2 import (
    api,
    attach,
    clock,
    doctor,
    image,
    lifecycle,
    offer,
    provision,
    schedule,
    setup,
    spending,
    sweep,
    template,
)
from orchestrator.providers.ec2.book import Book
from orchestrator.run import Asked
from orchestrator.store import Store
from tests.orchestrator.ec2.conftest import TWO, errand

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud


@pytest.fixture(autouse=True)
def nothing_boots(cloud: Cloud, at_home: Store) -> None:
    cloud.boots = False


def quiet(sentence: str) -> None:
    """Nobody is told."""


def stood_up(store: Store, terms: Terms | None = None, name: str = "a-run", *, trains: bool = True) -> Lease:
    """A machine that runs, with a run on it that was launched, as far as the records say."""
    work = errand(store, terms, name)
    with provision.standing(work) as (book, _, _):
        lease = book.keep(reached=1.0)
    if trains:
        store.save(work.run.with_attempt(Asked("token", 1.0, "code", number=1)))
    return lease


def acts(store: Store, *, remove: bool = False) -> dict[str, str]:
    rows = sweep.collect(store, "us-east-1", quiet, remove=remove)
    return {row["kind"]: row["act"] for row in rows}


def test_a_machine_is_listed_with_its_run_its_price_and_its_end(cloud: Cloud, at_home: Store) -> None:
    lease = stood_up(at_home, Terms(max_hours=2.0))
    cloud.clock.advance(1800)
    (row,) = lifecycle.machines(at_home, None)
    assert (row["machine"], row["run"], row["state"], row["type"]) == (
        lease.instance,
        "a-run",
        "running",
        "g4dn.xlarge",
    )
    hourly = 0.526 + 100 * 0.08 / 730
    assert row["cost_usd_per_hour"] == pytest.approx(hourly)
    assert row["cost_usd"] == pytest.approx(hourly / 2, rel=0.02)
    assert row["until"] > row["until"][:0] and row["known_here"]


def test_after_the_loss_of_home_every_region_is_searched(
    cloud: Cloud,
    at_home: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lease = stood_up(at_home, Terms(region="eu-west-1"))
    monkeypatch.setenv("EC2EMO_HOME", str(tmp_path / "another home"))
    listed.command(json=True)
    assert capsys.readouterr().out == ""
    listed.command(all_regions=True, json=True)
    (row,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert (row["machine"], row["run"], row["known_here"]) == (lease.instance, "a-run", False)
    gc.command(all_regions=True, json=True)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lease.instance in {row["id"] for row in rows}
    assert {row["region"] for row in rows} == {"eu-west-1"}
    with pytest.raises(BadRequest, match="choose one of the two"):
        gc.command(all_regions=True, region="eu-west-1")


def test_what_was_spent_is_what_the_cloud_charges(cloud: Cloud, at_home: Store) -> None:
    lease = stood_up(at_home)
    cloud.clock.advance(3600)
    instance = cloud.client("ec2").describe_instances(InstanceIds=[lease.instance])
    said = spending.so_far(lease, instance["Reservations"][0]["Instances"][0])
    assert said == pytest.approx(cloud.bill().dollars, rel=0.02)


def test_a_machine_is_stopped_started_and_ended_by_the_name_of_its_run(cloud: Cloud, at_home: Store) -> None:
    lease = stood_up(at_home)
    said = lifecycle.stop(at_home, "a-run", None)
    assert f"{lease.instance} is stopped" in said and "a day until" in said
    machine = Machine("ec2", host="127.0.0.1", id=lease.instance, region="us-east-1")
    with pytest.raises(MachineGone, match="machines start"):
        lifecycle.again(machine)
    assert "runs, at $0.53 an hour" in lifecycle.start(at_home, "a-run", None)
    said = lifecycle.terminate(at_home, str(lease.instance), None)
    assert "is terminated" in said and "about $" in said
    assert cloud.living() == []
    with pytest.raises(MachineGone, match="terminated"):
        lifecycle.again(machine)
    with pytest.raises(BadRequest, match="has ended already"):
        lifecycle.terminate(at_home, str(lease.instance), None)


def test_a_spot_machine_that_was_taken_back_is_told_as_interrupted(cloud: Cloud, at_home: Store) -> None:
    lease = stood_up(at_home, Terms(market="spot"))
    cloud.reclaim(str(lease.instance))
    cloud.clock.advance(120)
    with pytest.raises(MachineGone) as gone:
        lifecycle.again(Machine("ec2", host="127.0.0.1", id=lease.instance, region="us-east-1"))
    assert gone.value.interrupted


def test_once_the_model_is_home_the_machine_ends_as_agreed(cloud: Cloud, at_home: Store) -> None:
    ended = stood_up(at_home)
    said = lifecycle.release(at_home, at_home.load("a-run"))
    assert said and f"{ended.instance} is terminated" in said
    kept = stood_up(at_home, Terms(after="keep"), "kept")
    said = lifecycle.release(at_home, at_home.load("kept"))
    assert said and f"{kept.instance} goes on, at $0.53 an hour" in said
    stopped = stood_up(at_home, Terms(after="stop"), "stopped")
    said = lifecycle.release(at_home, at_home.load("stopped"))
    assert said and f"{stopped.instance} is stopped" in said
    assert [i.state for i in cloud.living()] == ["running", "stopped"]


def test_nothing_is_removed_while_its_run_is_there(cloud: Cloud, at_home: Store) -> None:
    stood_up(at_home)
    told = acts(at_home, remove=True)
    assert told == {"machine": "keep", "group": "keep", "key": "keep"}
    assert len(cloud.living()) == 1


def test_a_start_that_was_broken_off_is_removed_once_that_is_said(cloud: Cloud, at_home: Store) -> None:
    stood_up(at_home, trains=False)
    told = acts(at_home)
    assert told == {"machine": "remove", "group": "remove", "key": "remove"}
    assert len(cloud.living()) == 1  # a look changes nothing
    assert acts(at_home, remove=True) == told
    assert cloud.leftovers() == []
    lease = at_home.lease("a-run")
    assert lease is not None and lease.why_ended == "removed by 'ec2emo gc'"


def test_what_gc_removes_is_deleted_once(cloud: Cloud, at_home: Store) -> None:
    lease = stood_up(at_home, trains=False)
    book, body = Book(at_home, lease), {"InstanceType": "g4dn.xlarge"}
    tagged = book.tags(lease.until or 0.0)
    book.keep(template=template.made(api.connected("us-east-1"), book.name, body, tagged))
    cloud.calls.clear()
    acts(at_home, remove=True)
    assert cloud.leftovers() == []
    deleted = [name for name in cloud.names() if name.startswith("ec2:Delete")]
    assert sorted(deleted) == ["ec2:DeleteKeyPair", "ec2:DeleteLaunchTemplate", "ec2:DeleteSecurityGroup"]
    record = at_home.lease("a-run")
    assert record is not None and (record.template, record.group) == (None, None)


def test_a_machine_that_is_not_listed_yet_is_not_taken_for_gone(cloud: Cloud, at_home: Store) -> None:
    lease = stood_up(at_home, trains=False)
    cloud.visibility.delay["instance"] = 60.0
    cloud.visibility.made("instance", str(lease.instance))
    assert acts(at_home, remove=True)["machine"] == "remove"
    assert cloud.leftovers() == []


def test_what_another_process_is_making_is_left_alone(cloud: Cloud, at_home: Store) -> None:
    with provision.standing(errand(at_home)):
        told = acts(at_home, remove=True)
    assert set(told.values()) == {"keep"}
    assert len(cloud.living()) == 1


def test_a_machine_whose_record_is_deleted_is_written_down_again(cloud: Cloud, at_home: Store) -> None:
    lease = stood_up(at_home)
    shutil.rmtree(at_home.runs)
    assert acts(at_home)["machine"] == "write down"
    acts(at_home, remove=True)
    again = at_home.lease("a-run")
    assert again is not None
    same = ("run", "uid", "number", "region", "owner", "instance", "instance_type", "zone", "group", "user")
    assert [getattr(again, f) for f in same] == [getattr(lease, f) for f in same]
    assert lease.until is not None and again.until == pytest.approx(lease.until, abs=1)
    assert acts(at_home)["machine"] == "keep"
    lifecycle.terminate(at_home, str(lease.instance), None)
    assert cloud.living() == []


def test_a_machine_nobody_knows_of_is_removed_when_its_time_is_over(cloud: Cloud, at_home: Store) -> None:
    stood_up(at_home, Terms(max_hours=1.0))
    shutil.rmtree(at_home.runs)
    cloud.clock.advance(2 * 3600)
    assert acts(at_home, remove=True)["machine"] == "remove"
    assert cloud.leftovers() == []


def test_what_is_not_ours_is_never_touched(cloud: Cloud, at_home: Store) -> None:
    ec2 = cloud.client("ec2")
    foreign = _foreign(cloud, Name="theirs")
    assert acts(at_home, remove=True) == {}
    for verb in (lifecycle.stop, lifecycle.terminate, lifecycle.start):
        with pytest.raises(Refused, match="--adopt"):
            verb(at_home, foreign, None)
    assert not {"ec2:StopInstances", "ec2:TerminateInstances", "ec2:CreateTags"} & set(cloud.names())
    state = ec2.describe_instances(InstanceIds=[foreign])["Reservations"][0]["Instances"][0]["State"]["Name"]
    assert state == "running"
    assert "is stopped" in lifecycle.stop(at_home, foreign, None, adopt=True)


def _foreign(cloud: Cloud, **tags: str) -> str:
    ec2 = cloud.client("ec2")
    chosen = image.find(api.connected(None), Terms()).id
    specs = [{"ResourceType": "instance", "Tags": [{"Key": k, "Value": v} for k, v in tags.items()]}]
    made = ec2.run_instances(
        ImageId=chosen,
        InstanceType="g4dn.xlarge",
        MinCount=1,
        MaxCount=1,
        TagSpecifications=specs if tags else [],
    )
    cloud.clock.advance(60)
    return str(made["Instances"][0]["InstanceId"])


def _attached(store: Store, where: str, terms: Terms | None = None) -> Errand:
    work = errand(store, terms, f"on-{len(store.ids())}")
    return dataclasses.replace(work, run=dataclasses.replace(work.run, where=where))


def attached(store: Store, where: str) -> Machine:
    """Found, and not started."""
    return attach.attach(providers.wish_for(where, None), _attached(store, where))


def test_a_machine_is_found_by_its_name_and_whom_its_image_lets_in(cloud: Cloud, at_home: Store) -> None:
    foreign = _foreign(cloud, Name="theirs")
    for where in (foreign, f"root@{foreign}", "Name=theirs"):
        wish = providers.wish_for(where, None)
        machine = attach.machine_at(
            api.connected(None), wish, attach.find(api.connected(None), wish), Terms()
        )
        assert machine.user == ("root" if "@" in where else "ubuntu")
        assert (machine.id, machine.name) == (foreign, foreign)
    _foreign(cloud, Name="theirs")
    with pytest.raises(BadRequest, match="are 2 machines"):
        attached(at_home, "Name=theirs")
    with pytest.raises(BadRequest, match="there is no machine"):
        attached(at_home, "i-00000000000000000")


def test_a_stopped_machine_asks_before_it_costs(cloud: Cloud, at_home: Store) -> None:
    foreign = _foreign(cloud)
    cloud.client("ec2").stop_instances(InstanceIds=[foreign])
    cloud.clock.advance(120)
    wish = providers.wish_for(foreign, None)
    said = attach.cost(wish, _attached(at_home, foreign))
    assert said == f"{foreign} (g4dn.xlarge) is stopped: start it, at $0.53 an hour?"
    cloud.client("ec2").terminate_instances(InstanceIds=[foreign])
    cloud.clock.advance(120)
    with pytest.raises(BadRequest, match="has ended"):
        attach.cost(wish, _attached(at_home, foreign))


@pytest.mark.parametrize(
    "where", ["i-", "i-xyz", "i-0123456789abcdef0\n", "Name=", "a;b@i-0123456789abcdef0"]
)
def test_a_machine_named_otherwise_is_refused(at_home: Store, where: str) -> None:
    with pytest.raises(BadRequest):
        providers.wish_for(where, None)


def test_a_plan_says_what_it_would_cost_and_makes_nothing(cloud: Cloud, at_home: Store) -> None:
    terms = Terms(market="spot", max_hours=10.0, instance_types=TWO)
    aws = api.connected(None)
    told = offer.plan(aws, terms, offer.look(aws, terms))
    assert told["markets"] == ["spot", "on-demand"]
    assert told["worst_usd_per_hour"] == 1.006
    assert told["worst_usd"] == pytest.approx((1.006 + 8 / 730) * 10, abs=0.01)
    assert told["types"]["g4dn.xlarge"]["usd_per_hour"] == 0.526
    assert told["types"]["g4dn.xlarge"]["spot_usd_per_hour"] < 0.526
    assert told["quotas"]["L-DB2E81BA"]["allowed_vcpus"] == 64 and told["quotas"]["L-3819A6DF"]["enough"]
    assert told["ports"] == f"22 for {cloud.caller}/32"
    assert told["guards"]["shutdown"].startswith("after 600 minutes")
    assert "has not been run here" in told["guards"]["outside"]
    assert not [c.name for c in cloud.calls if c.changes]
    assert cloud.leftovers() == []


def test_the_plan_of_a_machine_that_is_there_says_what_ends_it(cloud: Cloud, at_home: Store) -> None:
    aws = api.connected(None)
    foreign = _foreign(cloud)
    told = attach.plan(aws, providers.wish_for(foreign, None), Terms())
    assert "until a person stops it" in told["guards"]["shutdown"]
    assert (told["guards"]["idle"], told["guards"]["outside"], told["after"]) == ("none", "none", "keep")
    told = attach.plan(aws, providers.wish_for(foreign, None), Terms(adopt=True))
    assert told["guards"]["idle"] == "none" and told["after"] == "terminate"

    lease = stood_up(at_home)
    ours = providers.wish_for(str(lease.instance), None)
    guards = attach.plan(aws, ours, Terms())["guards"]
    assert guards["shutdown"] == f"at {clock.iso(lease.until or 0.0)}, armed when it was made for a-run"
    assert guards["idle"] == "ended by a guard on it" and "has not been run here" in guards["outside"]
    setup.install(aws, quiet)
    assert attach.plan(aws, ours, Terms())["guards"]["outside"] == "none: no schedule was made for it"
    backed = stood_up(at_home, name="backed")
    guards = attach.plan(aws, providers.wish_for(str(backed.instance), None), Terms())["guards"]
    assert guards["outside"] == f"a schedule, at {clock.iso((backed.until or 0.0) + schedule.SLACK)}"


def test_a_price_is_kept_for_a_week_with_its_day(cloud: Cloud, at_home: Store) -> None:
    aws = api.connected(None)
    offer.look(aws, Terms(instance_types=TWO))
    before = cloud.names().count("pricing:GetProducts")
    offer.look(aws, Terms(instance_types=TWO))
    assert cloud.names().count("pricing:GetProducts") == before == 2
    cloud.clock.advance(8 * 86400)
    offer.look(aws, Terms(instance_types=TWO))
    assert cloud.names().count("pricing:GetProducts") == 4


def test_doctor_says_what_stands_in_the_way_and_what_to_do(cloud: Cloud, at_home: Store) -> None:
    found = {what: (level, said, todo) for what, level, said, todo in doctor.checks(Terms())}
    assert {what for what, (level, _, _) in found.items() if level != "ok"} == {"ec2emo setup"}
    cloud.deny("ec2:RunInstances", "ec2:CreateSecurityGroup", "pricing:*")
    cloud.quotas["L-DB2E81BA"] = 0
    shutil.rmtree(at_home.root / "keys")
    (at_home.root / "prices.json").unlink()
    found = {what: (level, said, todo) for what, level, said, todo in doctor.checks(Terms())}
    assert found["EC2 permissions"][0] == "fail"
    assert "ec2:RunInstances, ec2:CreateSecurityGroup" in found["EC2 permissions"][1]
    level, _, todo = found["EC2 quota on-demand"]
    assert level == "fail" and "L-DB2E81BA" in todo
    assert found["AWS prices"][0] == "warn"
    assert not [c.name for c in cloud.calls if c.changes and not c.parameters.get("DryRun")]


def test_without_credentials_one_line_says_so(at_home: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    api.connected.cache_clear()
    api._session.cache_clear()
    try:
        ((what, level, said, _),) = doctor.checks(Terms())
        assert (what, level) == ("AWS credentials", "fail") and "aws configure" in said
    finally:
        api._session.cache_clear()


def test_a_cap_below_what_a_start_takes_is_refused_at_once(cloud: Cloud, at_home: Store) -> None:
    with pytest.raises(CapReached, match=r"--max-cost 0\.01"):
        spending.cost(errand(at_home, Terms(max_cost=0.01)))
    with pytest.raises(CapReached, match=r"--max-hours 0\.1 is 6 minutes"):
        spending.cost(errand(at_home, Terms(max_hours=0.1), "another"))
    assert not [c.name for c in cloud.calls if c.changes]


def test_pins_of_a_machine_go_with_it(cloud: Cloud, at_home: Store) -> None:
    lease = stood_up(at_home)
    pins.write(str(lease.instance), "ssh-ed25519 AAAA")
    assert pins.read(lease.instance) == ("ssh-ed25519 AAAA",)
    lifecycle.terminate(at_home, "a-run", None)
    assert pins.read(lease.instance) == ()
