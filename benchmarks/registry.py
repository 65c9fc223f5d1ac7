"""How long `ec2emo runs` takes with many runs at home, beside `ls` of the same folders by a bare Python.

    python -m benchmarks.registry [--runs N] [--epochs N] [--rounds N]

Each run has its record, its spec and the events of all its epochs, written by the code that writes real ones.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from orchestrator.machine import Machine
from orchestrator.run import Asked, Run
from orchestrator.store import Store
from trainer.contract import AnyEvent, Ended, Epoch, Spec, Started, encode

LEAST = """
import json, pathlib, sys
for record in pathlib.Path(sys.argv[1]).glob("*/run.json"):
    json.loads(record.read_bytes())
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        for number in range(asked.runs):
            _write(store, number, asked.epochs)
        ours = [sys.executable, "-m", "orchestrator", "runs"]
        least = [sys.executable, "-c", LEAST, str(store.runs)]
        _seconds([*ours, "--help"], folder)
        first = _seconds(ours, folder)
        pairs = [(_seconds(least, folder), _seconds(ours, folder)) for _ in range(asked.rounds)]
    print(f"{asked.runs} runs of {asked.epochs} epochs, in milliseconds by the clock and of the processor")
    _show("ec2emo runs, the first time", [first])
    _show("reading every run.json alone", [pair[0] for pair in pairs])
    _show("ec2emo runs", [pair[1] for pair in pairs])


def _show(what: str, times: list[tuple[float, float]]) -> None:
    clock, cpu = ([1000 * one[i] for one in times] for i in (0, 1))
    print(
        f"{what:30} {statistics.median(clock):6.0f} (least {min(clock):.0f})  {statistics.median(cpu):6.0f} "
        f"(least {min(cpu):.0f})"
    )


def _write(store: Store, number: int, epochs: int) -> None:
    name, began = f"v9-{number:04}", time.time() - 3600.0 * number
    spec = Spec(name, "v9_attention", "/data", "f" * 64, epochs, 32)
    machine = Machine("local", "local", "/home/ubuntu/.ec2emo")
    token = f"{number:016x}"
    attempts = (Asked(token, began, "c", 1),)
    run = Run(name, spec, "local", "/data", began, machine, machine.root, "python", attempts)
    store.create(run)
    store.freeze(run)
    said: list[AnyEvent] = [Started(began, 1, 1, epochs, "v9_attention")]
    for epoch in range(1, epochs + 1):
        metrics = {"loss": 1 / epoch, "accuracy": 0.5, "val_loss": 1.0, "val_accuracy": 1 - 1 / epoch}
        said.append(Epoch(began + epoch, epoch, metrics, 3e-4, 1.0))
    said.append(Ended(began + epochs, "finished", f"all {epochs} epochs are trained"))
    store.dir(name).events.write_bytes(b"".join(map(encode, said)))
    store.note_state(name, "finished", began)


def _seconds(argv: list[str], home: str) -> tuple[float, float]:
    """By the clock, and of the processor, which others cannot lengthen as much."""
    began, before = time.perf_counter(), os.times()
    # As an installed program, whose bytecode is there.
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    env |= {"EC2EMO_HOME": home, "PYTHONPYCACHEPREFIX": f"{home}/bytecode"}
    subprocess.run(argv, stdout=subprocess.DEVNULL, env=env, check=True)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - began, cpu


if __name__ == "__main__":
    main()
