"""How many clips a second a recipe trains on, beside the same recipe of plain Keras layers.

    python -m benchmarks.training --data FOLDER[@RATE]… [--recipe NAME]… [--frames 221 300] [--dim 768]
                                  [--batch-size N] [--set key=value]… [--buckets 8] [--rounds 3] [--start]

The ways of training take turns in one process, each with the same clips in the same round. `plain` pads every
clip to one length and computes all layers as Keras does. `ours` is the recipe as it trains: its batches end
with their longest clip, and its graph runs as it was traced; `rewritten` is `ours` with the graph rewritten
by TensorFlow, as that of `plain` is. `buckets` is `ours` with batches of like lengths, `bfloat16` is
`buckets` with that parameter, `shared` is `bfloat16` with `shared_dropout`, of recipes that have them: these
three change what is learnt. A figure is the median over rounds, of clips in a second and of the processor's
milliseconds for a clip, which move less on a machine that others use too.

Lengths are real, values are not. A clip has as many seconds as its file in the first FOLDER that has one of
that name, which is its frames over RATE (50 a second unless it is given); it is trained on as 50 frames a
second of normal random numbers, labels are random too. Where a twentieth of a folder or more is as long as
its longest clip, those were cut off: they get up to 2 seconds more, exponential with a mean of 0.35, which
is a guess and not a measurement. Clips are drawn with a fixed seed, and cut off at `--frames`.

`--start` measures instead, in processes of their own, the seconds from `import keras` done to the end of the
first step.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import plain

RATE = 50.0
RECIPES = ("v9_attention", "cnn_lstm_simplified", "attn_crnn_v2", "wav2vec_fixed")
CLASSES = 6
# Ways by the parameter that they add to the way before.
SHORTCUTS = {"bfloat16": "bfloat16", "shared": "shared_dropout"}
# Steps of a round; the first of each is not counted, because a pipeline starts in it.
STEPS = 6

Lengths = npt.NDArray[np.intp]


def main() -> None:
    """Measure and print, a line for each recipe and length."""
    asked = _arguments()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if asked.first_step:
        _first_step(asked)
        return
    lengths = _lengths(asked.data)
    quarters = ", ".join(f"{q:.0f}" for q in np.percentile(lengths, [0, 25, 50, 75, 95, 100]))
    print(f"{len(lengths)} clips of {quarters} frames (least, quarters, 95 %, most); values are SYNTHETIC")
    for name in asked.recipe or RECIPES:
        for frames in asked.frames:
            if asked.start:
                _print_start(name, frames, asked)
            else:
                _print_speed(name, frames, lengths, asked)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--data", nargs="+", required=True, metavar="FOLDER[@RATE]")
    parser.add_argument("--recipe", action="append", metavar="NAME")
    parser.add_argument("--frames", type=int, nargs="+", default=[221, 300])
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--set", action="append", default=[], metavar="key=value")
    parser.add_argument("--buckets", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--start", action="store_true")
    parser.add_argument("--first-step", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _lengths(folders: list[str]) -> Lengths:
    """Frames of every clip, at `RATE` a second."""
    random = np.random.default_rng(0)
    found: dict[str, float] = {}
    for folder in folders:
        path, _, rate = folder.partition("@")
        frames = {p.name: len(np.load(p)["features"]) for p in sorted(Path(path).glob("*.npz"))}
        if not frames:
            raise SystemExit(f"{path} holds no .npz files")
        longest = max(frames.values())
        cut_off = 20 * sum(n == longest for n in frames.values()) >= len(frames)
        for name, n in frames.items():
            if not n:
                continue
            seconds = n / float(rate or RATE)
            if cut_off and n == longest:
                seconds += min(2.0, random.exponential(0.35))
            found.setdefault(name, seconds)
    return np.array([round(s * RATE) for s in found.values()])


def _print_speed(name: str, frames: int, lengths: Lengths, asked: argparse.Namespace) -> None:
    ways = {way: _Way(name, way, frames, asked) for way in _ways(name)}
    random = np.random.default_rng(1)
    pool = STEPS * asked.batch_size
    for number in range(asked.rounds + 1):
        clips = np.minimum(random.choice(lengths, pool), frames)
        for way in ways.values():
            way.train(clips, number)
    reference = ways["plain"]
    print(f"{name}, T = {frames}")
    for way in ways.values():
        wall, cpu = way.figures()
        first, second = reference.figures()
        print(
            f"  {way.name:9} {wall:6.0f} clips/s ({wall / first:4.2f}×)   "
            f"{cpu:6.2f} CPU ms ({second / cpu:4.2f}×)"
            f"   traced {way.traces}×",
            flush=True,
        )


def _ways(recipe: str) -> list[str]:
    from trainer import recipes

    known = recipes.load(recipe).Params.__dataclass_fields__
    shortcuts = [way for way, name in SHORTCUTS.items() if name in known]
    return ["plain", "rewritten", "ours", "buckets", *shortcuts]


class _Way:
    """One way of training one recipe, and its times."""

    def __init__(self, recipe: str, name: str, frames: int, asked: argparse.Namespace) -> None:
        import dataclasses

        import keras

        from trainer import recipes
        from trainer.training import graphs

        self.name, self._frames, self._asked = name, frames, asked
        module = recipes.load(recipe)
        params = recipes.make_params(module, dict(pair.split("=", 1) for pair in asked.set))
        more = list(SHORTCUTS)[: list(SHORTCUTS).index(name) + 1] if name in SHORTCUTS else []
        params = dataclasses.replace(params, **{SHORTCUTS[way]: True for way in more})
        self._layers = plain.layers if name == "plain" else nullcontext
        self._wishes = dataclasses.replace(
            recipes.preparation(module, params),
            frames=frames,
            class_weights="none",
            trim=name != "plain",
            buckets=asked.buckets if name not in ("plain", "rewritten", "ours") else 0,
        )
        keras.utils.set_random_seed(0)
        with self._layers():
            self._model = module.build(self._wishes.shape(frames, asked.dim), CLASSES, params)
        if name != "plain":
            labels = np.zeros(1, np.int32)
            graphs.trace_once(self._model, np.eye(CLASSES)[labels] if self._wishes.one_hot else labels)
        self._times: list[tuple[float, float]] = []
        self.traces = 0
        step = self._model.train_step

        def counted(data: Any) -> Any:
            self.traces += 1
            return step(data)

        self._model.train_step = counted

    def train(self, lengths: Lengths, number: int) -> None:
        """On clips of these lengths; the first round is not counted."""
        import keras
        import tensorflow as tf

        from trainer.training import graphs

        marks: list[tuple[float, float]] = []

        class Clock(keras.callbacks.Callback):  # type: ignore[misc]
            def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
                marks.append((time.perf_counter(), time.process_time()))

        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})
        if self.name not in ("plain", "rewritten"):
            graphs.leave_as_traced()
        batches = _batches(lengths, self._frames, self._wishes, self._asked, number)
        with self._layers():
            self._model.fit(batches.stream(), verbose=0, shuffle=False, callbacks=[Clock()])
        if number:
            counted = (len(marks) - 1) * self._asked.batch_size
            self._times.append(tuple((b - a) / counted for a, b in zip(marks[0], marks[-1], strict=True)))  # type: ignore[arg-type]

    def figures(self) -> tuple[float, float]:
        """Clips in a second, and the processor's milliseconds for one."""
        wall, cpu = (statistics.median(t) for t in zip(*self._times, strict=True))
        return 1 / wall, 1000 * cpu


def _batches(lengths: Lengths, frames: int, wishes: Any, asked: argparse.Namespace, seed: int) -> Any:
    from trainer.data.batches import Training
    from trainer.data.dataset import Normaliser, Packed

    random = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values = random.standard_normal((offsets[-1], asked.dim), dtype=np.float32).astype(np.float16)
    labels = random.integers(0, CLASSES, len(lengths)).astype(np.int32)
    classes = tuple(f"class {i}" for i in range(CLASSES))
    packed = Packed(values, offsets, labels, classes, report=None)  # type: ignore[arg-type]
    norm = Normaliser(np.zeros(asked.dim, np.float32), np.ones(asked.dim, np.float32), frames)
    everyone = np.arange(len(lengths))
    return Training(packed, everyone, norm, batch_size=asked.batch_size, seed=seed, asked=wishes)


def _print_start(name: str, frames: int, asked: argparse.Namespace) -> None:
    command = [sys.executable, "-m", "benchmarks.training", *sys.argv[1:], "--first-step"]
    command += ["--recipe", name, "--frames", str(frames)]
    seconds = [
        float(subprocess.check_output(command, stderr=subprocess.DEVNULL)) for _ in range(asked.rounds)
    ]
    print(
        f"{name}, T = {frames}: the first step ends {min(seconds):.1f} s after keras is imported (best of "
        f"{asked.rounds}: {', '.join(f'{s:.1f}' for s in seconds)})",
        flush=True,
    )


def _first_step(asked: argparse.Namespace) -> None:
    import keras  # noqa: F401
    import tensorflow  # noqa: F401

    began = time.perf_counter()
    way = _Way(asked.recipe[-1], "ours", asked.frames[-1], asked)
    way.train(np.full(asked.batch_size, 150), 0)
    print(time.perf_counter() - began)


if __name__ == "__main__":
    main()
