"""From Enter to the trainer's first word, on a host that has code, environment and data already.

    python -m benchmarks.warm_deploy --on ssh://user@host:port --data FOLDER [--runs N] [--ssh-config FILE]

Deploys once to make the host ready, then in turn: `ssh HOST python3 -c pass`, the least that any tool can
do, and a deploy, which returns once it has heard `started`. Every run is stopped again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from urllib.parse import urlsplit

EC2EMO = [sys.executable, "-m", "orchestrator"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--on", required=True)
    parser.add_argument("--data", default="demo")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--ssh-config", help="for the plain ssh, as with its -F")
    asked = parser.parse_args()
    _deploy(asked.on, asked.data)
    pairs = [(_plain(asked.on, asked.ssh_config), _deploy(asked.on, asked.data)) for _ in range(asked.runs)]
    plain, deploy = (statistics.median(p[i] for p in pairs) for i in (0, 1))
    print(f"ssh HOST python3 -c pass     {plain:5.2f} s")
    print(f"deploy, up to `started`      {deploy:5.2f} s")
    beyond = statistics.median(d - p for p, d in pairs)
    print(f"beyond the plain connection  {beyond:5.2f} s   ({asked.runs} pairs)")


def _plain(where: str, config: str | None) -> float:
    parts = urlsplit(where)
    options = ["-p", str(parts.port)] if parts.port else []
    options += ["-F", config] if config else []
    target = f"{parts.username}@{parts.hostname}" if parts.username else str(parts.hostname)
    began = time.perf_counter()
    subprocess.run(["ssh", "-o", "BatchMode=yes", *options, target, "python3 -c pass"], check=True)
    return time.perf_counter() - began


def _deploy(where: str, data: str) -> float:
    began = time.perf_counter()
    argv = [*EC2EMO, "deploy", "v9_attention", "--on", where, "--data", data, "--json"]
    out = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout
    seconds = time.perf_counter() - began
    answer = json.loads(out)
    assert answer["state"] == "running", answer
    subprocess.run([*EC2EMO, "stop", answer["run"], "--now"], stderr=subprocess.DEVNULL, check=True)
    return seconds


if __name__ == "__main__":
    main()
