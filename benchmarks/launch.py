"""What a launch on EC2 asks of AWS, and how long it takes from Enter to the trainer's first word.

    python -m benchmarks.launch [--launches N] [--boot SECONDS]

On the cloud of the tests: moto's API, and instances that boot and answer over a real sshd, whose disks have
the environment already. `--boot` is how long an instance is pending, which on EC2 is some tens of seconds.
Needs what the tests need: sshd, namespaces, as root.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.cloud.cloud import Cloud
from tests.cloud.image import Image
from tests.cloud.moto import Moto
from tests.conftest import end_tmux, make_box

EC2EMO = [sys.executable, "-m", "orchestrator"]
TINY = ("--set", "units=4", "--set", "dense1=8", "--set", "dense2=8", "--data", "demo", "--epochs", "1000")


@dataclass(frozen=True)
class Launch:
    """Seconds from the command to the request for a machine, from there to the first contact, from there to
    `started`; and the calls of AWS by their names.
    """

    asked: float
    booted: float
    begun: float
    calls: Counter[str]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--launches", type=int, default=3)
    parser.add_argument("--boot", type=float, default=0.1, help="seconds that an instance is pending")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, _cloud(Path(place)) as cloud:
        cloud.instances.delays.pending = asked.boot
        launches = [_launch(cloud, f"launch-{n}") for n in range(asked.launches)]
    for title, one in (("first, nothing remembered", launches[0]), ("last", launches[-1])):
        _show(title, one)


def _show(title: str, launch: Launch) -> None:
    total = launch.asked + launch.booted + launch.begun
    print(f"{title}: {launch.calls.total()} calls, {total:.1f} s to `started`")
    print(f"  {launch.asked:5.1f} s  until a machine is asked for")
    print(f"  {launch.booted:5.1f} s  until it is reached and has a host key of its own")
    print(f"  {launch.begun:5.1f} s  until the trainer's first word")
    for name, count in sorted(launch.calls.items()):
        print(f"  {count:5}    {name}")


def _launch(cloud: Cloud, name: str) -> Launch:
    """One deploy, up to the answer of the command; the machine is ended again."""
    before, began = len(cloud.calls), time.time()
    _ec2emo("deploy", "v9_attention", "--on", "ec2", "--name", name, *TINY, "--yes", "--allow-cpu", "--json")
    started = time.time()
    calls = Counter(cloud.names()[before:])
    home = Path(os.environ["EC2EMO_HOME"])
    lease = json.loads((home / "runs" / name / "lease.json").read_text())
    _ec2emo("machines", "terminate", name, "--yes")
    asked, reached = lease["calls"][0]["at"], lease["reached"]
    return Launch(asked - began, reached - asked, started - reached, calls)


def _ec2emo(*argv: str) -> None:
    subprocess.run([*EC2EMO, *argv], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)


@contextlib.contextmanager
def _cloud(folder: Path) -> Iterator[Cloud]:
    """An account, with a disk on which the environment lies; it is in the environment of what is started."""
    os.environ |= {"EC2EMO_HOME": str(folder / "home"), "TMUX_TMPDIR": str(folder)}
    box = make_box(folder / "box")
    box.start()
    moto = Moto(folder / "moto")
    try:
        os.environ["HOME"] = str(box.client_home)
        _ec2emo("deploy", "v9_attention", "--on", box.where, "--name", "makes-it", *TINY)
        _ec2emo("stop", "makes-it", "--now")
        moto.ready()
        image = Image(folder / "image")
        image.mount(box.home / ".ec2emo" / "env", "/home/ubuntu/.ec2emo/env")
        cloud = Cloud(moto, image, folder / "cloud")
        os.environ |= {**cloud.environment, "EC2EMO_ADDRESS_SERVICE": cloud.address_url}
        yield cloud
        cloud.close()
    finally:
        moto.stop()
        end_tmux(box.folder / "tmux")
        box.stop()


if __name__ == "__main__":
    main()
