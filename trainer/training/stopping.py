"""How a run ends before its time: asked to by SIGTERM, or unable to go on."""

from __future__ import annotations

import signal
from types import FrameType


class StopRequested(BaseException):
    """Somebody asked the run to end.

    It is no Exception, so that no library takes it for a failure of its own.
    """


class RunFailed(Exception):
    """The run cannot go on: one sentence saying what happened, to what, and what to do."""


class Stop:
    """Remembers that a stop was asked. While `at_once` holds, the signal itself raises StopRequested.

    That is so until training begins; from then on it is obeyed where `check` is called.
    """

    def __init__(self) -> None:
        self.requested = False
        self.at_once = True

    def listen(self) -> None:
        """Take SIGTERM from now on."""
        signal.signal(signal.SIGTERM, self._asked)

    def check(self) -> None:
        """Raise StopRequested when a stop was asked: called where ending loses nothing."""
        if self.requested:
            raise StopRequested

    def _asked(self, _signal: int, _frame: FrameType | None) -> None:
        self.requested = True
        if self.at_once:
            raise StopRequested
