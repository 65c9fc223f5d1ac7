"""What an epoch consists of beside its steps, and the longest a run stands between two of them.

    python -m benchmarks.stalls [--recipe NAME]… [--clips N] [--dim N] [--epochs N] [--without NAME]…

Each recipe is trained as ever, by `python -m trainer` in a process of its own with all that it writes, on
SYNTHETIC clips with the lengths of `benchmarks.loading`; a callback notes when a step ends, and the clock is
read when an epoch is told. Medians of the epochs that have one before and one after, by the clock and of the
processor:

* steps: all of an epoch, the first counted as a median one
* validation: from there until the epoch is told; the model predicts the validation clips
* the rest: checkpoint, best model, manifest, curves, and the start of the next epoch's batches, which is what
  its first step takes longer than a median one

The longest gap is that between the ends of two steps of one epoch. The first step ends so long after the
process began: imports, data and the model's graph are before it. For each `--without` a recipe is trained
once more, without what the trainer does by the function of that name.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from benchmarks.loading import _write as write_clips
from trainer import clips, recipes
from trainer.contract import Attempt, Epoch, RunDir, Spec, publish

# What can be left out, and the module of `trainer.training` it is of.
WITHOUT = {"keep_freed": "memory", "leave_as_traced": "graphs"}


class Mark(NamedTuple):
    """When a step of an epoch ended, or the epoch was told: seconds by the clock, and of the processor."""

    epoch: int
    at: float
    cpu: float


def main() -> None:
    """Measure and print, or be one of the measured processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--recipe", action="append")
    parser.add_argument("--clips", type=int, default=640)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--without", action="append", default=[], choices=WITHOUT)
    parser.add_argument("--only", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if asked.only:
        _measured(asked.only, asked.without)
        return
    with tempfile.TemporaryDirectory() as folder:
        data = write_clips(Path(folder) / "data", asked.clips, asked.dim)
        print(f"{asked.clips} SYNTHETIC clips of {asked.dim} dimensions, {asked.epochs} epochs")
        for name in asked.recipe or ("v9_attention", "attn_crnn_v2"):
            for more in ([], *(["--without", one] for one in asked.without)):
                run = _written(Path(folder, "runs", "".join([name, *more])), name, data, asked.epochs)
                argv = [sys.executable, "-m", "benchmarks.stalls", "--only", str(run.root), *more]
                began = time.monotonic()
                subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
                _show(" ".join([name, *more]), run, began)


def _written(root: Path, recipe: str, data: Path, epochs: int) -> RunDir:
    """A run's folder, as the supervisor leaves it to the trainer."""
    run, module = RunDir(root), recipes.load(recipe)
    run.attempts.mkdir(parents=True)
    params = asdict(recipes.make_params(module, {}))
    fingerprint = clips.check(data).fingerprint
    spec = Spec(root.name, recipe, str(data), fingerprint, epochs, 32, params=params, synthetic=True)
    publish(run.spec, spec.to_json())
    publish(run.attempts / "1.json", Attempt(1, "token").to_json())
    return run


def _measured(root: Path, without: list[str]) -> None:
    """Train, and leave in `marks.json` when each step ended and when each epoch was told."""
    import keras

    from trainer.__main__ import main as train
    from trainer.eventlog import EventLog

    for name in without:
        mock.patch(f"trainer.training.{WITHOUT[name]}.{name}").start()
    steps: list[Mark] = []
    told: list[Mark] = []

    class Clock(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.epoch = epoch + 1

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            steps.append(Mark(self.epoch, time.monotonic(), time.process_time()))

    fit, append = keras.Model.fit, EventLog.append

    def with_clock(model: Any, *args: Any, callbacks: list[Any], **more: Any) -> Any:
        return fit(model, *args, callbacks=[*callbacks, Clock()], **more)

    def noted(log: EventLog, event: Any) -> None:
        if isinstance(event, Epoch):
            told.append(Mark(event.epoch, time.monotonic(), time.process_time()))
        append(log, event)

    with mock.patch.object(keras.Model, "fit", with_clock), mock.patch.object(EventLog, "append", noted):
        assert train([str(root)]) == 0
    (root / "marks.json").write_text(json.dumps({"steps": steps, "told": told}))


def _show(name: str, run: RunDir, began: float) -> None:
    marks = json.loads((run.root / "marks.json").read_text())
    steps, told = ([Mark(*mark) for mark in marks[kind]] for kind in ("steps", "told"))
    epochs = [[mark for mark in steps if mark.epoch == one.epoch] for one in told]
    clock, cpu = (_parts(epochs, told, field) for field in ("at", "cpu"))
    print(f"{name}, {len(epochs[1])} steps of an epoch")
    clock["first step ends"], cpu["first step ends"] = steps[0].at - began, steps[0].cpu
    for part, seconds in clock.items():
        print(f"  {part:24} {seconds:7.3f} s   of the processor {cpu[part]:7.3f} s")


def _parts(epochs: list[list[Mark]], told: list[Mark], field: str) -> dict[str, float]:
    """The parts of an epoch, by one of the two clocks."""
    ends = [[getattr(mark, field) for mark in epoch] for epoch in epochs]
    gaps = [b - a for epoch in ends[1:] for a, b in itertools.pairwise(epoch)]
    step = statistics.median(gaps)
    parts = [
        {
            "steps": ends[n][-1] - ends[n][0] + step,
            "validation": getattr(told[n], field) - ends[n][-1],
            "the rest": ends[n + 1][0] - getattr(told[n], field) - step,
        }
        for n in range(1, len(ends) - 1)
    ]
    found = {name: statistics.median(one[name] for one in parts) for name in parts[0]}
    return {**found, "median step": step, "longest gap of two steps": max(gaps)}


if __name__ == "__main__":
    main()
