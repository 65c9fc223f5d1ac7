"""Runs that train one after another: each waits for the locks of those before it. Standard library only.

The kernel keeps the queue: a lock is free when its run has ended, however it ended, so nothing that waits can
wait for the dead, and nothing has to be told.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Sequence

from trainer.contract import Note, RunDir
from trainer.eventlog import EventLog


def wait(run: RunDir, after: Sequence[str], log: EventLog) -> None:
    """Return when none of the runs called `after` lives; they lie beside `run`."""
    for name in after:
        lock = RunDir(run.root.parent / name).lock
        if not lock.exists():
            continue
        with lock.open("rb") as file:
            if _held(file.fileno()):
                log.append(Note(time.time(), f"waits for {name} to end"))
                fcntl.flock(file, fcntl.LOCK_SH)
                log.append(Note(time.time(), f"{name} has ended"))


def _held(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
