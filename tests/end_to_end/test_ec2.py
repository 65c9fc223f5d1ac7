"""The main job on a machine that is made for it: from the wish to the bill, on a test cloud that boots."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.conftest import Ec2emo, eventually
from tests.end_to_end.conftest import TINY
from tests.orchestrator.ec2.conftest import user_data

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud

TWO = ("--instance-type", "g4dn.xlarge", "--instance-type", "g5.xlarge")


def deploy(renting: Ec2emo, data: Path, *options: str, name: str, code: int | None = 0) -> Any:
    chosen = ("--on", "ec2", "--data", str(data), "--name", name, "--epochs", "2", "--yes", "--allow-cpu")
    return renting("deploy", "v9_attention", *chosen, *TWO, *TINY, *options, code=code)


def rows(renting: Ec2emo, *argv: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in renting(*argv, "--json").out.splitlines()]


def test_deploy_follow_download_and_the_machine_is_gone(cloud: Cloud, renting: Ec2emo, data: Path) -> None:
    deploy(renting, data, "--follow", name="story")
    seen = json.loads(renting("monitor", "story", "--json").out)
    assert (seen["state"], seen["epoch"]) == ("finished", 2)
    (instance,) = cloud.living()
    assert seen["machine"] == instance.id

    (row,) = rows(renting, "machines")
    assert (row["machine"], row["run"], row["state"]) == (instance.id, "story", "running")
    assert row["cost_usd_per_hour"] > 0.526 and row["cost_usd"] > 0 and row["until"]
    acts = {(f["kind"], f["act"]) for f in rows(renting, "gc")}
    assert acts == {("machine", "keep"), ("group", "keep"), ("key", "keep")}

    # The host key in the user data is no longer the machine's, and lies nowhere at home.
    pinned = (renting.home / "known_hosts" / instance.id).read_text().split()[2]
    assert pinned not in user_data(cloud, instance.id)
    assert pinned in (instance.machine.root / "etc/ssh/ssh_host_ed25519_key.pub").read_text()
    assert not (renting.home / "runs" / "story" / ".host-key").exists()
    assert (renting.home / "keys" / "id_ed25519").stat().st_mode & 0o777 == 0o600

    done = renting("download", "story", "--best")
    assert f"{instance.id} is terminated (g4dn.xlarge for" in done.err and "about $0.0" in done.err
    assert (renting.cwd / "models" / "story" / "manifest.json").exists()
    assert cloud.living() == []
    again = renting("download", "story", "--best", code=None)
    assert again.code in (1, 6) and "terminated" in again.err
    renting("gc", "--yes")
    assert cloud.leftovers() == []
    refused = renting("resume", "story", "--epochs", "1", "--yes", code=2)
    assert "has ended" in refused.err


def test_a_man_in_the_middle_is_refused_before_anything_is_sent(
    cloud: Cloud, renting: Ec2emo, data: Path
) -> None:
    deploy(renting, data, name="watched")
    (instance,) = cloud.living()
    cloud.impersonate(instance)
    before = (instance.machine.root / "var/log/auth.log").read_text().count("Accepted")
    refused = renting("monitor", "watched", code=5)
    assert "does not show the host key it was given" in refused.err
    assert (instance.machine.root / "var/log/auth.log").read_text().count("Accepted") == before


def test_a_machine_that_nobody_can_reach_is_out_of_contact_and_not_failed(
    cloud: Cloud, renting: Ec2emo, data: Path
) -> None:
    deploy(renting, data, name="moved")
    (instance,) = cloud.living()
    cloud.caller = "203.0.113.77"  # as in a café: the rule names the old address
    seen = json.loads(renting("monitor", "moved", "--json").out)
    assert seen["state"] in ("running", "finished")
    assert cloud.names()[-1] != "ec2:CreateFleet" and len(cloud.living()) == 1
    renting("machines", "terminate", instance.id, "--yes")
    gone = renting("monitor", "moved", code=None)
    assert "terminated" in gone.out + gone.err


def test_ctrl_c_before_the_start_gives_the_machine_back(cloud: Cloud, renting: Ec2emo, data: Path) -> None:
    cloud.instances.delays.pending = 3600.0
    process = renting.start(
        *("deploy", "v9_attention", "--on", "ec2", "--data", str(data), "--name", "off", "--yes"), *TWO, *TINY
    )
    eventually(lambda: cloud.names().count("ec2:DescribeInstances") > 2)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert cloud.living() == []
    renting("gc", "--yes")
    assert cloud.leftovers() == []
