"""How fast clips are there, and what they take: a folder of .npz read as ever, and out of a pack.

    python -m benchmarks.loading (--data FOLDER | --synthetic CLIPS [--dim N]) [--repeat N] [--steps N]

`--synthetic` writes clips of random numbers, about as long as those of CREMA-D and RAVDESS at 50 frames a
second (normal, 2.6 ± 0.6 s, cut off at 1.3 and 5.1), in float32 as extractors leave them. Each figure is of a
process of its own:

* plain: every .npz by numpy, padded to the 98th percentile in one float64 array, as it is usually done
* first: looked at, checked and packed
* again: the pack that is there, every checksum compared
* steps: an epoch's batches out of that pack, and how long v9_attention waited for one
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

FRAMES_A_SECOND = 50
WAYS = ("plain", "first", "again")


def main() -> None:
    """Measure and print, or be one of the measured processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--synthetic", type=int)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--only", choices=(*WAYS, "steps"), help=argparse.SUPPRESS)
    parser.add_argument("--packs", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.only:
        print(json.dumps(_measured(asked)))
        return
    if (asked.data is None) == (asked.synthetic is None):
        parser.error("name --data or --synthetic")
    with tempfile.TemporaryDirectory() as folder:
        data = asked.data or _write(Path(folder) / "data", asked.synthetic, asked.dim)
        _compare(data, Path(folder), asked)


def _compare(data: Path, folder: Path, asked: argparse.Namespace) -> None:
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for turn in range(asked.repeat):
        for way in WAYS:
            found[way].append(_process(data, folder / f"packs-{turn}", way, asked))
    plain, first, again = (
        {key: statistics.median(one[key] for one in found[way]) for key in found[way][0]} for way in WAYS
    )
    print(f"{again['clips']:.0f} clips, {again['dim']:.0f} dimensions; medians of {asked.repeat}")
    for way, of in (("plain", plain), ("first", first), ("again", again)):
        print(f"{way:6} {of['seconds']:8.2f} s   own memory {of['own'] / 2**20:8.0f} MiB")
    print(f"again is {plain['seconds'] / again['seconds']:.1f} times as fast as plain")
    share = again["own"] / again["padded"]
    print(
        f"own memory of again is {share:.3f} of the padded float32 array, {again['padded'] / 2**20:.0f} MiB"
    )
    step = _process(data, folder / f"packs-{asked.repeat - 1}", "steps", asked)
    print(
        f"v9_attention: {step['step'] * 1e3:.0f} ms a step, of which it waits {step['waited'] * 1e3:.2f} ms "
        f"for the batch: {step['waited'] / step['step']:.1%}"
    )


def _process(data: Path, packs: Path, way: str, asked: argparse.Namespace) -> dict[str, float]:
    argv = ["--data", str(data), "--packs", str(packs), "--only", way, "--steps", str(asked.steps)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.loading", *argv], check=True, capture_output=True, text=True
    )
    said: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return said


def _measured(asked: argparse.Namespace) -> dict[str, float]:
    if asked.only == "steps":
        return _steps(asked)
    # Imported before the clock starts: it is the data that is timed.
    from trainer import clips
    from trainer.data import dataset

    fingerprint = "" if asked.only == "plain" else _fingerprint(asked.data, asked.packs, clips)
    before, began = _own_memory(), time.perf_counter()
    if asked.only == "plain":
        found = _plain(asked.data)
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "own": _own_memory() - before, "clips": len(found)}
    packed = dataset.load(asked.data, fingerprint, asked.packs)
    seconds = time.perf_counter() - began
    longest = int(np.percentile(packed.lengths, 98))
    return {
        "seconds": seconds,
        "own": _own_memory() - before,
        "clips": len(packed.labels),
        "dim": packed.dim,
        "padded": len(packed.labels) * longest * packed.dim * 4,
    }


def _fingerprint(data: Path, packs: Path, clips: Any) -> str:
    """What the run asks for: looked at once, as `deploy` does before it starts one."""
    kept = packs.with_suffix(".txt")
    if not kept.exists():
        kept.write_text(clips.check(data).fingerprint)
    return kept.read_text()


def _plain(folder: Path) -> np.ndarray[Any, Any]:
    sequences = []
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as stored:
            key = next(k for k in stored.files if stored[k].ndim == 2)
            sequences.append(stored[key])
    longest = int(np.percentile([len(s) for s in sequences], 98))
    padded = np.zeros((len(sequences), longest, sequences[0].shape[1]))
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence[:longest]
    return padded


def _steps(asked: argparse.Namespace) -> dict[str, float]:
    from trainer import recipes
    from trainer.data import dataset
    from trainer.data.batches import Training

    recipe = recipes.load("v9_attention")
    params = recipes.make_params(recipe, {})
    wishes = recipes.preparation(recipe, params)
    packed = dataset.load(asked.data, asked.packs.with_suffix(".txt").read_text(), asked.packs)
    train = np.arange(len(packed.labels))
    norm = dataset.normaliser(packed, train, wishes)
    model = recipe.build(wishes.shape(norm.frames, packed.dim), len(packed.classes), params)
    stream = iter(Training(packed, train, norm, batch_size=32, seed=1, asked=wishes).stream())
    waits, whole = [], []
    for number in range(asked.steps):
        began = time.perf_counter()
        batch = next(stream, None)
        if batch is None:
            break
        waited = time.perf_counter() - began
        model.train_on_batch(*batch)
        # The first steps trace the graph, one for each length.
        if number >= asked.steps // 2:
            waits.append(waited)
            whole.append(time.perf_counter() - began)
    return {"step": statistics.mean(whole), "waited": statistics.mean(waits)}


def _own_memory() -> int:
    """Bytes of this process that no file backs; of a system that does not say, its highest resident size."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(next(x for x in status.splitlines() if x.startswith("RssAnon")).split()[1]) * 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _write(folder: Path, count: int, dim: int) -> Path:
    folder.mkdir()
    random = np.random.default_rng(0)
    seconds = np.clip(random.normal(2.6, 0.6, count), 1.3, 5.1)
    for i, length in enumerate((seconds * FRAMES_A_SECOND).astype(int)):
        features = random.standard_normal((length, dim), np.float32)
        emotion = ("angry", "calm", "happy", "sad")[i % 4]
        np.savez(
            folder / f"{i:05}.npz", features=features, emotion=emotion, speaker=f"s{i % 90}", synthetic=True
        )
    return folder


if __name__ == "__main__":
    main()
