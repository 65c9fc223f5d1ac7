"""Scalars for TensorBoard, one point per epoch, training and validation apart as keras draws them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf


class Curves:
    """Writes below `folder`. Raises OSError or ImportError on the first point where it cannot."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[str, Any] = {}

    def add(self, epoch: int, row: Mapping[str, float]) -> None:
        """Draw one epoch, and put it on the disk."""
        for name, value in row.items():
            side = "validation" if name.startswith("val_") else "train"
            with self._writer(side).as_default():
                tf.summary.scalar(f"epoch_{name.removeprefix('val_')}", value, step=epoch)
        for writer in self._writers.values():
            writer.flush()

    def close(self) -> None:
        """Close the files."""
        for writer in self._writers.values():
            writer.close()

    def _writer(self, side: str) -> Any:
        if side not in self._writers:
            self._writers[side] = tf.summary.create_file_writer(str(self._folder / side))
        return self._writers[side]
