"""What people see, on real terminals: the bytes that a pty gets."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from orchestrator import view
from tests.orchestrator.snapshots import MOMENTS

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0

# What rich may send: styles, the cursor hidden and shown, a line erased, the cursor moved up, the window
# cleared when it was resized.
OURS = re.compile(r"\x1b\[(?:[0-9;]*m|\?25[lh]|2K|1?A|H|2J)|\r")

FOLLOW = """
import time
from orchestrator import view
from tests.orchestrator.snapshots import MOMENTS, hostile, story
def slowly(snapshots, seconds):
    for shown in snapshots:
        yield shown
        time.sleep(seconds)
"""


@dataclass
class Ended:
    """What a program wrote to its terminal, and how it ended."""

    code: int
    said: str


def on_a_pty(
    code: str,
    *,
    columns: int = 80,
    rows: int = 24,
    env: dict[str, str] | None = None,
    meanwhile: Callable[[int, str], bytes] | None = None,
) -> Ended:
    """Run Python on a terminal of its own; `meanwhile` sees what was said so far and answers what to type."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", FOLLOW + code],
        cwd=ROOT,
        env=environment(env),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=_on_its_own,
    )
    os.close(theirs)
    said, until = b"", time.monotonic() + PATIENCE
    try:
        while time.monotonic() < until:
            if select.select([ours], [], [], 0.05)[0]:
                try:
                    data = os.read(ours, 65536)
                except OSError:  # Linux's way to say that the other end is closed
                    break
                if not data:
                    break
                said += data
            if meanwhile and (typed := meanwhile(process.pid, said.decode("utf-8", "surrogateescape"))):
                os.write(ours, typed)
        return Ended(
            process.wait(max(0.1, until - time.monotonic())), said.decode("utf-8", "surrogateescape")
        )
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(ours)


def _on_its_own() -> None:
    """What a terminal does before it starts a shell."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which whoever runs the tests under nohup has ignored


def environment(env: dict[str, str] | None) -> dict[str, str]:
    """As on a terminal of today, whatever runs the tests."""
    unwanted = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "COLORTERM", "PYTHONIOENCODING", "TMUX")
    kept = {k: v for k, v in os.environ.items() if k not in unwanted}
    return {**kept, "TERM": "xterm-256color", "PYTHONUTF8": "1", **(env or {})}


def once(typed: bytes, after: str) -> Callable[[int, str], bytes]:
    """Type this as soon as that was said."""
    done: list[bool] = []

    def meanwhile(_: int, said: str) -> bytes:
        if after in said and not done:
            done.append(True)
            return typed
        return b""

    return meanwhile


def cursor_is_back(said: str) -> bool:
    return "\x1b[?25l" in said and said.rindex("\x1b[?25h") > said.rindex("\x1b[?25l")


def foreign(said: str) -> set[str]:
    """What could act on the terminal and is not ours."""
    rest = OURS.sub("", said)
    return {c for c in rest if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")}


# Following


def test_the_last_state_stays_on_the_terminal_and_the_cursor_comes_back() -> None:
    ended = on_a_pty("view.follow(story(synthetic=True), log_lines=4)")
    assert ended.code == 0, ended.said
    assert cursor_is_back(ended.said)
    last = ended.said[ended.said.rindex("\x1b[2K") :]
    for part in ("✓ finished", "SYNTHETIC", "early stopping", "ec2emo download v9-0611-1420-abc --best"):
        assert part in last
    assert foreign(ended.said) == set()


def test_ctrl_c_ends_it_at_once_with_the_cursor_back() -> None:
    code = """
try:
    view.follow(slowly(story(), 0.2), log_lines=4)
except KeyboardInterrupt:
    view.say("left it")
    raise SystemExit(130)
"""
    ended = on_a_pty(code, meanwhile=once(b"\x03", "epoch     "))
    assert ended.code == 130, ended.said
    assert cursor_is_back(ended.said)
    assert "Traceback" not in ended.said
    after = ended.said[ended.said.rindex("ec2emo monitor v9-0611-1420-abc --follow") :]
    assert "^C" not in after and after.endswith("left it\r\n")


def test_a_failure_while_following_gives_the_cursor_back() -> None:
    code = """
def broken():
    yield MOMENTS["running"]
    raise OSError("the line is cut")
try:
    view.follow(broken(), log_lines=4)
except OSError as e:
    view.error(str(e))
"""
    ended = on_a_pty(code)
    assert cursor_is_back(ended.said)
    assert ended.said.rindex("ec2emo: ") > ended.said.rindex("\x1b[?25h")


def test_wherever_a_signal_ends_it_the_cursor_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    line, reached = 1, True
    while reached:
        terminal = Terminal()
        monkeypatch.setattr(sys, "stdout", terminal)
        reached = ended_at(line, lambda: view.follow([MOMENTS["running"]], log_lines=4))
        said = terminal.getvalue()
        assert said.rfind("\x1b[?25h") >= said.rfind("\x1b[?25l"), f"line {line}"
        assert sys.stdout is terminal
        line += 89  # which meets every part of a drawing, and is done in seconds


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def ended_at(line: int, call: Callable[[], object]) -> bool:
    """Call it, and raise what a signal raises before the so manieth line of rich's own drawing. Whether so
    many there were.
    """
    left = line

    def traced(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if Path(frame.f_code.co_filename).name not in ("live.py", "live_render.py", "console.py"):
            return None
        if frame.f_code.co_name in ("split_and_crop_lines", "_render_buffer", "render"):
            return None  # a thousand lines alike
        if event == "line":
            left -= 1
            if left == 0:
                raise SystemExit(128 + signal.SIGTERM)
        return traced

    before = sys.gettrace()
    sys.settrace(traced)
    try:
        call()
    except SystemExit:
        return True
    finally:
        sys.settrace(before)
    return False


def test_what_did_not_change_is_not_drawn_again() -> None:
    ended = on_a_pty("view.follow([MOMENTS['finished']] * 50, log_lines=4)")
    assert ended.said.count("✓ finished") == 2  # when it came, and for good


def test_words_said_meanwhile_stand_above_the_page() -> None:
    code = """
def talking():
    yield MOMENTS["running"]
    view.say("the key was accepted", level="good")
    yield MOMENTS["finished"]
view.follow(talking(), log_lines=4)
"""
    said = on_a_pty(code).said
    assert said.index("the key was accepted") < said.index("✓ finished")
    before = said[: said.index("the key was accepted")]
    assert before.count("\x1b[2K") >= 15  # the page was taken away first


@pytest.mark.parametrize("columns", [80, 40])
def test_nothing_hostile_reaches_a_terminal_that_follows(columns: int) -> None:
    ended = on_a_pty("view.follow([hostile()], log_lines=40)", columns=columns)
    assert ended.code == 0, ended.said
    assert foreign(ended.said) == set()
    assert "✗ failed" in ended.said


def test_nothing_hostile_reaches_a_terminal_by_any_other_way() -> None:
    code = "from tests.orchestrator.test_view_tables import show_everything\nshow_everything()"
    ended = on_a_pty(code)
    assert ended.code == 0, ended.said
    assert foreign(ended.said) == set()
    assert "[link=http://evil.example]markup[/link][bold red]" in ended.said


def test_a_dumb_terminal_gets_lines_and_no_codes() -> None:
    ended = on_a_pty("view.follow(story(), log_lines=4); view.say('so', level='good')", env={"TERM": "dumb"})
    assert "\x1b" not in ended.said
    assert ended.said.count("epoch 3 of 30 ") == 1
    assert ended.said.endswith("✓ so\r\n")


def test_no_color_means_no_styles() -> None:
    code = "view.follow(story(), log_lines=4); view.show(MOMENTS['failed']); view.error('no')"
    coloured, plain = on_a_pty(code), on_a_pty(code, env={"NO_COLOR": "1"})
    assert re.search(r"\x1b\[[0-9;]*m", coloured.said)
    assert not re.search(r"\x1b\[[0-9;]*m", plain.said)
    assert "✗ failed" in plain.said


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_without_utf8_gets_signs_it_knows(encoding: str) -> None:
    code = "view.follow([*story(), hostile()], log_lines=4); view.show(MOMENTS['running'])"
    ended = on_a_pty(code, env={"PYTHONUTF8": "0", "PYTHONIOENCODING": encoding, "NO_COLOR": "1"})
    assert ended.code == 0, ended.said
    assert "epoch     17 of 30  ===============================------------------------  57%" in ended.said
    assert "accuracy  * val  ~ train" in ended.said
    assert "* running  v9-0611-1420-abc" in ended.said


# The same in a pipe


def in_a_pipe(code: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", FOLLOW + code],
        cwd=ROOT,
        env=environment(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )


def test_a_pipe_gets_no_codes_even_where_colours_are_forced() -> None:
    code = "view.follow(story(), log_lines=4); view.show(MOMENTS['failed']); view.error('no')"
    ended = in_a_pipe(code, {"FORCE_COLOR": "1", "TTY_INTERACTIVE": "1", "CLICOLOR_FORCE": "1"})
    assert ended.returncode == 0
    assert b"\x1b" not in ended.stdout + ended.stderr
    assert ended.stdout.count(b"epoch 3 of 30 ") == 1
    assert ended.stderr == b"ec2emo: no\n"


def test_a_pipe_without_utf8_gets_no_error() -> None:
    code = (
        "view.follow([*story(), hostile()], log_lines=4); view.say('é ✓', level='good'); view.show(hostile())"
    )
    ended = in_a_pipe(code, {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii:strict"})
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.isascii() and ended.stderr == b"+ ? +\n"


@pytest.mark.parametrize(
    "call",
    [
        "view.data('x' * 1000)",
        "view.json_line({'x': 'x' * 1000})",
        "view.show(MOMENTS['running'])",
        "view.follow(story(), log_lines=4)",
        "view.plan({'x': 'x' * 1000})",
    ],
)
def test_a_closed_pipe_is_for_the_command_line_to_answer(call: str) -> None:
    code = f"""
import os, sys
try:
    for _ in range(1000):
        {call}
except BrokenPipeError:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    raise SystemExit(42)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", FOLLOW + code],
        cwd=ROOT,
        env=environment(None),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    _, complaint = process.communicate(timeout=PATIENCE)
    assert (process.returncode, complaint) == (42, b"")


# Waiting


def test_a_bar_goes_away_and_the_cursor_comes_back() -> None:
    code = """
with view.progress("sending 8,690 clips", unit="bytes") as telling:
    for i in range(10):
        telling(i * 1e8, 1e9)
        time.sleep(0.05)
view.say("they are there")
"""
    ended = on_a_pty(code)
    assert ended.code == 0, ended.said
    assert re.search(r"sending 8,690 clips  .*━.* \d0%, \d00 MB of 1\.0 GB", ended.said)
    assert cursor_is_back(ended.said)
    assert OURS.sub("", ended.said[ended.said.rindex("\x1b[2K") :]).strip() == "they are there"


def test_ctrl_c_while_waiting_gives_the_cursor_back() -> None:
    code = """
try:
    with view.progress("making the environment"):
        time.sleep(30)
except KeyboardInterrupt:
    raise SystemExit(130)
"""
    ended = on_a_pty(code, meanwhile=once(b"\x03", "environment …"))
    assert ended.code == 130 and cursor_is_back(ended.said)


def test_a_question_is_answered_on_the_terminal() -> None:
    code = "view.data(str([view.confirm('Spend 3 USD?'), view.ask('Where?', 'local')]))"
    typed = iter([("[y/N] ", b"y\n"), ("[local] ", b"\n")])
    pending = [next(typed)]

    def meanwhile(_: int, said: str) -> bytes:
        if pending and said.endswith(pending[0][0]):
            answer = pending[0][1]
            pending[:] = [step for step in [next(typed, None)] if step]
            return answer
        return b""

    ended = on_a_pty(code, meanwhile=meanwhile)
    assert ended.said.splitlines()[-1] == "[True, 'local']"
