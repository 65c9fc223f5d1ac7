"""Clips and run folders for the trainer's tests, and how to start what is tested."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from trainer import recipes
from trainer.contract import Attempt, RunDir, decode, publish

ROOT = Path(__file__).parents[2]

# A model that learns nothing much, in no time.
TINY = {"units": 4, "dense1": 8, "dense2": 8}
_SIZES = re.compile(r"(units|dense|filters|attention)\d*")


def tiny(name: str) -> dict[str, int]:
    """The like for any recipe: all its sizes made small."""
    return {f.name: 4 for f in dataclasses.fields(recipes.load(name).Params) if _SIZES.fullmatch(f.name)}


def clip(
    folder: Path,
    name: str,
    *,
    emotion: str | None = None,
    speaker: str | None = None,
    features: Any = None,
    key: str = "features",
    **more: Any,
) -> Path:
    """One `.npz`; random (12, 4) float32 features unless given."""
    if features is None:
        features = np.random.default_rng(abs(hash(name)) % 2**32).normal(size=(12, 4)).astype(np.float32)
    arrays = {key: features, **more}
    if emotion is not None:
        arrays["emotion"] = np.array(emotion)
    if speaker is not None:
        arrays["speaker"] = np.array(speaker)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return path


def add_attempt(run: RunDir, number: int, **more: Any) -> None:
    """Write `attempts/NUMBER.json`."""
    publish(
        run.attempts / f"{number}.json", Attempt(number=number, token=f"token-{number}", **more).to_json()
    )


def spawn(run: RunDir, **env: str) -> subprocess.Popen[bytes]:
    """`python -m trainer` as the supervisor starts it."""
    log = (run.root / "train.log").open("ab")
    with log:
        return subprocess.Popen(
            [sys.executable, "-m", "trainer", str(run.root)],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **env},
        )


def train(run: RunDir) -> int:
    """One attempt in this process; returns the exit code."""
    from trainer import __main__ as entry

    return entry.main([str(run.root)])


def events(run: RunDir, kind: str | None = None) -> list[Any]:
    """The run's events, or those of one type."""
    lines = run.events.read_bytes().splitlines(keepends=True) if run.events.exists() else []
    return [e for e in map(decode, lines) if kind in (None, e.type)]


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Poll until it holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.005)
