"""A log that ec2emo did not start: read and followed where it lies, with real writers that really die."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator import logfile
from orchestrator.connect import open_shell
from orchestrator.errors import BadRequest
from orchestrator.logfile import LogFollower, Tail, look
from orchestrator.machine import Machine
from orchestrator.shell import LocalShell, Shell
from tests.conftest import Box, Ec2emo, eventually
from tests.orchestrator.keras_words import last, update

pytestmark = pytest.mark.limit(300)

HERE = Machine("local")
TRAINED = "".join(f"Epoch {e}/3\n{last(20, 0.5 + e / 10)}" for e in (1, 2, 3))
# Writes what it is told by its standard input, a JSON text a line, into a file that it holds open.
WRITER = """
import json, sys
with open(sys.argv[1], "ab", buffering=0) as log:
    for line in sys.stdin:
        log.write(json.loads(line).encode())
"""


class Writer:
    """A program whose log it is."""

    def __init__(self, path: Path) -> None:
        argv = [sys.executable, "-c", WRITER, str(path)]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE)
        eventually(path.exists)

    def says(self, text: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(text).encode() + b"\n")
        self.process.stdin.flush()

    def ends(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()

    def dies(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdin
        self.process.stdin.close()


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    made = Writer(tmp_path / "train.log")
    yield made
    if made.process.poll() is None:
        made.ends()


def answer(ec2emo: Ec2emo, path: object, *more: str, code: int = 0) -> dict[str, Any]:
    done = ec2emo("monitor", "--log-file", str(path), "--json", *more, code=code)
    body: dict[str, Any] = json.loads(done.out)
    return body


def test_the_answer_tells_the_last_fit_and_all(ec2emo: Ec2emo, tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_text(TRAINED + "Epoch 1/5\n" + last(20, 0.25))
    body = answer(ec2emo, log)
    assert body["log_file"] == str(log)
    assert (body["state"], body["epoch"], body["epochs"]) == ("stopped", 1, 5)
    assert body["best"] == {"epoch": 1, "val_accuracy": 0.25}
    assert body["metrics"]["val_loss"] == 0.4
    first, second = body["fits"]
    assert first.items() >= {"epochs": 3, "last_epoch": 3, "status": "finished"}.items()
    assert first["best"] == {"epoch": 3, "val_accuracy": 0.8}
    assert second.items() >= {"epochs": 5, "last_epoch": 1, "status": "stopped"}.items()


@pytest.mark.parametrize(
    ("text", "state", "code"),
    [
        (TRAINED, "finished", 0),
        (TRAINED + "Test accuracy: 0.9\n", "finished", 0),
        (TRAINED + 'Traceback (most recent call last):\n  File "x"\nOSError: disk full\n', "failed", 1),
        ("Epoch 1/3\n" + update(3, 20), "lost", 1),
        ("Epoch 1/3\n" + last(20, 0.5), "stopped", 0),
        ("Epoch 1/3\n" + last(20, 0.5) + "Test accuracy: 0.9\n", "finished", 0),
        ("Epoch 1/3\nKilled\n", "failed", 1),
        ("", "lost", 1),
    ],
)
def test_the_exit_code_is_that_of_the_program(
    ec2emo: Ec2emo, tmp_path: Path, text: str, state: str, code: int
) -> None:
    (tmp_path / "train.log").write_text(text)
    assert answer(ec2emo, tmp_path / "train.log", code=code)["state"] == state


def test_the_page_of_a_log_says_nothing_that_the_log_does_not(ec2emo: Ec2emo, tmp_path: Path) -> None:
    headless = tmp_path / "headless.log"
    headless.write_text("0s - loss: 1.5 - val_acc: 0.2000\n0s - loss: 1.4 - val_acc: 0.3000\n")
    page = ec2emo("monitor", "--log-file", str(headless), code=None).out
    assert "epoch     2\n" in page and "source    a Keras log" in page
    for unsaid in ("of 0", "batches of", "lr", "unknown", "0.0 s per epoch", "tensorboard"):
        assert unsaid not in page
    told = ec2emo("monitor", "--log-file", str(headless), "--follow", code=None).out
    assert "epoch 2  loss 1.4000  val_accuracy 0.3000" in told


def test_what_cannot_be_read_is_said_in_one_sentence(ec2emo: Ec2emo, tmp_path: Path) -> None:
    assert "no file" in ec2emo("monitor", "--log-file", "not-there.log", code=2).err
    assert "name the log itself" in ec2emo("monitor", "--log-file", str(tmp_path), code=2).err
    assert "not both" in ec2emo("monitor", "a-run", "--log-file", "x", code=2).err
    assert "--log-file" in ec2emo("monitor", "--on", "local", code=2).err


def test_a_program_that_holds_its_log_open_is_running(ec2emo: Ec2emo, tmp_path: Path, writer: Writer) -> None:
    assert answer(ec2emo, tmp_path / "train.log")["reason"] == "no bytes yet"
    writer.says("Epoch 1/3\n" + last(20, 0.5) + "Epoch 2/3\n" + update(3, 20))
    eventually(lambda: answer(ec2emo, tmp_path / "train.log")["epoch"] == 1)
    assert answer(ec2emo, tmp_path / "train.log")["state"] == "running"
    writer.dies()
    assert answer(ec2emo, tmp_path / "train.log", code=1)["state"] == "lost"


def test_following_tells_each_epoch_and_ends_with_the_program(
    ec2emo: Ec2emo, tmp_path: Path, writer: Writer
) -> None:
    following = ec2emo.start("monitor", "--log-file", str(tmp_path / "train.log"), "--follow", "--json")
    assert following.stdout
    first, second, third = ("Epoch" + text for text in TRAINED.split("Epoch")[1:])
    seen = [json.loads(following.stdout.readline())]
    for text in (first, second[:40], second[40:], third):
        writer.says(text)
    while seen[-1]["epoch"] < 3:
        seen.append(json.loads(following.stdout.readline()))
    writer.ends()
    out, err = following.communicate(timeout=60)
    seen += [json.loads(line) for line in out.splitlines()]
    assert (following.returncode, seen[-1]["state"], err) == (0, "finished", "")
    assert [body["epoch"] for body in seen] == sorted(body["epoch"] for body in seen)
    assert seen[-1]["best"] == {"epoch": 3, "val_accuracy": 0.8}


def test_a_person_is_told_epochs_and_how_it_died(ec2emo: Ec2emo, tmp_path: Path, writer: Writer) -> None:
    following = ec2emo.start("monitor", "--log-file", str(tmp_path / "train.log"), "--follow")
    writer.says("Epoch 1/3\n" + last(20, 0.5) + "Epoch 2/3\n" + update(3, 20))
    assert following.stdout
    lines = iter(following.stdout.readline, "")
    assert any("epoch 1 of 3" in line and "val_accuracy 0.5000" in line for line in lines)
    writer.dies()
    out, err = following.communicate(timeout=60)
    assert following.returncode == 1
    assert "lost (the log ends in epoch 2 of 3" in out
    assert "Traceback" not in err and "--log --lines 40" in err


def test_ctrl_c_leaves_the_program_alone(ec2emo: Ec2emo, tmp_path: Path, writer: Writer) -> None:
    following = ec2emo.start("monitor", "--log-file", str(tmp_path / "train.log"), "--follow", "--json")
    assert following.stdout
    following.stdout.readline()
    following.send_signal(signal.SIGINT)
    _, err = following.communicate(timeout=60)
    assert following.returncode == 130
    assert "comes back" in err
    assert writer.process.poll() is None


def test_the_log_itself_is_shown_and_cannot_harm(ec2emo: Ec2emo, tmp_path: Path) -> None:
    evil = "\x1b]52;c;ZXZpbA==\x07\x1b[2J\x9b31m\u202e[bold]"
    log = tmp_path / "train.log"
    log.write_text(f"{TRAINED}{evil}one\nTraceback (most recent call last):\nValueError: {evil}two\n")
    shown = ec2emo("monitor", "--log-file", str(log), "--log", "--lines", "3", code=1)
    told = ec2emo("monitor", "--log-file", str(log), code=1)
    for text in (shown.out, shown.err, told.out, told.err):
        assert not set(text) & {"\x1b", "\x07", "\x9b", "\u202e"}
    assert [line[-3:] for line in shown.out.splitlines()] == ["one", "t):", "two"]
    assert answer(ec2emo, log, code=1)["error"].endswith("two")


def test_a_machine_is_read_as_this_one_is(box: Box, ec2emo: Ec2emo) -> None:
    log = box.home / "train one.log"
    log.write_text(TRAINED)
    body = answer(ec2emo, "~/train one.log", "--on", box.where)
    assert (body["state"], body["epoch"], body["machine"]) == ("finished", 3, box.where)
    assert answer(ec2emo, "train one.log", "--on", box.where)["epoch"] == 3
    assert body["next"].startswith("ec2emo monitor --log-file '~/train one.log' --on ssh://")


def test_a_machine_out_of_reach_is_no_dead_program(ec2emo: Ec2emo, own_box: Box) -> None:
    own_box.stop()
    ec2emo("monitor", "--log-file", "train.log", "--on", own_box.where, code=6)


def test_a_cut_connection_is_sought_again(own_box: Box) -> None:
    log = own_box.home / "train.log"
    writer = Writer(log)
    writer.says("Epoch 1/3\n" + last(20, 0.5))
    follower = LogFollower(own_box.machine, "train.log", own_box.where, log_lines=9)
    snapshots = follower.snapshots()
    eventually(lambda: next(snapshots).progress.last)
    own_box.stop()
    eventually(lambda: next(snapshots).verdict.state == "unreachable")
    writer.says("Epoch 2/3\n" + last(20, 0.6) + "Epoch 3/3\n" + last(20, 0.7))
    own_box.start()
    eventually(lambda: next(snapshots).verdict.state == "finished")
    writer.ends()
    (fit,) = logfile.answer(next(snapshots))["fits"]
    assert (fit["last_epoch"], fit["best"]) == (3, {"epoch": 3, "val_accuracy": 0.7})
    follower.close()


def test_who_writes_is_known(shell: Shell, tmp_path: Path, writer: Writer) -> None:
    path = tmp_path / "train.log"
    with path.open("rb"):  # who only reads is no writer
        assert look(shell, str(path), "there").written is True
        writer.dies()
        found = look(shell, str(path), "there")
    assert found.written is False
    assert found.changed <= found.now
    with pytest.raises(BadRequest):
        look(shell, str(tmp_path / "none"), "there")


def rename(log: Path) -> None:
    log.rename(f"{log}.1")


def copy_and_truncate(log: Path) -> None:
    shutil.copy(log, f"{log}.1")
    os.truncate(log, 0)


def remove(log: Path) -> None:
    log.unlink()


@pytest.mark.parametrize("rotate", [rename, copy_and_truncate])
def test_a_rotated_log_is_read_to_its_end_and_from_its_new_begin(
    tmp_path: Path, rotate: Callable[[Path], None]
) -> None:
    log = tmp_path / "train.log"
    log.write_text("one\n")
    shell, tail = LocalShell(), Tail(str(log))
    read = tail.new(shell)
    with log.open("a") as f:
        f.write("two\n")
    rotate(log)
    read += tail.new(shell)
    with log.open("a") as f:
        f.write("three\n")
    read += tail.new(shell) + tail.new(shell)
    assert read.split() == [b"one", b"two", b"three"]


@pytest.mark.parametrize("rotate", [rename, copy_and_truncate])
def test_a_log_is_followed_over_its_rotation_on_a_machine(box: Box, rotate: Callable[[Path], None]) -> None:
    log = box.home / f"{rotate.__name__}.log"
    first, second, third = ("Epoch" + text for text in TRAINED.split("Epoch")[1:])
    log.write_text(first)
    writer = Writer(log)
    follower = LogFollower(box.machine, str(log), box.where, log_lines=9)
    snapshots = follower.snapshots()
    next(snapshots)
    writer.says(second)
    eventually(lambda: next(snapshots).progress.points[-1].epoch == 2)
    rotate(log)
    writer.ends()
    log.touch()
    other = Writer(log)
    other.says(third)
    eventually(lambda: next(snapshots).verdict.state == "finished")
    assert [p.epoch for p in next(snapshots).progress.points] == [1, 2, 3]
    other.ends()
    follower.close()


@pytest.mark.parametrize("begin_anew", [remove, lambda log: os.truncate(log, 0)])
def test_a_log_begun_anew_is_a_new_fit(tmp_path: Path, begin_anew: Callable[[Path], None]) -> None:
    log = tmp_path / "train.log"
    log.write_text("Epoch 1/3\n" + last(20, 0.5) + "Epoch 2/3\n" + update(3, 20))
    follower = LogFollower(HERE, str(log), "local", log_lines=9)
    assert follower.once().progress.epochs == 3
    begin_anew(log)
    with log.open("a") as f:
        f.write("Epoch 1/9\n" + last(20, 0.6))
    fits = logfile.answer(follower.once())["fits"]
    assert [(fit["epochs"], fit["last_epoch"]) for fit in fits] == [(3, 2), (9, 1)]
    assert fits[0]["status"] == "lost"


def test_only_new_bytes_are_read(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_bytes(b"x" * 200 + b"\n" + b"y\n" * 3_000_000)
    counted = Counting()
    tail = Tail(str(log))
    while tail.new(counted):
        pass
    before = counted.bytes
    with log.open("a") as f:
        f.write("z\n")
    assert tail.new(counted) == b"z\n"
    assert counted.bytes - before < 2000


class Counting(LocalShell):
    bytes = 0

    def read(self, path: str, offset: int, limit: int = 1 << 20) -> bytes:
        data = super().read(path, offset, limit)
        self.bytes += len(data)
        return data


def test_a_writer_that_opens_the_log_for_each_line_is_waited_for(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_text("")
    follower = LogFollower(HERE, str(log), "local", log_lines=9)
    snapshots = follower.snapshots()
    for text in TRAINED.split("Epoch")[1:]:
        next(snapshots)
        with log.open("a") as f:
            f.write("Epoch" + text)
    began = time.monotonic()
    states = [s.verdict.state for s in snapshots]
    assert states[-1] == "finished"
    assert time.monotonic() - began < 30


def test_a_shell_is_opened_once(tmp_path: Path) -> None:
    opened: list[Machine] = []

    def connect(machine: Machine) -> Shell:
        opened.append(machine)
        return open_shell(machine)

    (tmp_path / "train.log").write_text(TRAINED)
    follower = LogFollower(HERE, str(tmp_path / "train.log"), "local", connect=connect, log_lines=1)
    follower.once(), follower.once()
    assert opened == [HERE]


def test_what_looks_like_its_end_is_none_while_it_lives(
    ec2emo: Ec2emo, tmp_path: Path, writer: Writer
) -> None:
    caught = 'Traceback (most recent call last):\n  File "x.py", line 3, in f\nOSError: clip 17\n'
    writer.says(f"Epoch 1/3\n{last(20, 0.5)}Epoch 2/3\n{update(3, 20, backspaces=False)}\n{caught}")
    eventually(lambda: "OSError: clip 17" in str(answer(ec2emo, tmp_path / "train.log")["reason"]))
    assert answer(ec2emo, tmp_path / "train.log")["state"] == "running"
    writer.dies()
    body = answer(ec2emo, tmp_path / "train.log", code=1)
    assert (body["state"], body["error"]) == ("failed", "OSError: clip 17")
