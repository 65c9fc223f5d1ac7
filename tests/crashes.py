"""Die at the N-th change of a file system, for N = 1, 2, ... until nothing is left to die at."""

from __future__ import annotations

import functools
import gc
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

CHANGES = {
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.remove",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
DIED = 9


def crash_points(
    prepare: Callable[[], object], act: Callable[[], object], *, first: int = 1, every: int = 1
) -> Iterator[int]:
    """Yield once for each point at which `act` was killed, each time after a fresh `prepare`.

    The process that acts ends without a word right before the change, as `kill -9` would end it. At the
    end `act` has run through once, and there was more than one point to die at.
    """
    point = first
    while True:
        prepare()
        if not dies(functools.partial(_die_at, point, act)):
            assert point > 3, "the hook saw nothing"
            return
        yield point
        point += every


def dies(act: Callable[[], object]) -> bool:
    """Whether a process of its own that does `act` was killed on the way. It may not end otherwise."""
    # What other tests left behind is not collected there: tensorflow's functions take themselves out of a
    # context that has lost its threads, which is a segmentation fault.
    gc.freeze()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of other tests do not matter here
        pid = os.fork()
    if pid == 0:
        try:
            act()
            os._exit(0)
        finally:
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
            os._exit(1)
    gc.unfreeze()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, DIED, -signal.SIGKILL), f"ended with {code}"
    return code != 0


def _die_at(point: int, act: Callable[[], object]) -> None:
    left = point

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event in CHANGES or (event == "open" and arguments[2] & WRITES):
            left -= 1
            if left == 0:
                os._exit(DIED)

    sys.addaudithook(hook)
    act()
