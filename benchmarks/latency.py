"""From the moment an epoch is written on a machine until it is on the screen, at a round trip of 40 ms.

    python -m benchmarks.latency [--epochs N] [--every SECONDS] [--round-trip SECONDS]

A real sshd behind a proxy that delays. A program appends an epoch a second to a run's events; beside each
other `ec2emo monitor --follow` on a terminal and the least that any tool can do, `ssh HOST tail -f`, show it.
Needs what the tests need: sshd, as root.
"""

from __future__ import annotations

import argparse
import os
import pty
import re
import select
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.conftest import end_tmux, eventually, make_box
from tests.links import link
from tests.orchestrator.followed import There, end, through

WRITER = """
import json
events = os.open(run / "events.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def say(**body):
    os.write(events, json.dumps({"t": time.time(), **body}).encode() + b"\\n")
say(type="started", attempt=1, first_epoch=1, epochs=9999, recipe="v9_attention")
n = 0
while not (run / "enough").exists():
    n += 1
    say(type="epoch", epoch=n, metrics={"val_accuracy": 0.5}, lr=1e-3, seconds=1)
    time.sleep(EVERY * (0.9 + 0.2 * (n * 0.618 % 1)))  # in step with nobody's polls
"""
EPOCH = {
    "ec2emo": re.compile(rb"epoch +(?:\x1b[^m]*m)*([0-9]+) of 9999"),
    "tail": re.compile(rb'"epoch", "epoch": ([0-9]+)'),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--every", type=float, default=1.0, help="seconds from epoch to epoch")
    parser.add_argument("--round-trip", type=float, default=0.04)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        os.environ["TMUX_TMPDIR"] = place
        box = make_box(folder / "box")
        box.start()
        try:
            with link(box.port, delay=asked.round_trip / 2) as wire:
                os.environ["HOME"] = str(box.client_home)
                there = There(folder, through(box, wire))
                there.launch(WRITER.replace("EVERY", str(asked.every)))
                seen, share = _watch(there, wire.port, asked.epochs)
        finally:
            end(folder)
            end_tmux(box.folder / "tmux")
            box.stop()
    for name, delays in seen.items():
        worst = max(delays)
        print(f"{name:7} median {statistics.median(delays):.3f} s   worst {worst:.3f} s   of {len(delays)}")
    print(f"following takes {share:.1%} of one core, an epoch every {asked.every:g} s on a live page")
    ratio = statistics.median(seen["ec2emo"]) / statistics.median(seen["tail"])
    print(
        f"ec2emo takes {ratio:.1f} times as long as a stream at {asked.round_trip * 1000:.0f} ms round trip"
    )


def _watch(there: There, port: int, epochs: int) -> tuple[dict[str, list[float]], float]:
    """Seconds from written to seen, for each epoch that both were there for; and the share of a core that
    ec2emo took meanwhile, its start left out.
    """
    tail = f"tail -n 1 -f {there.run_dir.events}"
    commands = {
        "ec2emo": [sys.executable, "-m", "orchestrator", "monitor", "--follow"],
        "tail": ["ssh", "-o", "BatchMode=yes", *_identity(), "-p", str(port), "root@127.0.0.1", tail],
    }
    env = {**os.environ, "EC2EMO_HOME": str(there.store.root), "TERM": "xterm-256color"}
    screens, programs = {}, []
    for name, argv in commands.items():
        ours, theirs = pty.openpty()
        programs.append(subprocess.Popen(argv, env=env, stdin=theirs, stdout=theirs, stderr=theirs))
        os.close(theirs)
        screens[ours] = name
    first: dict[str, dict[int, float]] = {name: {} for name in commands}
    try:
        eventually(lambda: _read(screens, first) and all(first.values()), 60)
        start = max(max(each) for each in first.values()) + 1
        began, used = time.monotonic(), _processor_seconds(programs[0].pid)
        eventually(
            lambda: _read(screens, first) and all(max(f) > start + epochs for f in first.values()), 600
        )
        share = (_processor_seconds(programs[0].pid) - used) / (time.monotonic() - began)
    finally:
        for program in programs:
            program.terminate()
            program.wait()
    written = _written(there)
    delays = {
        name: [at[n] - written[n] for n in range(start, start + epochs) if n in at]
        for name, at in first.items()
    }
    return delays, share


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _identity() -> list[str]:
    ssh = Path(os.environ["HOME"]) / ".ssh"
    return ["-F", "none", "-i", str(ssh / "id_ed25519"), "-o", f"UserKnownHostsFile={ssh / 'known_hosts'}"]


def _read(screens: dict[int, str], first: dict[str, dict[int, float]]) -> bool:
    for ours in select.select(list(screens), [], [], 0.01)[0]:
        name = screens[ours]
        for number in EPOCH[name].findall(os.read(ours, 1 << 16)):
            first[name].setdefault(int(number), time.time())
    return True


def _written(there: There) -> dict[int, float]:
    found = re.findall(
        rb'"t": ([0-9.]+), "type": "epoch", "epoch": ([0-9]+)', there.run_dir.events.read_bytes()
    )
    return {int(number): float(at) for at, number in found}


if __name__ == "__main__":
    main()
