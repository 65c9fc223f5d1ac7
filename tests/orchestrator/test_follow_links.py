"""Following over a bad link: a real sshd behind a proxy that cuts, stalls and delays; logs that rotate."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator import follow
from orchestrator.follow import Follower
from orchestrator.machine import Machine
from orchestrator.progress import Snapshot
from tests.conftest import Box, eventually
from tests.links import Link, link, short
from tests.orchestrator.followed import (
    CHATTER,
    FOLLOW,
    ROOT,
    ROTATING,
    There,
    end,
    numbers,
    size,
    started,
    through,
)

pytestmark = pytest.mark.limit(600)

LONGEST = 120_000  # bytes that a connection carries before it is cut; a handshake is 5,000


@pytest.fixture
def wire(box: Box) -> Iterator[Link]:
    with link(box.port) as made:
        yield made


@pytest.fixture
def there(tmp_path: Path, box: Box, wire: Link, monkeypatch: pytest.MonkeyPatch) -> Iterator[There]:
    """A run behind a link; seconds are as they are for people, but for polls and backoffs."""
    monkeypatch.setenv("TMUX_TMPDIR", str(tmp_path))
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(follow, "BACKOFF_SECONDS", (0.02,))
    yield There(tmp_path, through(box, wire))
    end(tmp_path)


class Reader:
    """Reads the log as `--log --follow` prints it: each line once."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def see(self, snapshot: Snapshot) -> None:
        fresh = snapshot.log_count - len(self.lines)
        assert 0 <= fresh <= len(snapshot.log)
        self.lines += snapshot.log[len(snapshot.log) - fresh :]


def written(path: Path) -> list[str]:
    return path.read_text().split("\n")


# Exactness


@pytest.mark.parametrize(
    ("cuts", "kills", "how"),
    [
        (12, 2, "rename"),
        (12, 2, "truncate"),
        pytest.param(200, 20, "rename", marks=[pytest.mark.slow, pytest.mark.limit(3600)]),
        pytest.param(200, 20, "truncate", marks=[pytest.mark.slow, pytest.mark.limit(3600)]),
    ],
)
def test_cut_at_random_places_killed_and_rotated_the_copy_is_the_same_byte_for_byte(
    there: There, wire: Link, monkeypatch: pytest.MonkeyPatch, cuts: int, kills: int, how: str
) -> None:
    monkeypatch.setattr(follow, "RETRY_SECONDS", 0.02)
    drawn = random.Random(cuts)
    there.launch(ROTATING)
    wire.budgets = short(cuts, LONGEST)
    for kill in range(kills):
        goal = size(there.home.log) + drawn.randrange(1, 30_000)
        argv = [sys.executable, "-c", FOLLOW, str(there.store.root)]
        with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL) as one:
            try:
                eventually(lambda goal=goal: size(there.home.log) > goal)
            finally:
                os.kill(one.pid, signal.SIGKILL)
        if kill == kills // 2:
            (there.run_dir.root / "rotate").write_text(how)
    snapshots = there.follower().snapshots()
    while wire.cuts < cuts:
        next(snapshots)
    wire.budgets = lambda: float("inf")
    there.enough()
    *_, snapshot = snapshots
    assert wire.cuts >= cuts
    assert there.is_all(snapshot)
    before = there.home.log.with_name("train.log.before").read_bytes()
    assert before == (there.run_dir.root / "train.log.1").read_bytes()


@pytest.mark.parametrize("how", ["rename", "truncate"])
def test_of_a_log_that_is_rotated_while_the_line_is_cut_each_line_is_told_once(
    there: There, wire: Link, how: str
) -> None:
    there.launch(ROTATING)
    reader = Reader()
    for snapshot in there.follower(log_lines=1_000_000).snapshots():
        reader.see(snapshot)
        rotated = (there.run_dir.root / "rotate").exists()
        if len(numbers(snapshot)) >= 30 and not rotated:
            wire.down()
            told = size(there.run_dir.log)
            eventually(lambda told=told: size(there.run_dir.log) > told + 2_000)
            (there.run_dir.root / "rotate").write_text(how)
            eventually((there.run_dir.root / "train.log.1").exists)
            wire.up()
        elif len(numbers(snapshot)) > 60 and rotated and follow.ROTATED in reader.lines:
            there.enough()
    old, new = written(there.run_dir.root / "train.log.1"), written(there.run_dir.log)
    assert reader.lines == [*old, follow.ROTATED, *new]
    assert there.is_whole()


def test_a_log_of_a_gigabyte_costs_its_new_bytes(there: There, wire: Link) -> None:
    """Its home copy is not read either, but for the end of it."""
    there.tell(started())
    for path in (there.run_dir.log, there.home.log):
        with path.open("wb") as f:
            f.truncate(10**9)
            f.seek(0, os.SEEK_END)
            f.write(b"\n" + b"a line of the log\n" * 2_000)
    there.follower().once()
    before, began = wire.carried, time.monotonic()
    with there.run_dir.log.open("ab") as f:
        f.write(b"new\n" * 1_000)
    snapshot = there.follower().once()
    assert snapshot.log[-1] == "new"
    assert time.monotonic() - began < 5
    assert wire.carried - before < 40_000
    assert size(there.home.log) == size(there.run_dir.log)


def test_a_log_far_behind_does_not_keep_the_epochs_from_being_shown(
    there: There, wire: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "SHOWN_SECONDS", 0.02)
    there.launch(CHATTER)
    eventually(lambda: size(there.run_dir.events) > 20_000)
    with there.run_dir.log.open("ab") as f:
        f.write(b"much\n" * 2_000_000)
    first = next(there.follower().snapshots())
    assert numbers(first)
    assert first.verdict.state == "running"
    assert size(there.home.log) < size(there.run_dir.log)
    there.end()


# The link comes back


def back(there: There, wire: Link, take: str, give: str) -> float:
    """Seconds from the moment the link is back until what was written meanwhile is known."""
    follower = there.follower()
    snapshots = follower.snapshots()
    next(snapshots)
    getattr(wire, take)()
    if take == "down":
        while (next(snapshots).silence or 0.0) < 1.5:
            pass
    else:
        time.sleep(1.5)  # of silence that nobody can see
    told = there.run_dir.events.read_bytes().count(b'"type": "epoch"')
    began = time.monotonic()
    getattr(wire, give)()
    while len(numbers(next(snapshots))) < told:
        pass
    follower.close()
    return time.monotonic() - began


@pytest.mark.parametrize(("take", "give"), [("down", "up"), ("stall", "flow")])
def test_what_was_written_meanwhile_is_known_within_a_second_of_the_link(
    there: There, wire: Link, take: str, give: str
) -> None:
    """Beyond what a first look takes, most of which is the exchange of keys: this machine may be busy."""
    wire.delay = 0.02
    there.launch(ROTATING)
    beyond = []
    for _ in range(2):
        began = time.monotonic()
        there.follower().once()
        look = time.monotonic() - began
        beyond.append(back(there, wire, take, give) - look)
    assert min(beyond) < 1.0
    there.end()


def test_a_line_cut_while_it_lets_us_in_is_no_refusal(there: There, wire: Link) -> None:
    """At whatever byte: only a machine that said no has refused."""
    there.tell(started())
    for budget in range(200, 6_000, 290):
        wire.budgets = lambda budget=budget: float(budget)  # type: ignore[misc]
        assert there.follower().once().verdict.state == "unreachable"


# Half an hour


class Hasty:
    """The clock of somebody who waits: what others sleep in a second passes in ten minutes."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def time(self) -> float:
        return time.time() + self._ahead

    def monotonic(self) -> float:
        return time.monotonic() + self._ahead

    def sleep(self, seconds: float) -> None:
        self._ahead += 600 * seconds


def test_out_of_reach_for_half_an_hour_a_healthy_run_is_unreachable_and_then_right_again(
    there: There, wire: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    there.launch(CHATTER)
    snapshots = there.follower().snapshots()
    assert next(snapshots).verdict.state == "running"
    wire.down()
    hasty = Hasty()
    monkeypatch.setattr(follow, "time", hasty)
    away = next(snapshots)
    while (away.silence or 0.0) < 1800:
        away = next(snapshots)
        assert away.verdict.state == "unreachable"
        assert away.status is not None and away.status.alive  # as heard last
    assert "cannot reach" in str(away.verdict.reason)
    wire.up()
    while (back := next(snapshots)).verdict.state == "unreachable":
        pass
    assert (back.verdict.state, back.silence) == ("running", None)
    assert back.status is not None and away.status is not None
    assert back.status.process == away.status.process
    monkeypatch.setattr(follow, "time", SimpleNamespace(**vars(time)))
    there.end()
    *_, last = snapshots
    assert there.is_all(last)


def test_a_machine_that_was_reached_before_is_asked_again_with_little_patience(
    there: There, wire: Link
) -> None:
    asked: list[float | None] = []

    def connect(machine: Machine, *, patience: float | None = None) -> object:
        asked.append(patience)
        return follow.open_shell(machine)

    follower = Follower(there.store, there.run, connect=connect)  # type: ignore[arg-type]
    there.tell(started())
    follower.once()
    wire.cut()
    assert follower.once().verdict.state == "unreachable"
    assert follower.once().verdict.state == "lost"
    assert asked == [None, follow.RETRY_PATIENCE]
    follower.close()


def test_a_machine_that_takes_its_time_to_exchange_keys_is_let_have_it(
    there: There, wire: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the first packet has to be answered soon: a busy machine needs seconds for the rest."""
    monkeypatch.setattr(follow, "RETRY_PATIENCE", 0.3)
    there.tell(started())
    follower = there.follower()
    follower.once()
    wire.cut()
    assert follower.once().verdict.state == "unreachable"
    wire.delay = 0.2
    assert follower.once().verdict.state == "lost"  # its process is gone, and it says so
    follower.close()
