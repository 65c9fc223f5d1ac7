"""The three streams: words to stderr, data to stdout, answers from stdin."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NoReturn, TextIO

from rich.console import Console
from rich.text import Text

from orchestrator.view.text import FALLBACK, plain, plain_lines, words
from trainer import contract

LINES_AT_ONCE = 500
SHOW_CURSOR = "\x1b[?25h"
PIPED_WIDTH = 80  # where lines are laid out although nobody's window says how wide

Level = Literal["info", "warning", "good"]
_SIGNS: dict[Level, tuple[str, str]] = {
    "info": ("", ""),
    "warning": ("! ", "bold magenta"),  # yellow cannot be read on white
    "good": ("✓ ", "bold green"),
}


class Screen(Console):
    """A console that interprets no markup and lets a closed pipe be known."""

    def on_broken_pipe(self) -> NoReturn:
        """Rich would exit with 1; the exit code is the command line's to choose."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    @property
    def redraws(self) -> bool:
        """Whether lines may be drawn over: a terminal that knows how."""
        return self.is_terminal and self.is_interactive and not self.is_dumb_terminal

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """Around what is drawn over: the streams and the cursor are what they were before, also where the
        signal that ends it comes while rich puts them back.
        """
        out, err = sys.stdout, sys.stderr
        try:
            yield
        except BaseException:
            sys.stdout, sys.stderr = out, err
            with contextlib.suppress(OSError):  # a terminal that hung up
                self.file.write(SHOW_CURSOR)
                self.file.flush()
            raise


def screen(stream: TextIO, *, piped_width: int | None = None) -> Screen:
    """A console on a stream as it is now. Piped, `piped_width` holds unless COLUMNS is set.

    Whether it is a terminal is asked of the stream alone: FORCE_COLOR must bring no escape codes into a pipe.
    """
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors=FALLBACK)
    piped = not stream.isatty()
    return Screen(
        file=stream,
        force_terminal=not piped,
        force_jupyter=False,
        color_system=None if os.environ.get("NO_COLOR") else "auto",
        markup=False,
        emoji=False,
        highlight=False,
        width=piped_width if piped and not os.environ.get("COLUMNS", "").isdigit() else None,
    )


def say(text: str, *, level: Level = "info") -> None:
    """Words to stderr."""
    first, *more = plain_lines(text)
    _to_stderr(words(_SIGNS[level], first), *map(words, more))


def error(message: str) -> None:
    """What went wrong, to stderr."""
    first, *more = plain_lines(message)
    _to_stderr(words(("ec2emo: ", "bold red"), first), *map(words, more))


def _to_stderr(*lines: Text) -> None:
    """Through `sys.stderr` itself, which a live view replaces to have words printed above it."""
    target = screen(sys.stderr)
    with target.capture() as captured:
        put(target, lines)
    sys.stderr.write(captured.get())
    sys.stderr.flush()


def bell() -> None:
    """Ring, where somebody sits at a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write("\a")
        sys.stderr.flush()


def data(text: str) -> None:
    """Lines to stdout."""
    put(screen(sys.stdout), map(words, plain_lines(text.removesuffix("\n"))))


def put(target: Screen, lines: Iterable[Text]) -> None:
    """Lines as long as they are: to a terminal some hundred at a time, for which rich takes a third of the
    time; to a pipe without it, for there are no styles.
    """
    if not target.is_terminal:
        target.file.writelines(f"{line.plain}\n" for line in lines)
        target.file.flush()
        return
    rest = iter(lines)
    while some := list(itertools.islice(rest, LINES_AT_ONCE)):
        target.print(Text("\n", no_wrap=True).join(some), soft_wrap=True, end="\n")


def paper() -> Screen:
    """Where tables go. Piped, a line is as long as it is: whoever reads it next wants whole names."""
    return screen(sys.stdout, piped_width=1_000_000)


def json_line(obj: Mapping[str, Any]) -> None:
    """One JSON object on one line to stdout: ASCII only, numbers finite or null."""
    # By way of the contract's writer, so that there is one rule for numbers that are not finite.
    line = json.dumps(json.loads(contract.to_json(obj)), ensure_ascii=True, allow_nan=False)
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def confirm(question: str) -> bool:
    """Whether a person at the terminal says yes; anything but yes is no."""
    return _answer(f"{question} [y/N] ").lower() in ("y", "yes")


def ask(question: str, default: str) -> str:
    """What a person at the terminal says, `default` for a bare return."""
    return _answer(f"{question} [{default}] ") or default


def _answer(prompt: str) -> str:
    # Not input(): that would print the question to stdout, which carries data alone.
    screen(sys.stderr)
    sys.stderr.write(plain(prompt))
    sys.stderr.flush()
    line = sys.stdin.readline()
    if not line.endswith("\n"):
        with contextlib.suppress(OSError):
            sys.stderr.write("\n")
    return line.strip()
