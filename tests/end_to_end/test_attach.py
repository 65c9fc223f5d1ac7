"""`ec2emo ssh` in a real terminal, and `ec2emo init` asking in one."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import shlex
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PROGRAM, Ec2emo, eventually
from tests.end_to_end.conftest import Place


class Terminal:
    """A program on a pseudo-terminal."""

    def __init__(self, ec2emo: Ec2emo, *argv: str) -> None:
        self.seen = b""
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.chdir(ec2emo.cwd)
            os.execve(PROGRAM[0], [*PROGRAM, *argv], {**ec2emo.env, "TERM": "xterm"})

    def read(self) -> bytes:
        while select.select([self._fd], [], [], 0)[0]:
            try:
                piece = os.read(self._fd, 1 << 16)
            except OSError:
                break
            if not piece:
                break
            self.seen += piece
        return self.seen

    def type(self, keys: bytes) -> None:
        os.write(self._fd, keys)

    def code(self, patience: float = 180.0) -> int:
        """The exit code, once it has ended."""
        until = time.monotonic() + patience
        while time.monotonic() < until:
            self.read()
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        raise AssertionError(f"still running after {patience:.0f} s: {self.seen!r}")

    def close(self) -> None:
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._fd)


@contextlib.contextmanager
def terminal(ec2emo: Ec2emo, *argv: str) -> Iterator[Terminal]:
    made = Terminal(ec2emo, *argv)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def run(ec2emo: Ec2emo, data: Path) -> Iterator[Place]:
    place = Place("local", ec2emo, ec2emo.home / "machine", data)
    place.deploy(name="seen", epochs=4000)
    yield place
    ec2emo("stop", "seen", "--now")


def test_ssh_attaches_to_the_session_and_leaving_leaves_the_run(run: Place) -> None:
    with terminal(run.ec2emo, "ssh", "seen") as screen:
        eventually(lambda: b"Epoch 1/4000" in screen.read())
        screen.type(b"\x02d")
        assert screen.code() == 0
    assert run.see("seen", code=0)["state"] == "running"


def test_a_ctrl_c_while_attached_does_not_end_the_run(run: Place) -> None:
    with terminal(run.ec2emo, "ssh", "seen") as screen:
        eventually(lambda: b"Epoch 1/4000" in screen.read())
        screen.type(b"\x03")
        before = run.see("seen", code=0)["epoch"]
        run.await_epoch("seen", before + 2)
        screen.type(b"\x02d")
        assert screen.code() == 0
    assert run.see("seen", code=0)["state"] == "running"


def test_ssh_without_a_terminal_is_refused_and_can_print_its_command(run: Place) -> None:
    assert "needs a terminal" in run.ec2emo("ssh", "seen", code=2).err
    argv = shlex.split(run.ec2emo("ssh", "seen", "--print").out)
    assert argv[0] == "sh"
    assert argv[-2:] == ["ec2emo-seen", str(run.dir("seen") / "train.log")]


def test_init_asks_in_a_terminal_and_keeps_comments(ec2emo: Ec2emo, data: Path) -> None:
    (ec2emo.cwd / "ec2emo.toml").write_text('# ours\non = "local"  # for now\n')
    with terminal(ec2emo, "init") as screen:
        eventually(lambda: b"Where" in screen.read())
        screen.type(b"\r")
        eventually(lambda: b"On what data" in screen.read())
        screen.type(str(data).encode() + b"\r")
        assert screen.code() == 0, screen.seen
    written = (ec2emo.cwd / "ec2emo.toml").read_text()
    assert "# ours" in written and "# for now" in written
    assert f'data = "{data}"' in written
    assert 'on = "local"' in written
