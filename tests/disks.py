"""Small disks that can be filled, or read only: real file systems in memory."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(place: Path, kilobytes: int = 256) -> Iterator[Path]:
    """A disk of its own at `place`."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    place.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k,mode=755", "tmpfs", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"no small disk can be mounted here: {made.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def read_only(place: Path) -> None:
    """Make a small disk refuse every write from now on."""
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)


def grow(place: Path, size: str) -> None:
    """Give a small disk more room, as in `50m`."""
    subprocess.run(["mount", "-o", f"remount,size={size}", str(place)], check=True)


def fill(place: Path, leave: int = 0) -> Path:
    """Take all the room but `leave` bytes; returns the file that holds it. Refuses a disk that is no small
    one, which it would take from everybody.
    """
    assert os.path.ismount(place), f"{place} is no disk of its own"
    ballast = place / ".ballast"
    with ballast.open("wb", buffering=0) as f, contextlib.suppress(OSError):
        while f.write(bytes(4096)):
            pass
    if leave:
        os.truncate(ballast, max(0, ballast.stat().st_size - leave))
    return ballast
