"""What kills processes in tests reports how they ended, and nothing else ends them."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from tests.crashes import DIED, crash_points, dies


class Fatal:
    """Ends the process that collects it, as what belongs to threads that are not there may."""

    def __init__(self) -> None:
        self.itself = self
        self.process = os.getpid()

    def __del__(self) -> None:
        if os.getpid() != self.process:
            os._exit(DIED)


def test_a_process_does_not_collect_what_others_left_behind() -> None:
    Fatal()
    assert not dies(lambda: gc.collect())


def test_a_process_that_fails_is_not_one_that_was_killed() -> None:
    def fails() -> None:
        raise ValueError

    with pytest.raises(AssertionError, match="ended with 1"):
        dies(fails)


def test_a_process_is_killed_before_each_change_once(tmp_path: Path) -> None:
    names = [tmp_path / name for name in "abcd"]

    def change() -> None:
        for name in names:
            name.mkdir()

    def fresh() -> None:
        for name in filter(Path.exists, names):
            name.rmdir()

    left = [sum(map(Path.exists, names)) for _ in crash_points(fresh, change)]
    assert left == [0, 1, 2, 3]
