"""From Enter to the trainer's first word and to the first epoch, on a host that has code, environment and
data already.

    python -m benchmarks.warm_deploy [--on WHERE] [--data FOLDER] [--runs N] [--ssh-config FILE]

Without `--on` the host is a real sshd on loopback, which needs what the tests need: sshd, as root. Deploys
once to make the host ready, then in turn: `ssh HOST python3 -c pass`, the least that any tool can do, and
`deploy --follow --json` of a tiny model, whose lines say when the laptop has seen `started` and the epoch.
Every run is stopped again. The run's own events say when each was written there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from orchestrator.store import Store
from tests.conftest import end_tmux, make_box
from trainer.contract import Dataset, Epoch, Started, decode

EC2EMO = [sys.executable, "-m", "orchestrator"]
TINY = ("--set", "units=4", "--set", "dense1=8", "--set", "dense2=8", "--epochs", "1000")


class Seconds(NamedTuple):
    """From Enter, by this clock: `started` and the first epoch, as seen here; what the trainer wrote when."""

    started: float
    epoch: float
    began: float
    data: float
    written: float


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--on")
    parser.add_argument("--data", default="demo")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--ssh-config", help="for the plain ssh, as with its -F")
    asked = parser.parse_args()
    with _host(asked.on) as (where, options):
        options += ["-F", asked.ssh_config] if asked.ssh_config else []
        _deploy(where, asked.data)
        pairs = [(_plain(where, options), _deploy(where, asked.data)) for _ in range(asked.runs)]
    _show("ssh HOST python3 -c pass", [plain for plain, _ in pairs])
    _show("deploy, up to `started`", [deploy.started for _, deploy in pairs])
    _show("  beyond the plain connection", [deploy.started - plain for plain, deploy in pairs])
    _show("deploy, up to the first epoch", [deploy.epoch for _, deploy in pairs])
    _show("  `started` to data and model", [deploy.data - deploy.began for _, deploy in pairs])
    _show("  from there to the epoch", [deploy.written - deploy.data for _, deploy in pairs])
    _show("  until it is seen here", [deploy.epoch - deploy.written for _, deploy in pairs])


def _show(what: str, seconds: list[float]) -> None:
    least, median = min(seconds), statistics.median(seconds)
    print(f"{what:32} {median:5.2f} s   (least {least:.2f} of {len(seconds)})")


@contextlib.contextmanager
def _host(where: str | None) -> Iterator[tuple[str, list[str]]]:
    """Where to deploy, and what plain ssh wants to get there; a loopback sshd where nothing is named."""
    if where:
        yield where, []
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        os.environ |= {"EC2EMO_HOME": str(folder / "home"), "TMUX_TMPDIR": place}
        box = make_box(folder / "box")
        box.start()
        try:
            os.environ["HOME"] = str(box.client_home)
            ssh = box.client_home / ".ssh"
            yield (
                box.where,
                ["-F", "none", "-i", f"{ssh}/id_ed25519", "-o", f"UserKnownHostsFile={ssh}/known_hosts"],
            )
        finally:
            end_tmux(box.folder / "tmux")
            box.stop()


def _plain(where: str, options: list[str]) -> float:
    parts = urlsplit(where)
    port = ["-p", str(parts.port)] if parts.port else []
    target = f"{parts.username}@{parts.hostname}" if parts.username else str(parts.hostname)
    argv = ["ssh", "-o", "BatchMode=yes", *port, *options, target, "python3 -c pass"]
    began = time.perf_counter()
    subprocess.run(argv, check=True)
    return time.perf_counter() - began


def _deploy(where: str, data: str) -> Seconds:
    argv = [*EC2EMO, "deploy", "v9_attention", "--on", where, "--data", data, *TINY, "--follow", "--json"]
    enter, started = time.time(), 0.0
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as deploy:
        assert deploy.stdout is not None
        for line in deploy.stdout:
            answer = json.loads(line)
            started = started or (time.time() if answer["state"] == "running" else 0.0)
            if answer["epoch"]:
                break
        epoch = time.time()
        deploy.terminate()
    subprocess.run([*EC2EMO, "stop", answer["run"], "--now"], stderr=subprocess.DEVNULL, check=True)
    events = [decode(line) for line in Store().dir(answer["run"]).events.read_bytes().splitlines()]
    written = [next(e.t for e in events if isinstance(e, kind)) for kind in (Started, Dataset, Epoch)]
    return Seconds(*(at - enter for at in (started, epoch, *written)))


if __name__ == "__main__":
    main()
