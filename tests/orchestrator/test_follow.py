"""Following a real process through cuts, kills and full disks: nothing is lost, nothing comes twice.

What is followed is a small program under the real supervisor, which writes what the test tells it to.
"""

from __future__ import annotations

import dataclasses
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

from orchestrator import follow, remote
from orchestrator.errors import BadRequest, Refused
from orchestrator.follow import Follower, Mirror
from orchestrator.machine import Machine
from orchestrator.progress import Status
from orchestrator.run import Asked
from orchestrator.shell import LocalShell, Result, Shell
from orchestrator.store import Store
from tests.conftest import Box, eventually
from tests.disks import fill, small_disk
from tests.orchestrator.followed import CHATTER, FOLLOW, ROOT, There, end, epoch, numbers, size, started
from trainer.contract import Ended, Note, RunDir, encode

pytestmark = pytest.mark.limit(600)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests look often."""
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(follow, "BACKOFF_SECONDS", (0.02,))
    monkeypatch.setattr(follow, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(follow, "SILENCE_SECONDS", 0.2)


@pytest.fixture
def there(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[There]:
    """A run on this machine."""
    monkeypatch.setenv("TMUX_TMPDIR", str(tmp_path))
    yield There(tmp_path, Machine("local", root=str(tmp_path / "machine")))
    end(tmp_path)


@pytest.fixture(params=["local", "ssh"])
def either(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[There]:
    """A run on this machine, or behind SSH."""
    monkeypatch.setenv("TMUX_TMPDIR", str(tmp_path))
    ssh = request.param == "ssh"
    yield There(tmp_path, request.getfixturevalue("box").machine if ssh else Machine("local"))
    end(tmp_path)


@pytest.fixture
def far(own_box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[There]:
    """A run on a machine whose line may be cut."""
    monkeypatch.setenv("TMUX_TMPDIR", str(tmp_path))
    yield There(tmp_path, own_box.machine)
    end(tmp_path)


# To the end


def test_the_home_copy_is_always_a_prefix_and_in_the_end_all(either: There) -> None:
    either.launch(CHATTER)
    seen: list[int] = []
    for snapshot in either.follower().snapshots():
        assert either.is_prefix()
        seen.append(len(numbers(snapshot)))
        if len(set(seen)) > 5:
            either.enough()
    assert seen == sorted(seen)
    assert snapshot.verdict.state == "finished"
    assert either.is_all(snapshot)
    assert snapshot.log_count == seen[-1] + 3
    assert snapshot.log[-1] == "... "


def test_one_look_is_enough_to_know_how_it_stands(either: There) -> None:
    either.launch(CHATTER)
    either.end()
    snapshot = either.follower().once()
    assert either.is_all(snapshot)
    assert abs(snapshot.now - time.time()) < 5


def test_a_failure_is_told_with_the_last_words(either: There) -> None:
    either.launch("print('loading'); raise ValueError('no such column')")
    *_, snapshot = either.follower().snapshots()
    assert snapshot.verdict.state == "failed"
    assert snapshot.verdict.error == "exit code 1: ValueError: no such column"
    assert "ValueError: no such column" in snapshot.log


def test_status_is_asked_before_the_last_read(there: There) -> None:
    """Asked after it, a run that ends between the two would be lost with its last word unread."""

    class Ending(LocalShell):
        def run(self, argv: Any, **options: Any) -> Result:
            there.tell(Ended(t=3.0, status="finished", reason="at the last moment"))
            return super().run(argv, **options)

    there.tell(started(), epoch(1))
    snapshot = there.follower(connect=lambda machine, patience=1.0: Ending()).once()
    assert (snapshot.verdict.state, snapshot.verdict.reason) == ("finished", "at the last moment")


@pytest.mark.parametrize("hours", [-30, 5])
def test_time_comes_from_the_machines_clock(
    there: There, monkeypatch: pytest.MonkeyPatch, hours: float
) -> None:
    """A stalled run and one that has just told an epoch look alike by a clock that goes wrong."""
    off, status = hours * 3600.0, remote.status

    def elsewhere(*args: Any, **options: Any) -> Status:
        told = status(*args, **options)
        return dataclasses.replace(told, now=told.now + off, alive=True)

    monkeypatch.setattr(remote, "status", elsewhere)
    there.tell(dataclasses.replace(started(), t=time.time() + off - 100))
    there.tell(dataclasses.replace(epoch(1), t=time.time() + off - 1))
    snapshot = there.follower().once()
    assert snapshot.verdict.state == "running"
    assert snapshot.progress.overdue(snapshot.now) is None
    assert 0 <= snapshot.now - (snapshot.progress.last_event or 0.0) < 60
    there.tell(dataclasses.replace(epoch(2), t=time.time() + off - 70))
    assert there.follower().once().verdict.state == "stalled"


# Kills and company


def test_killed_again_and_again_the_next_one_goes_on_where_it_stopped(either: There) -> None:
    either.launch(CHATTER)
    for _ in range(5):
        before = size(either.home.events)
        with subprocess.Popen(
            [sys.executable, "-c", FOLLOW, str(either.store.root)], cwd=ROOT, stdout=subprocess.DEVNULL
        ) as one:
            eventually(lambda before=before: size(either.home.events) > before)
            os.kill(one.pid, signal.SIGKILL)
        assert either.is_prefix()
    either.enough()
    *_, snapshot = either.follower().snapshots()
    assert either.is_all(snapshot)


def test_several_at_once_on_one_home_write_the_same(there: There) -> None:
    there.launch(CHATTER)
    argv = [sys.executable, "-c", FOLLOW, str(there.store.root)]
    several = [subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for one in several:
        assert one.stdout is not None
        assert json.loads(one.stdout.readline())["state"] in ("starting", "running")
    several[0].kill()
    several[0].communicate()
    there.enough()
    for one in several[1:]:
        out, _ = one.communicate(timeout=120)
        last = json.loads(out.splitlines()[-1])
        assert (last["state"], last["reason"], one.returncode) == ("finished", "all is said", 0)
    assert there.is_whole()
    assert there.is_all(there.follower().once())


# A line that is cut


def test_cut_again_and_again_nothing_is_lost_and_nothing_comes_twice(far: There, own_box: Box) -> None:
    far.launch(CHATTER)
    cuts, away, heard = 0, 0, -1
    for snapshot in far.follower().snapshots():
        assert far.is_prefix()
        if snapshot.verdict.state == "unreachable":
            away += 1
            own_box.start()
        elif cuts < 6 and len(numbers(snapshot)) > heard:
            heard = len(numbers(snapshot))
            cuts += 1
            own_box.stop()
        elif cuts == 6:
            far.enough()
    assert away >= 6
    assert snapshot.verdict.state == "finished"
    assert far.is_all(snapshot)


def test_out_of_reach_is_said_with_the_reason_and_since_when_and_ends_when_it_answers(
    far: There, own_box: Box
) -> None:
    far.launch(CHATTER)
    far.end()
    own_box.stop()
    snapshots = far.follower().snapshots()
    first, second = next(snapshots), next(snapshots)
    assert first.verdict.state == second.verdict.state == "unreachable"
    assert "cannot reach ssh://" in str(first.verdict.reason)
    assert first.silence is not None
    assert second.silence is not None
    assert second.silence > first.silence
    own_box.start()
    *_, last = snapshots
    assert (last.verdict.state, last.silence) == ("finished", None)


def test_with_what_is_at_home_an_unreachable_run_still_shows_its_course(far: There, own_box: Box) -> None:
    far.launch(CHATTER)
    far.end()
    *_, known = far.follower().snapshots()
    own_box.stop()
    snapshot = far.follower().once()
    assert (snapshot.progress, snapshot.verdict.state) == (known.progress, "finished")
    assert snapshot.log == known.log
    resumed = far.run.with_attempt(Asked("t2", 2.0, "c", 2))
    assert Follower(far.store, resumed).once().verdict.state == "unreachable"


def test_a_key_that_is_refused_ends_the_first_look_and_never_a_watch(far: There, own_box: Box) -> None:
    far.launch(CHATTER)
    known = own_box.client_home / ".ssh" / "known_hosts"
    good = known.read_text()
    known.write_text("")
    with pytest.raises(Refused, match="is not known"):
        far.follower().once()
    known.write_text(good)
    watched = far.follower()
    assert watched.once().verdict.state != "unreachable"
    own_box.stop()
    assert watched.once().verdict.state == "unreachable"
    known.write_text("")
    own_box.start()
    snapshot = watched.once()
    assert snapshot.verdict.state == "unreachable"
    assert "is not known" in str(snapshot.verdict.reason)
    known.write_text(good)
    assert watched.once().verdict.state == "running"
    watched.close()


def test_a_machine_that_answers_but_not_for_this_run_says_so(there: There) -> None:
    there.tell(started(), epoch(1))
    shutil.rmtree(there.root / "code")
    snapshot = there.follower().once()
    assert snapshot.verdict.state == "unreachable"
    assert "answers, but not for a-run" in str(snapshot.verdict.reason)


def test_an_answer_that_makes_no_sense_is_no_status(there: There) -> None:
    there.tell(started())
    script = there.root / "code" / "c" / "remote_env" / "supervise.py"
    for answer in ("{}", "[]", "no JSON", '{"alive": 1, "attempt": 1, "now": 1.0}', '{"alive": true}'):
        script.write_text(f"print({answer!r})")
        snapshot = there.follower().once()
        assert snapshot.verdict.state == "unreachable"
    script.write_text('print("Welcome!"); print(\'{"alive": true, "attempt": 1, "now": 1.0, "later": 1}\')')
    assert there.follower().once().verdict.state == "running"


# Files that are not what they were


def test_a_machine_that_lost_what_it_told_is_read_again_from_its_beginning(either: There) -> None:
    """Power went before its disk had what home had read already: the copy would be no prefix any more."""
    either.tell(started(), epoch(1), epoch(2), epoch(3))
    either.run_dir.log.write_text("one\ntwo\nthree\n")
    assert numbers(either.follower().once()) == [1, 2, 3]
    before = either.home.events.read_bytes()
    either.run_dir.events.unlink()
    either.run_dir.log.write_text("one\nother\n")
    either.tell(started(), epoch(1), epoch(7))
    snapshot = either.follower().once()
    assert numbers(snapshot) == [1, 7]
    assert snapshot.log == ("one", "two", "three", follow.ROTATED, "one", "other")
    assert either.is_whole()
    assert either.home.events.with_name("events.jsonl.before").read_bytes() == before


@pytest.mark.parametrize("gone", [lambda d: d.events.unlink(), lambda d: d.events.write_bytes(b"")])
def test_a_machine_that_has_nothing_does_not_take_away_what_is_known(
    there: There, gone: Callable[[RunDir], None]
) -> None:
    there.tell(started(), epoch(1), epoch(2))
    there.follower().once()
    before = there.home.events.read_bytes()
    gone(there.run_dir)
    assert numbers(there.follower().once()) == [1, 2]
    assert there.home.events.read_bytes() == before


def test_a_home_copy_that_was_taken_away_is_never_written_with_a_gap(there: There) -> None:
    there.tell(started(), epoch(1))
    follower = there.follower()
    follower.once()
    there.home.events.unlink()
    there.tell(epoch(2))
    assert numbers(follower.once()) == [1, 2]
    assert not there.home.events.exists() or there.is_prefix()
    assert numbers(there.follower().once()) == [1, 2]
    assert there.home.events.read_bytes() == there.run_dir.events.read_bytes()


def test_a_full_disk_at_home_ends_the_copy_and_not_the_following(either: There, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=256) as disk:
        either.store = Store(disk)
        either.store.create(either.run)
        either.launch(CHATTER)
        ballast: list[Path] = []
        for snapshot in either.follower().snapshots():
            assert either.is_prefix(), snapshot.verdict
            if not ballast:
                ballast.append(fill(disk))
            elif size(either.run_dir.events) > size(either.home.events) + 20_000:
                either.enough()
        told = either.run_dir.events.read_bytes().count(b'"type": "epoch"')
        assert numbers(snapshot) == list(range(1, told + 1))
        assert snapshot.verdict.state == "finished"
        assert size(either.home.events) < size(either.run_dir.events)
        ballast[0].unlink()
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        assert either.is_all(either.follower().once())


def test_a_torn_line_is_no_event_until_its_end_comes(there: There) -> None:
    there.tell(started())
    follower, line = there.follower(), encode(epoch(1))
    for byte in line[:-1]:
        with there.run_dir.events.open("ab") as f:
            f.write(bytes([byte]))
        if byte == ord(","):
            assert numbers(follower.once()) == []
            assert numbers(there.follower().once()) == []
    with there.run_dir.events.open("ab") as f:
        f.write(line[-1:])
    assert numbers(follower.once()) == numbers(there.follower().once()) == [1]


def test_events_of_a_larger_contract_are_refused_with_a_sentence(either: There) -> None:
    either.tell(started())
    text = either.run_dir.events.read_text().replace('"1.0"', '"2.0"')
    either.run_dir.events.write_text(text)
    with pytest.raises(BadRequest, match=r"speaks contract 2\.0, .* upgrade ec2emo on this side"):
        either.follower().once()
    with pytest.raises(BadRequest, match="upgrade ec2emo on this side"):
        either.follower()  # what came home says the same


# The log


def test_a_line_of_fifty_megabytes_keeps_memory_small(either: There) -> None:
    either.tell(started(), Note(t=1.0, text="x" * 100))
    with either.run_dir.log.open("wb") as f:
        f.write(b"first\n")
        for _ in range(50):
            f.write(b"\r 17/100 [=====>....]" * 52_429)
        f.write(b"\nlast\n")
    program = (
        "import re, sys; from pathlib import Path\n"
        "from orchestrator.follow import Follower; from orchestrator.store import Store\n"
        "store = Store(Path(sys.argv[1])); follower = Follower(store, store.find('a-run'))\n"
        "snapshot = follower.once()\n"
        "print(snapshot.log_count, [len(x) for x in snapshot.log], snapshot.log[-1])\n"
        "print(re.search('VmHWM:\\s+([0-9]+) kB', Path('/proc/self/status').read_text())[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(either.store.root)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    told, kilobytes = done.stdout.splitlines()
    assert told == f"3 [5, {follow.LONGEST_LINE}, 4] last"
    assert int(kilobytes) < 200_000
    assert either.is_whole()


def test_only_the_last_lines_are_kept_and_all_are_counted(there: There) -> None:
    there.tell(started())
    there.run_dir.log.write_text("".join(f"{n}\n" for n in range(1000)))
    snapshot = there.follower(log_lines=3).once()
    assert (snapshot.log, snapshot.log_count) == (("997", "998", "999"), 1000)


def test_junk_in_the_log_is_shown_as_it_came_and_stops_nobody(there: There) -> None:
    there.tell(started())
    junk = bytes(range(256)) + "\udc80".encode("utf-8", "surrogatepass") + b"\nlast, without an end"
    there.run_dir.log.write_bytes(junk)
    snapshot = there.follower().once()
    assert snapshot.verdict.state == "lost"
    assert snapshot.log[-1] == "last, without an end"
    assert snapshot.log_count == 3
    assert there.home.log.read_bytes() == junk


# The mirror alone


def test_a_mirror_gives_what_is_at_home_first_and_asks_only_for_the_rest(
    shell: Shell, tmp_path: Path
) -> None:
    data = bytes(range(256)) * 20_000
    (tmp_path / "there").write_bytes(data)
    (tmp_path / "here").write_bytes(data[:3_000_001])
    mirror = Mirror(tmp_path / "here", str(tmp_path / "there"))
    at_home = b"".join(mirror.at_home())
    assert at_home == data[:3_000_001]
    came = b""
    while piece := mirror.new(shell):
        came += piece
    assert at_home + came == data == (tmp_path / "here").read_bytes()


def test_a_mirror_of_nothing_is_nothing(shell: Shell, tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "here", str(tmp_path / "no" / "such"))
    assert list(mirror.at_home()) == []
    assert mirror.new(shell) == b""
    assert not (tmp_path / "here").exists()
