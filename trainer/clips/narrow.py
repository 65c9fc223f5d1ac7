"""A feature file with its features in float16: half of float32. Training computes in float32 either way."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np

from trainer.clips import files
from trainer.clips.files import KEYS, NotAClip

LARGEST = float(np.finfo(np.float16).max)
# Of the deviation of all values of a clip: what rounding may change, as root mean square. Where values are
# of the usual size, float16 changes 0.0003 of it.
LEAST_TRUE = 0.01
WORDS = ("emotion", "speaker", "synthetic")


def float16(data: bytes, name: str) -> bytes:
    """The same clip in float16: of an `.npz` the features and the words about them, and nothing else.

    The same bytes come of the same file, and those of a file that is in float16 are left alone. Raises
    NotAClip, also for features that float16 cannot tell.
    """
    if files.parse(data, name).features.dtype == np.float16:
        return data
    if name.lower().endswith(".npy"):
        return _npy(_narrow(files.array(data)))
    whole = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(whole, "w") as new:
        for info in old.infolist():
            key = info.filename.removesuffix(".npy")
            if key in KEYS or key in WORDS:
                content = old.read(info)
                kept = zipfile.ZipInfo(info.filename, info.date_time)
                kept.compress_type = info.compress_type
                new.writestr(kept, _npy(_narrow(files.array(content))) if key in KEYS else content)
    return whole.getvalue()


def _narrow(features: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    largest = float(np.abs(features).max())
    if largest > LARGEST:
        raise NotAClip("too-wide", f"it has a value of {largest:g}, and float16 ends at {LARGEST:,.0f}")
    narrow = features.astype(np.float16)
    wide = features.astype(np.float64)
    if np.sqrt(np.mean((narrow - wide) ** 2)) > LEAST_TRUE * wide.std():
        raise NotAClip("too-fine", "its values differ by less than float16 tells apart")
    return narrow


def _npy(array: np.ndarray[Any, Any]) -> bytes:
    written = io.BytesIO()
    np.lib.format.write_array(written, array, allow_pickle=False)
    return written.getvalue()
