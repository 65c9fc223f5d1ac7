"""Small synthetic data that a model can learn from time alone; everything made of it is called synthetic.

Two waves run through each clip. Each rises first and falls later, or the other way round, and the two orders
make four classes: means and deviations over time say nothing, only what comes first does. Speakers shift all
their values, and the waves of some clips drown in noise, so that no honest model gets everything right.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from trainer import contract

# What a folder of it is to be called, so that its name tells too.
NAME = "demo-synthetic"
# Whether each of the two waves rises (1) or falls (-1) first.
ORDERS = {"angry": (1, 1), "happy": (1, -1), "neutral": (-1, 1), "sad": (-1, -1)}
SPEAKERS = 8
TAKES = 8
DIM = 16
SHORTEST, LONGEST = 20, 40
STRENGTH = (0.1, 0.9)
_SEED = 7


def write(folder: Path) -> Path:
    """Make `folder` hold the demo clips. What is there already and whole is left alone.

    Every file is written aside and renamed, so after a kill the next call completes the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in _clips():
        path = folder / name
        if not path.is_file() or path.read_bytes() != data:
            contract.publish(path, data)
    return folder


def _clips() -> Iterator[tuple[str, bytes]]:
    # The legacy generator's stream never changes, and two decimals hide the last bits in which the
    # mathematical functions of two machines may differ: the content has one name everywhere.
    random = np.random.RandomState(_SEED)
    for number in range(1, SPEAKERS + 1):
        speaker = f"demo-{number:02}"
        offset = random.normal(0, 0.5, DIM)
        for take in range(1, TAKES + 1):
            for emotion, (first, second) in ORDERS.items():
                features = np.round(_features(random, first, second) + offset, 2).astype(np.float32)
                yield f"{speaker}_{emotion}_{take}.npz", _npz(features, emotion, speaker)


def _features(random: np.random.RandomState, first: int, second: int) -> Any:
    """(T, DIM): two waves over the dimensions, each turning its sign once, and noise."""
    frames = random.randint(SHORTEST, LONGEST + 1)
    time = np.linspace(0, 1, frames)[:, None]
    turn = random.uniform(0.4, 0.6)
    shape = np.tanh((turn - time) * 12)
    phase = np.linspace(0, 2 * np.pi, DIM, endpoint=False)
    waves = first * np.sin(phase) + second * np.cos(phase)
    return random.uniform(*STRENGTH) * shape * waves + random.normal(0, 1, (frames, DIM))


def _npz(features: Any, emotion: str, speaker: str) -> bytes:
    """An archive of the same bytes each time: numpy's own would carry the time of day."""
    arrays = {"features": features, "emotion": emotion, "speaker": speaker, "synthetic": True}
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for key, value in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.asarray(value), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{key}.npy"), member.getvalue())
    return whole.getvalue()
