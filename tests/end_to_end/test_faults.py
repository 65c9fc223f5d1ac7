"""What dies in the middle: the connection, ec2emo itself, the disk, and two commands at once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import disks
from tests.conftest import Box, Ec2emo, end_runs, end_tmux, eventually
from tests.end_to_end.conftest import TINY, Place

# Ends itself with SIGKILL at the N-th thing it writes, renames, makes or starts.
KILLED_AT = """
import os, signal, sys
left = int(sys.argv.pop(1))
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
def hook(event, args):
    global left
    if event == "open":
        counts = isinstance(args[2], int) and args[2] & WRITES and ".pyc" not in str(args[0])
    else:
        counts = event in ("os.rename", "os.mkdir", "os.remove", "subprocess.Popen")
    if counts:
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
from orchestrator import cli
sys.addaudithook(hook)
cli.main()
"""


def launched(place: Place, run: str) -> list[int]:
    return [e["attempt"] for e in place.events(run, "started")]


@pytest.mark.parametrize("what", ["attempts/1.json", "process.json", "spec.json"])
def test_a_connection_cut_right_after_the_launch_leaves_one_run(
    own_place: tuple[Place, Box], what: str
) -> None:
    place, box = own_place
    deploying = place.ec2emo.start(
        *("deploy", "v9_attention", "--on", place.where, "--data", str(place.data), "--name", "cut", *TINY),
        *("--epochs", "4000"),
    )
    eventually((place.dir("cut") / what).exists)
    box.stop()
    _, err = deploying.communicate(timeout=300)
    assert "Traceback" not in err
    assert deploying.returncode in (0, 6), err
    assert place.ec2emo("monitor", "cut", code=6).err
    box.start()
    place.ec2emo("resume", "cut", code=None)
    eventually(lambda: place.see("cut")["state"] == "running")
    assert place.see("cut", code=0)["attempt"] == 1
    assert launched(place, "cut") == [1]
    place.ec2emo("stop", "cut", "--now")


def _kill_points(count: int) -> list[object]:
    sample = set(random.Random(4).sample(range(count), 6))
    return [n if n in sample else pytest.param(n, marks=pytest.mark.slow) for n in range(count)]


@pytest.mark.parametrize("point", _kill_points(40))
def test_deploy_killed_at_any_write_is_repeated_or_found_started(
    ec2emo: Ec2emo, data: Path, point: int
) -> None:
    place = Place("local", ec2emo, ec2emo.home / "machine", data)
    deploy = ["deploy", "v9_attention", "--on", "local", "--data", str(data), "--name", "once", *TINY]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_AT, str(point), *deploy],
        cwd=ec2emo.cwd,
        env=ec2emo.env,
        capture_output=True,
        check=False,
    )
    assert killed.returncode in (-signal.SIGKILL, 0), killed.stderr
    known = [json.loads(line)["run"] for line in ec2emo("runs", "--json").out.splitlines()]
    if known:
        again = ec2emo("resume", "once", code=None)
        assert again.code == 0 or "is running" in again.err, again.err
    else:
        ec2emo(*deploy)
    eventually(lambda: launched(place, "once") == [1])
    assert [p.name for p in (place.dir("once") / "attempts").iterdir()] == ["1.json"]
    ec2emo("stop", "once", "--now")


COMMANDS = {
    "deploy": ("deploy", "v9_attention", "--on", "local", "--data", "demo", "--name", "interrupted"),
    "deploy and follow": ("deploy", "v9_attention", "--on", "local", "--data", "demo", "--follow"),
    "monitor": ("monitor", "alive", "--follow"),
    "monitor json": ("monitor", "alive", "--follow", "--json"),
    "log": ("monitor", "alive", "--follow", "--log"),
    "download": ("download", "alive", "--best"),
    "stop": ("stop", "alive"),
    "resume": ("resume", "ended", "--epochs", "30", "--follow"),
    "runs": ("runs",),
    "machines": ("machines",),
    "doctor": ("doctor",),
    "data": ("data", "check", "demo"),
    "recipes": ("recipes",),
    "init": ("init", "--on", "local"),
}


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Iterator[Ec2emo]:
    """One run that lives and one that was stopped."""
    folder = tmp_path_factory.mktemp("two-runs")
    (folder / "project").mkdir()
    env = {**os.environ, "EC2EMO_HOME": str(folder / "home"), "TMUX_TMPDIR": str(folder), "NO_COLOR": "1"}
    env.pop("TMUX", None)
    program = Ec2emo(folder / "project", env)
    place = Place("local", program, folder / "home" / "machine", data)
    for name in ("ended", "alive"):
        place.deploy(name=name, epochs=4000, code=0)
        place.await_checkpoint(name, 1)
        if name == "ended":
            program("stop", "ended")
    yield program
    for process in program.started:
        process.kill()
        process.communicate()
    end_runs(folder / "home" / "machine" / "runs")
    end_tmux(folder)


@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_ends_a_command_with_a_sentence_and_nothing_else(two_runs: Ec2emo, command: str) -> None:
    for wait in (0.25, 0.8):
        process = two_runs.start(*COMMANDS[command])
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=300)
        assert "Traceback" not in err, err
        assert process.returncode in (0, 1, 2, 130, -signal.SIGINT), err
        if process.returncode == 130:
            # Silent only when it was interrupted before it had done or said anything.
            assert not err or "goes on" in err or "interrupted" in err
    two_runs("runs")


def test_a_ctrl_c_that_python_cannot_raise_where_it_comes_is_not_lost() -> None:
    program = """
import time
from orchestrator import __main__, cli
class Dying:
    def __del__(self):
        raise KeyboardInterrupt
def work():
    Dying()
    time.sleep(60)
cli.main = work
try:
    __main__.main()
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert (done.stdout, done.stderr) == ("interrupted\n", "")


def test_of_two_deploys_of_one_name_one_wins(ec2emo: Ec2emo, data: Path) -> None:
    place = Place("local", ec2emo, ec2emo.home / "machine", data)
    argv = ("deploy", "v9_attention", "--on", "local", "--data", str(data), "--name", "twin", *TINY)
    both = [ec2emo.start(*argv) for _ in range(4)]
    ends = [(p.communicate(timeout=300)[1], p.returncode) for p in both]
    assert sorted(code for _, code in ends) == [0, 2, 2, 2], ends
    assert all("already" in err for err, code in ends if code == 2)
    eventually(lambda: launched(place, "twin") == [1])
    ec2emo("stop", "twin", "--now")


def test_of_two_resumes_at_once_one_wins(ec2emo: Ec2emo, data: Path) -> None:
    place = Place("local", ec2emo, ec2emo.home / "machine", data)
    place.deploy(name="again", epochs=4000)
    place.await_checkpoint("again", 1)
    ec2emo("stop", "again", "--now")
    both = [ec2emo.start("resume", "again") for _ in range(3)]
    ends = [(p.communicate(timeout=300)[1], p.returncode) for p in both]
    assert sorted(code for _, code in ends) == [0, 2, 2], ends
    assert launched(place, "again") == [1, 2]
    ec2emo("stop", "again", "--now")


def test_two_downloads_at_once_leave_one_whole_set(two_runs: Ec2emo) -> None:
    both = [two_runs.start("download", "ended", "--best", "--json") for _ in range(3)]
    ends = [(*p.communicate(timeout=300), p.returncode) for p in both]
    assert all(code in (0, 2) for *_, code in ends), ends
    assert any(code == 0 for *_, code in ends)
    assert "verified" in two_runs("download", "ended", "--best").err


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disks.small_disk(tmp_path / "disk", kilobytes=64) as disk:
        yield disk


def test_a_full_disk_at_home_is_a_sentence_and_later_the_same_command_works(
    small_disk: Path, ec2emo: Ec2emo, data: Path
) -> None:
    ec2emo.env["EC2EMO_HOME"] = str(small_disk)
    disks.fill(small_disk)
    argv = ("deploy", "v9_attention", "--on", "local", "--data", str(data), "--name", "tight", *TINY)
    refused = ec2emo(*argv, code=2)
    assert "No space left" in refused.err
    disks.grow(small_disk, "200m")
    again = ec2emo(*argv, code=None)
    if again.code != 0:
        assert "already" in again.err
        ec2emo("resume", "tight")
    ec2emo("stop", "tight", "--now")
    end_runs(small_disk / "machine" / "runs")


def test_a_full_disk_on_the_machine_fails_the_run_by_name_and_leaves_the_best(
    small_disk: Path, ec2emo: Ec2emo, data: Path
) -> None:
    disks.grow(small_disk, "2m")
    place = Place("local", ec2emo, ec2emo.home / "machine", data)
    place.root.mkdir(parents=True)
    (place.root / "runs").symlink_to(small_disk)
    place.deploy(name="cramped", epochs=4000)
    place.await_checkpoint("cramped", 1)
    ballast = disks.fill(small_disk)
    eventually(lambda: place.see("cramped")["state"] == "failed")
    assert "no space left" in place.see("cramped", code=1)["error"].lower()
    ballast.unlink()
    ec2emo("download", "cramped", "--best")
    told = place.events("cramped", "epoch")[-1]["epoch"]
    ec2emo("resume", "cramped")
    place.await_epoch("cramped", told)
    ec2emo("stop", "cramped", "--now")
