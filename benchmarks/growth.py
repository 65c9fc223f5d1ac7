"""How time and memory grow with the number of clips and with their length: both should be straight lines.

    python -m benchmarks.growth [--clips 250] [--frames 50] [--dim 96] [--recipe NAME] [--picture FILE.svg]

From `--clips` clips of `--frames` frames on, first the clips become 2, 4 and 8 times as many, then as long.
Each size is a folder of SYNTHETIC clips and a process of its own, which packs them, opens the pack again,
and trains two epochs. Time is the processor's, because others use the machine too: that of opening the pack,
and that of the second epoch. Memory is what the process has of its own at its end beyond what it had before
the data. `exponent` is the slope between logarithms, from the smallest size to the largest: 1 is a straight
line through nothing, less is a fixed cost beside one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.loading import _own_memory as own_memory

TIMES = (1, 2, 4, 8)
FIGURES = {"open": "opening the pack, s", "epoch": "an epoch, s", "memory": "memory, MiB"}


def main() -> None:
    """Measure and print, or be one of the measured processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clips", type=int, default=250)
    parser.add_argument("--frames", type=int, default=50)
    parser.add_argument("--dim", type=int, default=96)
    parser.add_argument("--recipe", default="v9_attention")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--only", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if asked.only:
        print(json.dumps(_measured(asked.only, asked.recipe)))
        return
    print(f"{asked.recipe}, from {asked.clips} SYNTHETIC clips of {asked.frames} frames of {asked.dim} on")
    found = {}
    for what in ("clips", "frames"):
        found[what] = [_of(what, times, asked) for times in TIMES]
        for name, title in FIGURES.items():
            values = [one[name] for one in found[what]]
            exponent = math.log(values[-1] / values[0]) / math.log(TIMES[-1])
            told = "  ".join(f"{t}× {v:.2f}" for t, v in zip(TIMES, values, strict=True))
            print(f"{what:7} {title:22} {told}   exponent {exponent:.2f}", flush=True)
    if asked.picture:
        _draw(found, asked)


def _of(what: str, times: int, asked: argparse.Namespace) -> dict[str, float]:
    size = {"clips": asked.clips, "frames": asked.frames}
    size[what] *= times
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        data.mkdir()
        random = np.random.default_rng(0)
        for i in range(size["clips"]):
            features = random.standard_normal((size["frames"], asked.dim), np.float32)
            emotion = ("angry", "calm", "happy", "sad")[i % 4]
            np.savez(data / f"{i:05}.npz", features=features, emotion=emotion, speaker=f"s{i % 20}")
        argv = ["--only", str(data), "--recipe", asked.recipe]
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.growth", *argv], check=True, stdout=subprocess.PIPE, text=True
        )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _measured(data: Path, name: str) -> dict[str, float]:
    from trainer import clips, recipes
    from trainer.data import dataset
    from trainer.data.batches import Training

    recipe = recipes.load(name)
    params = recipes.make_params(recipe, {})
    wishes = recipes.preparation(recipe, params)
    fingerprint, packs = clips.check(data).fingerprint, data.parent / "packs"
    dataset.load(data, fingerprint, packs)
    # Before the data: the model, its first step, and whatever keras keeps after it.
    frames, dim, classes = _shape(data)
    model = recipe.build(wishes.shape(frames, dim), classes, params)
    kind = np.eye(classes, dtype=np.float32)[[0, 1]] if wishes.one_hot else np.array([0, 1])
    model.train_on_batch(np.ones((2, frames, dim), np.float32), kind)
    before, began = own_memory(), time.process_time()
    packed = dataset.load(data, fingerprint, packs)
    opened = time.process_time() - began
    everyone = np.arange(len(packed.labels))
    norm = dataset.normaliser(packed, everyone, wishes)
    batches = Training(packed, everyone, norm, batch_size=32, seed=1, asked=wishes)
    stream = batches.stream()
    model.fit(stream, epochs=1, shuffle=False, verbose=0)
    began = time.process_time()
    model.fit(stream, epochs=1, shuffle=False, verbose=0)
    epoch = time.process_time() - began
    return {"open": opened, "epoch": epoch, "memory": max(0.0, own_memory() - before) / 2**20}


def _shape(data: Path) -> tuple[int, int, int]:
    features = np.load(next(data.glob("*.npz")))["features"]
    return len(features), features.shape[1], 4


def _draw(found: dict[str, list[dict[str, float]]], asked: argparse.Namespace) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, len(FIGURES)), FIGURES.items(), strict=True):
        for what, line in found.items():
            axes.plot(TIMES, [one[name] for one in line], marker="o", label=f"more {what}")
        axes.set(title=title, xlabel="times the smallest", xticks=TIMES, ylim=(0, None))
        axes.grid(alpha=0.3)
    axes.legend()
    figure.suptitle(f"{asked.recipe}, SYNTHETIC clips: {asked.clips} of {asked.frames} frames at 1×")
    metadata: dict[str, Any] = {"Date": None}
    figure.savefig(asked.picture, metadata=metadata)


if __name__ == "__main__":
    main()
