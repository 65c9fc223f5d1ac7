"""Sending a data set over a slow line, beside `rsync -a`, tar through ssh and `scp -r`; sending it again; and
bringing a file home.

    python -m benchmarks.transfer [--files N] [--kilobytes K] [--round-trip SECONDS] [--megabits M]
                                  [--rounds R] [--skip PROGRAM ...]

A real sshd behind a proxy that delays and paces. Files are .npz of random float32 numbers; `scp` asks for an
answer after every file, so its time is a number of round trips for each. First transfers take turns, R times,
each into a place where nothing is yet; `scp` comes once. All times include the connection. Needs what the
tests need: sshd, as root; what is not installed is left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from orchestrator import bundle, connect, data, remote
from orchestrator.machine import Machine
from orchestrator.store import Store
from tests.conftest import Box, make_box
from tests.links import Link, link
from tests.orchestrator.followed import through
from trainer.clips import Report


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=435)
    parser.add_argument("--kilobytes", type=int, default=100)
    parser.add_argument("--round-trip", type=float, default=0.04)
    parser.add_argument("--megabits", type=float, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--skip", nargs="*", default=[], choices=["scp", "rsync", "tar"])
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        features = _write(folder / "features", asked.files, asked.kilobytes * 1000)
        box = make_box(folder / "box")
        box.start()
        try:
            rate = asked.megabits * 1e6 / 8
            with link(box.port, delay=asked.round_trip / 2, rate=rate) as wire:
                os.environ["HOME"] = str(box.client_home)
                least = asked.files * asked.kilobytes * 1000 / rate
                print(
                    f"{asked.files} files of {asked.kilobytes} kB: {least:.1f} s at {asked.megabits} Mbit/s"
                )
                others = {
                    name: argv
                    for name, argv in OTHERS.items()
                    if name.split()[0] not in asked.skip and shutil.which(name.split()[0])
                }
                ours = _first(box, wire, folder, features, others, asked.rounds)
                _later(box, wire, folder, features, ours, rate)
        finally:
            box.stop()


def _first(box: Box, wire: Link, folder: Path, features: Path, others: dict[str, Other], rounds: int) -> Ours:
    """All ways in turn, then their means; answers ours, with the data there."""
    seconds: dict[str, list[float]] = {}
    for round_ in range(rounds):
        machine = dataclasses.replace(through(box, wire), root=f"{box.home}/.ec2emo-{round_}")
        ours = Ours(machine, Store(folder / f"home-{round_}"), features)
        seconds.setdefault("ec2emo", []).append(_timed("ec2emo, the first time", wire, ours.sync))
        for name, other in others.items():
            if name == "scp" and round_:
                continue
            there = box.folder / f"by-{name.replace(' ', '')}-{round_}"
            there.mkdir()
            argv = other(wire, features, there)
            seconds.setdefault(name, []).append(_timed(name, wire, lambda argv=argv: _run(argv)))
            shutil.rmtree(there)
    for name, all_ in seconds.items():
        mean = statistics.mean(all_)
        ratio = mean / statistics.mean(seconds["ec2emo"])
        print(f"{name}, mean of {len(all_)}: {mean:.2f} s, {ratio:.2f} times ours")
    return ours


def _later(box: Box, wire: Link, folder: Path, features: Path, ours: Ours, rate: float) -> None:
    """What comes after a first transfer."""
    ours.open()
    _timed("ec2emo, nothing changed", wire, ours.sync)
    _timed("  of it on an open connection", wire, ours.again)
    _change(features)
    _timed("ec2emo, one file changed", wire, ours.sync)
    model = folder / "model"
    model.write_bytes(os.urandom(int(4 * rate)))
    print(f"one file of {model.stat().st_size / 1e6:.0f} MB home: 4.0 s at least")
    home = _timed("ec2emo, on an open connection", wire, lambda: ours.get(model, folder / "home-of-ours"))
    seconds = _timed("scp", wire, lambda: _run(_scp(wire, model, folder / "home-of-scp")))
    print(f"  {seconds / home:.2f} times ours")
    ours.close()


class Ours:
    """What deploy does about data, by the code that does it; `open` comes before `again` and `get`."""

    def __init__(self, machine: Machine, store: Store, features: Path) -> None:
        self.machine, self.store, self.features = machine, store, features
        self.bundle = bundle.make()
        with connect.open_shell(machine) as shell:
            remote.send_code(shell, remote.probe(shell, machine, self.bundle), self.bundle)

    def open(self) -> None:
        """A connection that stays open."""
        self.shell = connect.open_shell(self.machine)

    def close(self) -> None:
        """End the connection that stays open."""
        self.shell.close()

    def sync(self) -> None:
        """From nothing but the folder's name."""
        opening = connect.Ahead(self.machine)
        report = data.look(self.features, self.store)
        with opening.shell() as shell:
            self._send(shell, report)

    def again(self) -> None:
        """On a connection that is there."""
        self._send(self.shell, data.look(self.features, self.store))

    def get(self, there: Path, here: Path) -> None:
        """A file, as `download` takes it."""
        with here.open("wb") as file:
            self.shell.get(str(there), 0, file)
        assert here.stat().st_size == there.stat().st_size

    def _send(self, shell: connect.Shell, report: Report) -> None:
        assert not report.skipped, report.skipped
        facts = remote.probe(shell, self.machine, self.bundle, report.fingerprint)
        code = remote.code_dir(facts, self.bundle)
        python = sys.executable
        remote.send_data(
            shell, facts, code, python, report.folder, report.fingerprint, report.used, lambda *_: None
        )


def _options() -> list[str]:
    ssh = Path(os.environ["HOME"]) / ".ssh"
    known = f"UserKnownHostsFile={ssh / 'known_hosts'}"
    return ["-F", "none", "-i", str(ssh / "id_ed25519"), "-o", "BatchMode=yes", "-o", known]


def _scp(wire: Link, there: Path, here: Path) -> list[str]:
    return ["scp", "-q", *_options(), "-P", str(wire.port), f"root@127.0.0.1:{there}", str(here)]


def _by_rsync(wire: Link, features: Path, there: Path, how: str = "-a") -> list[str]:
    return ["rsync", how, "-e", " ".join(_ssh(wire)), str(features), f"root@127.0.0.1:{there}"]


def _by_tar(wire: Link, features: Path, there: Path) -> list[str]:
    unpack = f"tar -xf - -C {there}"
    return ["sh", "-c", f"tar -cf - -C {features} . | {' '.join(_ssh(wire))} root@127.0.0.1 '{unpack}'"]


def _by_scp(wire: Link, features: Path, there: Path) -> list[str]:
    return ["scp", "-rq", *_options(), "-P", str(wire.port), str(features), f"root@127.0.0.1:{there}"]


Other = Callable[[Link, Path, Path], list[str]]
OTHERS: dict[str, Other] = {
    "rsync -a": _by_rsync,
    "rsync -az": partial(_by_rsync, how="-az"),
    "tar": _by_tar,
    "scp": _by_scp,
}


def _ssh(wire: Link) -> list[str]:
    return ["ssh", *_options(), "-p", str(wire.port)]


def _run(argv: list[str]) -> None:
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)


def _timed(what: str, wire: Link, act: Callable[[], None]) -> float:
    carried, began = wire.carried, time.perf_counter()
    act()
    seconds = time.perf_counter() - began
    print(f"{what:32} {seconds:8.2f} s   {(wire.carried - carried) / 1e6:8.2f} MB both ways", flush=True)
    return seconds


def _write(folder: Path, files: int, size: int) -> Path:
    folder.mkdir()
    numbers = np.random.default_rng(0)
    shape = (size // 4 // 96, 96)
    for i in range(files):
        features = numbers.standard_normal(shape, dtype=np.float32)
        np.savez(folder / f"clip-{i:05}.npz", features=features, emotion=("calm", "happy")[i % 2])
    return folder


def _change(folder: Path) -> None:
    first = min(folder.iterdir())
    np.savez(first, features=np.load(first)["features"] + 1, emotion="calm")


if __name__ == "__main__":
    main()
