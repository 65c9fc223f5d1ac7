"""The one writer of events.jsonl: whole lines, whatever killed the writer before or filled the disk."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import eventually
from tests.disks import fill, small_disk
from trainer.contract import Epoch, Note, Unknown, decode
from trainer.eventlog import EventLog


def note(text: str) -> Note:
    return Note(t=1.0, text=text)


def events(path: Path) -> list[object]:
    return [decode(line) for line in path.read_bytes().split(b"\n") if line]


def test_lines_come_back_as_they_were_appended_over_several_openings(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for text in ("one", "two"):
        log = EventLog(path)
        log.append(note(text))
        log.close()
    assert events(path) == [note("one"), note("two")]
    assert path.read_bytes().endswith(b"\n")


@pytest.mark.parametrize("torn", [b"", b"{", b'{"t": 1.0, "type": "note", "text": "half'])
def test_a_torn_last_line_is_ended_on_opening_and_read_as_unknown(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "events.jsonl"
    first = EventLog(path)
    first.append(note("before"))
    first.close()
    with path.open("ab") as f:
        f.write(torn)
    EventLog(path).append(note("after"))
    between = [Unknown(t=0.0, line=torn.decode())] if torn else []
    assert events(path) == [note("before"), *between, note("after")]


def test_what_was_written_before_is_never_changed(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"whatever\nlies here")
    EventLog(path).append(note("one"))
    assert path.read_bytes().startswith(b"whatever\nlies here\n{")


def test_an_event_is_one_write(tmp_path: Path) -> None:
    """Counted by the kernel: a reader sees a line or a prefix of it, however long it is."""
    log = EventLog(tmp_path / "events.jsonl")
    before = writes()
    for n in range(10):
        log.append(note("x" * 100_000 * n))
    assert writes() - before == 10


def test_of_a_killed_writer_at_most_the_last_line_is_broken(tmp_path: Path) -> None:
    """The kernel cuts a long write of a killed process between two pages."""
    path = tmp_path / "events.jsonl"
    program = (
        "import sys, itertools; from pathlib import Path; from trainer.eventlog import EventLog\n"
        "from trainer.contract import Note\n"
        "log = EventLog(Path(sys.argv[1]))\n"
        "for n in itertools.count(): log.append(Note(t=1.0, text=f'{n} ' + 'x' * 5000))"
    )
    for _ in range(3):
        size = path.stat().st_size if path.exists() else 0
        writer = subprocess.Popen([sys.executable, "-c", program, str(path)])
        eventually(lambda size=size: path.exists() and path.stat().st_size > size + 200_000)
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    seen = [decode(line) for line in whole.split(b"\n")]
    begun = [n for n, e in enumerate(seen) if isinstance(e, Note) and e.text.startswith("0 ")]
    broken = [n for n, e in enumerate(seen) if not isinstance(e, Note)]
    assert len(begun) == 3
    assert all(n + 1 in begun for n in broken)


def test_a_full_disk_raises_and_the_line_after_it_is_whole(tmp_path: Path) -> None:
    """The last word of a run that failed for want of room is written by the log that met the full disk."""
    with small_disk(tmp_path / "disk") as disk:
        log = EventLog(disk / "events.jsonl")
        log.append(note("before"))
        ballast, appended = fill(disk), 1
        with pytest.raises(OSError) as raised:
            while appended < 100:
                log.append(note("x" * 1000))
                appended += 1
        assert raised.value.errno == errno.ENOSPC
        assert sum(isinstance(e, Note) for e in events(disk / "events.jsonl")) == appended
        ballast.unlink()
        log.append(Epoch(t=2.0, epoch=1, metrics={}, lr=None, seconds=1.0))
        assert isinstance(events(disk / "events.jsonl")[-1], Epoch)
        assert b"\n\n" not in (disk / "events.jsonl").read_bytes()
        log.close()


def writes() -> int:
    """How many times this process has asked the kernel to write."""
    counters = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counters["syscw"])
