"""A machine of the test cloud is taken away, or its time is over, and the run goes on from its copy in S3."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from remote_env import mirror
from tests.conftest import Ec2emo, eventually
from tests.end_to_end.conftest import TINY

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud
    from tests.cloud.instances import Instance

ROOT = Path(__file__).parents[2]


@pytest.fixture
def backed(cloud: Cloud, renting: Ec2emo) -> Ec2emo:
    """With a bucket that runs are mirrored to, and no more rights than docs/aws-policy.json gives."""
    renting("setup", "--yes")
    cloud.enforce(json.loads((ROOT / "docs" / "aws-policy.json").read_text()))
    return renting


def deploy(ec2emo: Ec2emo, data: Path, name: str, *options: str, epochs: int) -> None:
    chosen = ("--on", "ec2", "--data", str(data), "--name", name, "--epochs", str(epochs), "--yes")
    types = ("--instance-type", "g4dn.xlarge", "--instance-type", "g5.xlarge")
    ec2emo("deploy", "v9_attention", *chosen, *types, *TINY, "--allow-cpu", *options)


def the_machine(cloud: Cloud) -> Instance:
    (instance,) = cloud.living()
    return instance


def see(ec2emo: Ec2emo, run: str, code: int | None = None) -> dict[str, Any]:
    seen: dict[str, Any] = json.loads(ec2emo("monitor", run, "--json", code=code).out)
    return seen


def index(cloud: Cloud, run: str) -> dict[str, Any]:
    s3 = cloud.moto.client("s3", cloud.region)
    (bucket,) = [b["Name"] for b in s3.list_buckets()["Buckets"]]
    try:
        body = s3.get_object(Bucket=bucket, Key=f"runs/{run}/index.json")["Body"].read()
    except s3.exceptions.NoSuchKey:
        return {}
    found: dict[str, Any] = json.loads(body)
    return found


def mirrored_epoch(cloud: Cloud, run: str) -> int:
    """The last epoch whose checkpoint is in the copy."""
    paths = index(cloud, run).get("files", {})
    return max([int(p.split("/")[1][-4:]) for p in paths if p.startswith("checkpoints/")], default=0)


def test_a_spot_machine_is_taken_back_and_the_run_goes_on_on_another(
    cloud: Cloud, backed: Ec2emo, data: Path
) -> None:
    deploy(backed, data, "spot", "--spot", epochs=2000)
    first = the_machine(cloud)
    assert first.pool.market == "spot"
    eventually(lambda: mirrored_epoch(cloud, "spot") >= 2)
    began = time.monotonic()
    cloud.notice(first)
    eventually(lambda: index(cloud, "spot")["over"])
    saved_within = time.monotonic() - began
    assert saved_within < 100, "of the two minutes"
    reached = mirrored_epoch(cloud, "spot")

    seen = see(backed, "spot", code=7)
    assert (seen["state"], seen["next"]) == ("interrupted", "ec2emo resume spot")
    assert "AWS takes the spot machine back" in seen["reason"]
    cloud.clock.advance(130)
    eventually(lambda: not cloud.living())

    seen = see(backed, "spot", code=7)
    assert (seen["state"], seen["epoch"]) == ("interrupted", reached)
    got = json.loads(backed("download", "spot", "--best", "--json").out)
    assert got["epoch"] <= reached
    assert (backed.cwd / "models" / "spot" / "best_v9.weights.h5").exists()

    backed("resume", "spot", "--epochs", "3", "--yes", "--json")
    second = the_machine(cloud)
    assert second.id != first.id
    last = backed("monitor", "spot", "--follow", "--json").out.splitlines()[-1]
    ended = json.loads(last)
    assert (ended["state"], ended["attempt"]) == ("finished", 2)
    assert ended["epoch"] == reached + 3  # not one epoch was lost
    assert ended["best"]["val_accuracy"] >= got["val_accuracy"]


@pytest.mark.slow
def test_without_a_notice_no_more_is_lost_than_since_the_last_copy(
    cloud: Cloud, backed: Ec2emo, data: Path
) -> None:
    deploy(backed, data, "gone", "--spot", epochs=2000)
    eventually(lambda: mirrored_epoch(cloud, "gone") >= 1)
    first = the_machine(cloud)
    cloud.reclaim(first)
    eventually(lambda: not cloud.living())
    kept = mirrored_epoch(cloud, "gone")
    assert see(backed, "gone", code=7)["state"] == "interrupted"
    backed("resume", "gone", "--epochs", "1", "--yes")
    ended = json.loads(backed("monitor", "gone", "--follow", "--json").out.splitlines()[-1])
    assert (ended["state"], ended["epoch"], ended["attempt"]) == ("finished", kept + 1, 2)
    assert mirror.EVERY <= 15


@pytest.mark.slow
def test_following_with_auto_resume_takes_another_machine_by_itself(
    cloud: Cloud, backed: Ec2emo, data: Path
) -> None:
    deploy(backed, data, "again", "--spot", epochs=2000)
    follower = backed.start("monitor", "again", "--follow", "--auto-resume", "--json")
    eventually(lambda: mirrored_epoch(cloud, "again") >= 2)
    first = the_machine(cloud)
    cloud.notice(first)
    eventually(lambda: index(cloud, "again")["attempt"] == 2)
    assert [i.id for i in cloud.living() if i.id != first.id]
    backed("stop", "again")
    out, _ = follower.communicate(timeout=120)
    ended = json.loads(out.splitlines()[-1])
    assert (ended["state"], ended["attempt"]) == ("stopped", 2)


def lower(machine: Instance, cap: str, least: float, hourly: str | None = None) -> None:
    """Bring a cap down to what is used up within a minute: as it was asked for it would take half an hour."""
    folder = machine.machine.root / "home/ubuntu/.ec2emo/guard"
    config = json.loads((folder / "guard.json").read_text())
    assert config[cap] >= least
    booted = json.loads((folder / "state.json").read_text())["since"]
    minutes = (time.time() + 60 - booted) / 60
    lowered = minutes if hourly is None else minutes / 60 * config[hourly]
    (folder / ".new").write_text(json.dumps({**config, cap: lowered}))
    (folder / ".new").rename(folder / "guard.json")


@pytest.mark.slow
def test_a_limit_on_time_that_nobody_watches_saves_the_run_and_ends_the_machine(
    cloud: Cloud, backed: Ec2emo, data: Path
) -> None:
    deploy(backed, data, "capped", "--max-hours", "0.5", epochs=5000)
    machine = the_machine(cloud)
    eventually(lambda: mirrored_epoch(cloud, "capped") >= 1)
    lower(machine, "ttl_minutes", least=30)
    eventually(lambda: not cloud.living(), patience=180)
    assert cloud.schedules.fired == []
    seen = see(backed, "capped", code=9)
    assert seen["state"] == "capped" and seen["reason"].startswith("the limit of ")
    assert mirrored_epoch(cloud, "capped") == seen["epoch"] > 0
    got = json.loads(backed("download", "capped", "--best", "--json").out)
    assert 0 < got["epoch"] <= seen["epoch"]
    assert (backed.cwd / "models" / "capped" / "best_v9.weights.h5").exists()
    backed("gc", "--yes")
    assert cloud.leftovers() == []


@pytest.mark.slow
def test_a_cap_on_cost_that_nobody_watches_stops_a_machine_that_holds_the_only_copy(
    cloud: Cloud, renting: Ec2emo, data: Path
) -> None:
    deploy(renting, data, "costly", "--max-cost", "0.5", epochs=5000)
    machine = the_machine(cloud)
    run = machine.machine.root / "home/ubuntu/.ec2emo/runs/costly"
    eventually(lambda: list(run.glob("artifacts/best-*")))
    lower(machine, "max_cost_usd", least=0.5, hourly="usd_per_hour")
    eventually(lambda: machine.state == "stopped", patience=180)

    (row,) = [json.loads(line) for line in renting("machines", "--json").out.splitlines()]
    assert (row["state"], row["run"]) == ("stopped", "costly")
    renting("machines", "start", "costly", "--yes")
    seen = see(renting, "costly", code=9)
    assert seen["state"] == "capped" and seen["reason"].endswith("USD is reached")
    got = json.loads(renting("download", "costly", "--best", "--json").out)
    assert 0 < got["epoch"] <= seen["epoch"]
    assert (renting.cwd / "models" / "costly" / "best_v9.weights.h5").exists()
    assert cloud.living() == []
