"""The script of a machine's first boot, as it is rendered."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import bundle
from orchestrator.providers.ec2.userdata import MOST_BYTES, Boot, limits, render

GOLDEN = Path(__file__).parent / "first-boot.sh"
GUARD = bundle.make().files["remote_env/guard.py"].decode().strip()
KEY = "OPENSSH PRIVATE KEY-----"
PRIVATE = f"-----BEGIN {KEY}\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU=\n-----END {KEY}\n"
PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHost"
BOOT = Boot(
    run="v9-0611-1420-abc",
    owner="arn:aws:iam::123456789012:user/o'brien",
    host_key_private=PRIVATE,
    host_key_public=PUBLIC,
    authorized_key="ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIUser ec2emo",
    user="ubuntu",
    ttl_minutes=720,
    after="terminate",
    idle_minutes=30,
    max_cost_usd=None,
    usd_per_hour=0.526,
    region="eu-central-1",
    bucket="ec2emo-models",
    prefix="runs",
)


def test_it_is_rendered_as_written_down() -> None:
    assert render(BOOT).replace(GUARD, "the guard") == GOLDEN.read_text()


def test_shellcheck_finds_nothing(tmp_path: Path) -> None:
    script = tmp_path / "first-boot.sh"
    script.write_text(render(BOOT))
    shellcheck = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([shellcheck, script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_its_first_act_is_to_arm_the_end() -> None:
    lines = [line for line in render(BOOT).splitlines() if line and not line.startswith("#")]
    assert lines[0] == "shutdown -h +720"


@pytest.mark.parametrize(
    ("cost", "price", "minutes"), [(None, None, 720), (1.0, 0.5, 120), (1.0, 0.7, 85), (100.0, 0.5, 720)]
)
def test_the_cap_on_cost_is_in_the_first_act(cost: float | None, price: float | None, minutes: int) -> None:
    boot = dataclasses.replace(BOOT, max_cost_usd=cost, usd_per_hour=price)
    assert f"\nshutdown -h +{minutes}\n" in render(boot)


def test_its_only_secret_is_the_temporary_host_key() -> None:
    script = render(BOOT)
    assert script.count("PRIVATE KEY") == 2
    for word in ("AKIA", "aws_secret", "AWS_SECRET", "token=", "password"):
        assert word not in script


def test_there_is_room_left_in_what_ec2_takes() -> None:
    longest = dataclasses.replace(BOOT, run="r" * 63, owner="o" * 512, bucket="b" * 63, prefix="p" * 200)
    assert len(render(longest).encode()) < MOST_BYTES - 512


@pytest.mark.parametrize(
    "wrong",
    [
        {"run": "a'; touch pwned; '"},
        {"user": "root; reboot"},
        {"user": "$(reboot)"},
        {"authorized_key": "ssh-ed25519 AAAA x\nEC2EMO_EOF\nreboot"},
        {"authorized_key": "ssh-ed25519 AAAA it's"},
        {"host_key_public": 'command="x" ssh-ed25519 AAAA'},
        {"host_key_private": "-----BEGIN X-----\nEC2EMO_EOF\nreboot\n-----END X-----"},
        {"bucket": "a b"},
        {"prefix": ""},
        {"region": "x`id`"},
        {"max_cost_usd": 1.0, "usd_per_hour": None},
    ],
)
def test_what_must_not_reach_a_root_shell_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"not|needs"):
        dataclasses.replace(BOOT, **wrong)  # type: ignore[arg-type]


def test_the_guard_is_told_the_limits_and_no_key() -> None:
    told = json.loads(limits(BOOT))
    assert told["owner"] == BOOT.owner
    assert (told["ttl_minutes"], told["since"]) == (720, None)
    assert "PRIVATE" not in limits(BOOT).decode()
    assert PUBLIC not in limits(BOOT).decode()
    assert json.loads(limits(BOOT, since=5.0))["since"] == 5.0
