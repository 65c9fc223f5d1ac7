"""The `ec2emo` program, also as `python -m orchestrator`."""

from __future__ import annotations

import signal
import sys

AGAIN = 0.01  # seconds


def main() -> None:
    """Run the command line; Ctrl-C while it is still loading ends it without a word."""
    sys.unraisablehook = _interrupt_again
    try:
        from orchestrator import cli
    except KeyboardInterrupt:
        sys.exit(130)
    cli.main()


def _interrupt_again(lost: sys.UnraisableHookArgs) -> None:
    """A Ctrl-C that meets a destructor, or a callback of the import system, cannot be raised there: Python
    would print its traceback and go on. It comes once more instead, a moment later.
    """
    if lost.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(lost)
        return
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, AGAIN)


if __name__ == "__main__":
    main()
