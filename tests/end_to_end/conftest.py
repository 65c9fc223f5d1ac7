"""Places to train: this machine, and a machine reached by a real sshd whose environment is made once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.conftest import Box, Ec2emo, end_runs, eventually
from trainer.clips import demo

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud

# A small model, and no run ends of itself before its last epoch, however long others take to look at it.
TINY = (
    *("--set", "units=4", "--set", "dense1=8", "--set", "dense2=8", "--batch-size", "8"),
    *("--set", "patience=4000"),
)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few of the synthetic clips: enough to train on in a blink, speakers known."""
    whole = demo.write(tmp_path_factory.mktemp("demo"))
    some = tmp_path_factory.mktemp("some")
    for path in sorted(whole.rglob("*.npz"))[::4]:
        (some / path.name).write_bytes(path.read_bytes())
    return some


@dataclass
class Place:
    """Where a test trains, and the program it trains with."""

    where: str
    ec2emo: Ec2emo
    root: Path
    data: Path

    def deploy(self, *options: str, name: str, epochs: int = 3, code: int | None = 0) -> None:
        chosen = ("--on", self.where, "--data", str(self.data), "--name", name, "--epochs", str(epochs))
        self.ec2emo("deploy", "v9_attention", *chosen, *TINY, *options, code=code)

    def see(self, run: str, code: int | None = None) -> dict[str, Any]:
        seen: dict[str, Any] = json.loads(self.ec2emo("monitor", run, "--json", code=code).out)
        return seen

    def dir(self, run: str) -> Path:
        """The run folder on the machine."""
        return self.root / "runs" / run

    def events(self, run: str, kind: str) -> list[dict[str, Any]]:
        return [e for e in _lines(self.dir(run) / "events.jsonl") if e["type"] == kind]

    def process(self, run: str) -> dict[str, Any]:
        process: dict[str, Any] = json.loads((self.dir(run) / "process.json").read_text())
        return process

    def await_epoch(self, run: str, epoch: int) -> None:
        eventually(lambda: [e for e in self.events(run, "epoch") if e["epoch"] >= epoch])

    def await_checkpoint(self, run: str, epoch: int) -> None:
        """Of this epoch or a later one: only the last two are kept."""
        folder = self.dir(run) / "checkpoints"
        eventually(lambda: any(int(p.name[-4:]) >= epoch for p in folder.glob("epoch-[0-9][0-9][0-9][0-9]")))

    def kill(self, run: str, *who: str) -> None:
        process = self.process(run)
        for each in who:
            os.kill(process[each], signal.SIGKILL)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            body = json.loads(line)
        except ValueError:
            continue
        if isinstance(body, dict) and "type" in body:
            yield body


def _mostly(often: str, seldom: str) -> pytest.MarkDecorator:
    """Both places under `--all`, one of them else."""
    return pytest.mark.parametrize(
        "place", [often, pytest.param(seldom, marks=pytest.mark.slow)], indirect=True
    )


mostly_over_ssh = _mostly("ssh", "local")
mostly_here = _mostly("local", "ssh")


@pytest.fixture(params=["local", "ssh"])
def place(request: pytest.FixtureRequest, ec2emo: Ec2emo, data: Path) -> Iterator[Place]:
    """The same tests on this machine and over SSH."""
    if request.param == "local":
        yield Place("local", ec2emo, ec2emo.home / "machine", data)
        return
    box: Box = request.getfixturevalue("box")
    ec2emo.env["HOME"] = str(box.client_home)
    yield Place(box.where, ec2emo, box.home / ".ec2emo", data)
    end_runs(box.home / ".ec2emo" / "runs")
    shutil.rmtree(box.home / ".ec2emo" / "runs", ignore_errors=True)


@pytest.fixture
def own_place(own_box: Box, box: Box, ec2emo: Ec2emo, data: Path) -> Iterator[tuple[Place, Box]]:
    """A machine of its own, which borrows the environment of the shared one."""
    ec2emo.env["HOME"] = str(box.client_home)
    shared = Place(box.where, ec2emo, box.home / ".ec2emo", data)
    if not any((shared.root / "env").glob("*/.ready")):
        shared.deploy("--follow", name="makes-the-environment", epochs=1)
    root = own_box.home / ".ec2emo"
    root.mkdir()
    (root / "env").symlink_to(shared.root / "env")
    ec2emo.env["HOME"] = str(own_box.client_home)
    yield Place(own_box.where, ec2emo, root, data), own_box
    end_runs(root / "runs")


@pytest.fixture
def renting(cloud: Cloud, box: Box, ec2emo: Ec2emo, data: Path) -> Iterator[Ec2emo]:
    """The program on the test cloud, on whose disks the environment lies, made once for all tests."""
    environments = box.home / ".ec2emo" / "env"
    if not any(environments.glob("*/.ready")):
        ec2emo.env["HOME"] = str(box.client_home)
        shared = Place(box.where, ec2emo, box.home / ".ec2emo", data)
        shared.deploy("--follow", name="makes-the-environment", epochs=1)
    cloud.image.mount(environments, "/home/ubuntu/.ec2emo/env")
    ec2emo.env.update({**cloud.environment, "EC2EMO_ADDRESS_SERVICE": cloud.address_url})
    ec2emo.env["EC2EMO_HOME"] = str(ec2emo.cwd.parent / "renting-home")
    yield ec2emo


def in_fresh_python(program: str, *argv: str) -> str:
    """What a program of the user's prints, in a process that has not seen ours."""
    import sys

    done = subprocess.run(
        [sys.executable, "-c", program, *argv],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def same_array(one: Path, other: Path) -> bool:
    return np.array_equal(np.load(one), np.load(other))
