"""The supervisor and its launcher, over both shells, with real processes; no trainer is needed here.

What is supervised is a small program that does what the test tells it: `trainer` in a code folder made here.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import remote_env
from orchestrator.connect import open_shell
from orchestrator.shell import LocalShell, Shell
from remote_env import supervise
from tests.conftest import Box, end_runs, eventually
from trainer.contract import RunDir

REMOTE_ENV = Path(remote_env.__file__).parent
PROGRAM = """
import os, pathlib, signal, sys, time
run = pathlib.Path(sys.argv[1])
print("begun", os.getpid(), flush=True)
while not (run / "go").exists():
    time.sleep(0.01)
exec((run / "go").read_text())
"""


class Runs:
    """A folder of runs on the other side of a shell."""

    def __init__(self, shell: Shell, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shell = shell
        self.code = folder / "code"
        self.dir = folder / "runs" / "a-run"
        self.dir.mkdir(parents=True)
        (self.code / "trainer").mkdir(parents=True)
        (self.code / "trainer" / "__main__.py").write_text(PROGRAM)
        shutil.copytree(REMOTE_ENV, self.code / "remote_env", ignore=shutil.ignore_patterns("__pycache__"))

    def launch(self, token: str = "t1", spec: str = "x", **attempt: Any) -> dict[str, Any]:
        argv = ["sh", str(self.code / "remote_env/launch.sh"), sys.executable, str(self.dir), str(self.code)]
        body = json.dumps({"token": token, "note": 'it\'s "quoted" $HOME', **attempt})
        request = json.dumps({"spec": {"a": spec}}).encode()
        answer = self.shell.run([*argv, token, body], stdin=request)
        assert answer.code == 0, answer
        word: dict[str, Any] = json.loads(answer.out)
        return word

    def ask(self, verb: str, *options: str) -> dict[str, Any]:
        script = str(self.code / "remote_env/supervise.py")
        answer = self.shell.run([sys.executable, "-IS", script, verb, str(self.dir), *options])
        assert answer.code == 0, answer
        body: dict[str, Any] = json.loads(answer.out)
        return body

    def go(self, program: str = "") -> None:
        """Let the program do this, and end."""
        aside = self.dir / ".go"
        aside.write_text(program)
        aside.rename(self.dir / "go")

    def ended(self) -> dict[str, Any]:
        eventually(lambda: not self.ask("status")["alive"])
        end: dict[str, Any] = self.ask("status")["exit"]
        return end

    @property
    def pid(self) -> int:
        return int(self.ask("status")["process"]["pid"])


@pytest.fixture
def runs(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runs]:
    monkeypatch.setenv("TMUX_TMPDIR", str(tmp_path))
    made = Runs(shell, tmp_path, monkeypatch)
    yield made
    end_runs(tmp_path / "runs")
    subprocess.run(["tmux", "kill-server"], stderr=subprocess.DEVNULL, check=False)


def test_names_of_files_are_those_of_the_contract(tmp_path: Path) -> None:
    paths = RunDir(tmp_path)
    source = (REMOTE_ENV / "supervise.py").read_text()
    for path in (paths.spec, paths.exit, paths.lock, paths.log, paths.attempts):
        assert f'"{path.name}"' in source


def test_a_launch_answers_once_the_lock_is_held_and_a_clean_end_is_recorded(runs: Runs) -> None:
    assert runs.launch() == {"started": True, "attempt": 1}
    assert runs.ask("status")["alive"]
    assert json.loads((runs.dir / "spec.json").read_text()) == {"a": "x"}
    asked = json.loads((runs.dir / "attempts" / "1.json").read_text())
    assert asked["number"] == 1
    assert asked["note"] == 'it\'s "quoted" $HOME'
    runs.go()
    end = runs.ended()
    assert (end["code"], end["signal"], end["stopped"], end["attempt"]) == (0, None, False, 1)
    assert "begun" in end["tail"][0]


def test_the_same_token_never_starts_twice(runs: Runs) -> None:
    runs.launch("same")
    first = runs.pid
    assert runs.launch("same") == {"started": True, "attempt": 1}
    assert runs.pid == first
    runs.go()
    runs.ended()
    assert runs.launch("same") == {"started": True, "attempt": 1}
    assert not runs.ask("status")["alive"]


def test_of_two_launches_at_once_one_wins(runs: Runs, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        words = list(pool.map(lambda n: runs.launch(f"token{n}"), range(8)))
    assert sorted(w["started"] for w in words) == [False] * 7 + [True]
    assert {w["why"] for w in words if not w["started"]} == {"running"}
    assert [p.name for p in (runs.dir / "attempts").iterdir()] == ["1.json"]
    assert not list(runs.dir.glob(".word-*"))


def test_a_second_attempt_keeps_the_first_exit_record(runs: Runs) -> None:
    runs.launch("one")
    runs.go("sys.exit(4)")
    assert runs.ended()["code"] == 4
    (runs.dir / "go").unlink()
    assert runs.launch("two") == {"started": True, "attempt": 2}
    assert runs.ask("status")["exit"] is None
    runs.go()
    assert runs.ended()["attempt"] == 2
    assert json.loads((runs.dir / "exit-1.json").read_text())["code"] == 4


def test_another_runs_folder_is_not_taken_over(runs: Runs) -> None:
    runs.launch("one", spec="x")
    argv = ["sh", str(runs.code / "remote_env/launch.sh"), sys.executable, str(runs.dir), str(runs.code)]
    answer = runs.shell.run([*argv, "two", json.dumps({"token": "two"})], stdin=b'{"spec": {"a": "other"}}')
    assert answer.code != 0
    assert "another run's" in answer.last_error


@pytest.mark.parametrize(
    ("program", "code", "signal_name"),
    [
        ("raise ValueError('no such thing')", 1, None),
        ("os.kill(os.getpid(), signal.SIGKILL)", None, "SIGKILL"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", None, "SIGSEGV"),
    ],
)
def test_how_the_trainer_died_is_recorded(
    runs: Runs, program: str, code: int | None, signal_name: str | None
) -> None:
    runs.launch()
    runs.go(program)
    end = runs.ended()
    assert (end["code"], end["signal"], end["stopped"], end["oom"]) == (code, signal_name, False, False)
    if code:
        assert "no such thing" in end["tail"][-1]


def test_a_stop_that_was_asked_is_told_from_a_failure(runs: Runs) -> None:
    runs.launch()
    assert runs.ask("stop")["asked"]
    assert runs.ended()["stopped"]
    assert runs.ask("stop") == {"asked": False, "why": "not running"}


def test_stop_now_ends_what_the_trainer_started_too(runs: Runs) -> None:
    runs.launch()
    runs.go(
        "import subprocess; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['sleep', '600']); (run / 'child').write_text(str(child.pid))\n"
        "child.wait()"
    )
    eventually((runs.dir / "child").exists)
    eventually(lambda: (runs.dir / "child").read_text())
    child = int((runs.dir / "child").read_text())
    runs.ask("stop", "--kill")
    assert runs.ended()["signal"] == "SIGKILL"
    eventually(lambda: not _lives(child))


def test_without_its_supervisor_the_run_still_lives_and_can_be_stopped(runs: Runs) -> None:
    runs.launch()
    status = runs.ask("status")
    os.kill(status["process"]["supervisor"], signal.SIGKILL)
    eventually(lambda: not _lives(status["process"]["supervisor"]))
    assert runs.ask("status")["alive"]
    assert runs.launch("other")["why"] == "running"
    assert runs.ask("stop")["asked"]
    eventually(lambda: not runs.ask("status")["alive"])
    assert runs.ask("status")["exit"] is None


def test_trainer_and_supervisor_killed_leave_a_free_lock_and_no_exit_record(runs: Runs) -> None:
    runs.launch()
    process = runs.ask("status")["process"]
    os.kill(process["supervisor"], signal.SIGKILL)
    os.kill(process["pid"], signal.SIGKILL)
    eventually(lambda: not runs.ask("status")["alive"])
    after = runs.ask("status")
    assert after["exit"] is None
    assert after["process"] == process
    assert not after["rebooted"]


def test_a_restarted_machine_is_known_by_its_boot(runs: Runs) -> None:
    runs.launch()
    process = json.loads((runs.dir / "process.json").read_text())
    for pid in (process["supervisor"], process["pid"]):
        os.kill(pid, signal.SIGKILL)
    (runs.dir / "process.json").write_text(json.dumps({**process, "boot": "an earlier one"}))
    eventually(lambda: not runs.ask("status")["alive"])
    assert runs.ask("status")["rebooted"]


def test_another_process_with_the_recorded_number_is_never_signalled(runs: Runs) -> None:
    runs.launch()
    process = json.loads((runs.dir / "process.json").read_text())
    with subprocess.Popen(["sleep", "600"]) as bystander:
        changed = {**process, "pid": bystander.pid}
        (runs.dir / "process.json").write_text(json.dumps(changed))
        assert not runs.ask("stop", "--kill")["asked"]
        assert bystander.poll() is None
        bystander.kill()
    os.kill(process["pid"], signal.SIGKILL)


def test_a_hang_up_and_a_ctrl_c_do_not_end_the_run(runs: Runs) -> None:
    runs.launch()
    supervisor = runs.ask("status")["process"]["supervisor"]
    for harmless in (signal.SIGHUP, signal.SIGINT):
        os.kill(supervisor, harmless)
    runs.go()
    assert runs.ended()["code"] == 0


def test_the_log_is_there_while_the_trainer_runs(runs: Runs) -> None:
    runs.launch()
    eventually(lambda: b"begun" in runs.shell.read(str(runs.dir / "train.log"), 0))


def test_launch_uses_tmux_where_there_is_one_and_its_server_may_die(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("TMUX_TMPDIR", str(tmp_path))
    runs = Runs(LocalShell(), tmp_path, monkeypatch)
    runs.launch()
    try:
        assert runs.ask("status")["process"]["via"] == "tmux"
        sessions = subprocess.run(["tmux", "ls"], capture_output=True, text=True, check=True).stdout
        assert "ec2emo-a-run" in sessions
        shown = ["tmux", "capture-pane", "-p", "-t", "=ec2emo-a-run:"]
        eventually(lambda: b"begun" in subprocess.run(shown, capture_output=True, check=True).stdout)
        subprocess.run(["tmux", "kill-server"], check=True)
        assert runs.ask("status")["alive"]
        runs.go()
        assert runs.ended()["code"] == 0
    finally:
        end_runs(tmp_path / "runs")


def test_launch_uses_nohup_where_there_is_no_tmux_and_outlives_the_connection(
    own_box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "basename", "nohup", "env", "tail", "head", "cat"):
        (programs / name).symlink_to(shutil.which(name) or name)
    own_box.set_path(str(programs))
    with open_shell(own_box.machine) as shell:
        runs = Runs(shell, tmp_path, monkeypatch)
        runs.launch()
        assert runs.ask("status")["process"]["via"] == "nohup"
    own_box.stop()
    own_box.start()
    with open_shell(own_box.machine) as shell:
        runs.shell = shell
        assert runs.ask("status")["alive"]
        runs.go()
        assert runs.ended()["code"] == 0
    end_runs(tmp_path / "runs")


def test_a_silent_supervisor_is_reported_with_what_it_said(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(supervise, "AWAIT_PATIENCE", 0.05)
    (tmp_path / "supervisor.log").write_text("No module named nothing\n")
    word = supervise.await_word(tmp_path, "token")
    assert word == {"started": False, "why": "silent", "tail": ["No module named nothing"]}


def test_on_a_full_disk_the_end_is_still_recorded(tmp_path: Path, monkeypatch: Any) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)], check=True)
    try:
        monkeypatch.setenv("TMUX_TMPDIR", str(tmp_path))
        runs = Runs(LocalShell(), tmp_path, monkeypatch)
        runs.dir = disk / "a-run"
        runs.dir.mkdir()
        runs.launch()
        fill = "with open(run / 'fill', 'wb', 0) as f:\n  for _ in range(4096): f.write(bytes(4096))"
        (runs.dir / "go").write_text(fill)
        end = runs.ended()
        assert (end["code"], end["attempt"]) == (1, 1)
        assert not any(p.name == "fill" and p.stat().st_size == 0 for p in runs.dir.iterdir())
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def _lives(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_times_are_by_the_machines_clock(runs: Runs) -> None:
    before = time.time()
    assert before - 1 <= runs.ask("status")["now"] <= time.time() + 1
