"""Memory that is freed and asked for again, counted in pages that the system had to make."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from trainer.contract import RunDir
from trainer.training import memory
from trainer.training.stopping import StopRequested

from .runs import events, train

PROGRAM = """
import resource, sys, threading
import numpy as np
from trainer.training import memory

def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def step():
    kept = [np.ones(2**20) for _ in range(4)]  # 8 MiB each, as operations of a model hold

def steps():
    for _ in range(3):
        step()
    before = pages()
    for _ in range(20):
        step()
    print(pages() - before)

if "keep" in sys.argv:
    assert memory.keep_freed()
if "thread" in sys.argv:
    thread = threading.Thread(target=steps)
    thread.start()
    thread.join()
else:
    steps()
"""


@pytest.mark.parametrize("where", ["thread", "main"])
def test_what_is_freed_is_had_again_without_the_system(where: str) -> None:
    def made(*words: str) -> int:
        ran = subprocess.run(
            [sys.executable, "-c", PROGRAM, where, *words], capture_output=True, text=True, check=True
        )
        return int(ran.stdout)

    assert made() > 10_000
    assert made("keep") < 100


def test_the_trainer_has_it_kept_before_it_trains(
    new_run: Callable[..., RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked() -> bool:
        raise StopRequested("memory was asked to be kept")

    monkeypatch.setattr(memory, "keep_freed", asked)
    run = new_run()
    assert train(run) == 0
    assert events(run, "ended")[0].reason == "memory was asked to be kept"
    assert not events(run, "epoch")
