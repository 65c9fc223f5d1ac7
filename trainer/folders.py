"""Folders that appear whole or not at all, whatever happens half way."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from trainer import contract


def publish(target: Path, fill: Callable[[Path], None]) -> Path:
    """Make `target` a folder with what `fill` writes into the folder it is given.

    That lies beside `target` under a hidden name until every file is on the disk. Whatever `fill` raises
    goes on, and leaves nothing behind. A `target` that exists is replaced.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        fill(aside)
        aside.chmod(0o755)
        for file in aside.iterdir():
            file.chmod(0o644)
            _sync(file)
        contract.sync_folder(aside)
        if target.exists():
            _remove(target)
        aside.replace(target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    contract.sync_folder(target.parent)
    return target


def remove_half_written(parent: Path) -> None:
    """Delete what a killed process left aside."""
    for stray in parent.glob(".*"):
        if stray.is_dir():
            shutil.rmtree(stray, ignore_errors=True)
        else:
            stray.unlink(missing_ok=True)


def keep(parent: Path, pattern: str, wanted: set[str]) -> None:
    """Delete the folders named like `pattern` that are not `wanted`, each whole or not at all."""
    for folder in parent.glob(pattern):
        if folder.name not in wanted and folder.is_dir():
            _remove(folder)


def _remove(folder: Path) -> None:
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    folder.replace(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _sync(file: Path) -> None:
    fd = os.open(file, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
