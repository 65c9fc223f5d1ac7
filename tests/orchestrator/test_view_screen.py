"""What people see, on the screen that tmux makes of the bytes."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.view.status import status_block
from tests.orchestrator.snapshots import MOMENTS
from tests.orchestrator.test_view_terminal import FOLLOW, PATIENCE, ROOT, environment


class Tmux:
    """A tmux server of its own, with one window."""

    def __init__(self, folder: Path, columns: int, rows: int, code: str) -> None:
        script = folder / "shown.py"
        script.write_text(FOLLOW + code)
        self._socket = str(folder / "socket")
        env = environment({"PYTHONPATH": str(ROOT), "TERM": "xterm-256color"})
        command = f"{sys.executable} {script}; sleep {PATIENCE}"
        self._env = env
        self("-f", "/dev/null", "new-session", "-d", "-x", str(columns), "-y", str(rows), command)

    def __call__(self, *argv: str) -> str:
        return subprocess.run(
            ["tmux", "-u", "-S", self._socket, *argv],
            env=self._env,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        ).stdout

    def screen(self, *flags: str) -> list[str]:
        """The lines on the screen."""
        return [line.rstrip() for line in self("capture-pane", "-p", *flags).rstrip("\n").split("\n")]

    def wait_for(self, *parts: str) -> list[str]:
        """The screen once it shows these."""
        until = time.monotonic() + PATIENCE
        while not all(part in "\n".join(self.screen()) for part in parts):
            assert time.monotonic() < until, f"{parts} never came:\n" + "\n".join(self.screen())
            time.sleep(0.05)
        time.sleep(0.2)
        return self.screen()

    def close(self) -> None:
        subprocess.run(["tmux", "-S", self._socket, "kill-server"], stderr=subprocess.DEVNULL, check=False)


@pytest.fixture
def tmux(tmp_path: Path) -> Iterator[Callable[[int, int, str], Tmux]]:
    if shutil.which("tmux") is None:
        pytest.skip("needs tmux, whose screen is looked at")
    opened: list[Tmux] = []

    def open_(columns: int, rows: int, code: str) -> Tmux:
        opened.append(Tmux(tmp_path, columns, rows, code))
        return opened[-1]

    yield open_
    for one in opened:
        one.close()


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (40, 24)])
def test_the_page_fits_a_real_window_without_a_wrapped_line(
    tmux: Callable[[int, int, str], Tmux], columns: int, rows: int
) -> None:
    window = tmux(
        columns, rows, "view.follow([*slowly(story(), 0.02), hostile(), MOMENTS['overfitting']], log_lines=4)"
    )
    screen = window.wait_for("SYNTHETIC", "24 of 30", "overfitting")
    assert screen[0].startswith("● running  v9-0611-1420-abc")
    assert sum("running" in line and "v9-0611" in line for line in screen) == 1
    assert window.screen("-J") == screen  # -J joins what was wrapped
    assert len(screen) <= rows - 2
    assert window.screen("-S", "-")[0] == screen[0]  # nothing was pushed out above


def test_a_window_made_narrower_shows_one_whole_page(tmux: Callable[[int, int, str], Tmux]) -> None:
    code = """
import os
def until_narrow():
    while os.get_terminal_size().columns > 40:
        yield MOMENTS["running"]
        time.sleep(0.02)
    yield MOMENTS["running"]
    yield MOMENTS["away"]
view.follow(until_narrow(), log_lines=4)
"""
    window = tmux(80, 24, code)
    window.wait_for("17 of 30")
    window("resize-window", "-x", "40", "-y", "24")
    screen = window.wait_for("go on", "0.6706")
    assert screen[0] == "! unreachable  v9-0611-1420-abc  0:11:49"
    assert sum(line.startswith("epoch     17 of 30") for line in screen) == 1
    assert window.screen("-J") == screen


def test_a_page_on_the_screen_is_the_page_that_was_made(tmux: Callable[[int, int, str], Tmux]) -> None:
    window = tmux(80, 24, "view.show(MOMENTS['finished'], log_lines=2)")
    screen = window.wait_for("ec2emo download")
    console = Console(width=80)
    made = status_block(MOMENTS["finished"], log_lines=2).fitted(console, 80, 22).plain
    assert screen == [line.rstrip() for line in made.split("\n")]


def test_an_ended_follower_leaves_the_cursor_on(tmux: Callable[[int, int, str], Tmux]) -> None:
    window = tmux(80, 24, "view.follow(story(), log_lines=4)")
    window.wait_for("✓ finished")
    assert window("display", "-p", "#{cursor_flag}").strip() == "1"
