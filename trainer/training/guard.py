"""What a resume must find as it was: data, split, labels, normaliser, architecture."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from trainer.data.dataset import Packed, Split
from trainer.data.normaliser import Normaliser


def describe(packed: Packed, split: Split, norm: Normaliser, model: Any) -> dict[str, Any]:
    """The guard of this run, fit for JSON: a name for each thing, and the weights' shapes."""
    statistics = norm.mean.tobytes() + norm.std.tobytes() + str(norm.frames).encode()
    return {
        "data": packed.report.fingerprint,
        "labels": list(packed.classes),
        "split": hashlib.sha256(_sides(split)).hexdigest(),
        "normaliser": hashlib.sha256(statistics).hexdigest(),
        "architecture": [[w.path, list(w.shape)] for w in model.weights],
    }


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first thing that is not as it was, as the end of a sentence; None when all is."""
    for name in ("data", "labels", "split", "normaliser", "architecture"):
        if before.get(name) != now[name]:
            return f"{name} differ: {_said(name, before.get(name), now[name])}"
    return None


def _sides(split: Split) -> bytes:
    return split.val.astype("<i8").tobytes() + split.test.astype("<i8").tobytes()


def _said(name: str, before: Any, now: Any) -> str:
    if name == "labels":
        return f"{', '.join(before or [])} before, {', '.join(now)} now"
    if name != "architecture":
        return f"{str(before)[:12]} before, {str(now)[:12]} now"
    was, are = dict(map(tuple, before or [])), dict(map(tuple, now))
    for path in [*was, *are]:
        if was.get(path) != are.get(path):
            return f"{path} is {_shape(are.get(path))} now and was {_shape(was.get(path))}"
    return "the order of the weights"


def _shape(shape: list[int] | None) -> str:
    return "×".join(map(str, shape)) if shape is not None else "absent"
