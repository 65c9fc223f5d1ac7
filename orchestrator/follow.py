"""Read what a machine tells from the byte where we stopped, keep it at home, and yield what it means.

The home copy of `events.jsonl` and `train.log` is a byte prefix of the machine's: to connect again is to go
on reading, and two followers at once write the same bytes at the same places.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator import providers, remote
from orchestrator.connect import open_shell
from orchestrator.errors import BadRequest, ContactLost, Ec2emoError, MachineGone
from orchestrator.machine import Machine
from orchestrator.progress import OVER, Progress, Snapshot, Status, Verdict, fold, judge
from orchestrator.run import Run
from orchestrator.shell import READ_LIMIT, Reader, Shell
from orchestrator.store import Store
from trainer.contract import ContractError, decode

POLL_SECONDS = 0.4
SILENCE_SECONDS = 5.0  # after so long without a byte, ask whether it lives
BACKOFF_SECONDS = (1.0, 2.0, 4.0, 8.0, 15.0)
KEPT_LOG_LINES = 200
LONGEST_LINE = 1 << 16  # of the log; what is longer is cut for showing, the mirror keeps all
LONGEST_EVENT = 1 << 22  # what is longer is no line of ours
COMPARED_BYTES = 4096


class Mirror:
    """The home copy of one growing file; `at_home` gives its bytes first, then `new` the machine's."""

    def __init__(self, path: Path, there: str) -> None:
        self._path = path
        self._there = there
        self._offset = 0

    def at_home(self) -> Iterator[bytes]:
        """What is here already, piece by piece."""
        with contextlib.suppress(OSError), self._path.open("rb") as f:
            while data := f.read(READ_LIMIT):
                self._offset += len(data)
                yield data

    def new(self, shell: Reader) -> bytes:
        """The next bytes from the machine, kept at home before they are shown."""
        data = shell.read(self._there, self._offset)
        if data:
            self._keep(data)
        self._offset += len(data)
        return data

    def agrees(self, shell: Reader) -> bool:
        """Whether the copy ends as the machine's file does at the same place.

        A machine that lost power may have lost what it told before. One that has nothing at all, its disk
        not mounted or its folder cleaned, does not contradict what is known.
        """
        length = min(self._offset, COMPARED_BYTES)
        try:
            with self._path.open("rb") as f:
                here = os.pread(f.fileno(), length, self._offset - length)
        except OSError:
            return True
        there = shell.read(self._there, self._offset - length, length)
        return here == there or not shell.read(self._there, 0, 1)

    def restart(self) -> None:
        """Begin a new copy; the one until now stays beside it."""
        self._offset = 0
        with contextlib.suppress(OSError):
            self._path.replace(self._path.with_name(f"{self._path.name}.before"))

    def _keep(self, data: bytes) -> None:
        """Never after a gap, which a full disk or a file taken away has left: then no more is kept."""
        with contextlib.suppress(OSError):
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                if os.fstat(fd).st_size >= self._offset:
                    os.pwrite(fd, data, self._offset)
            finally:
                os.close(fd)


class Follower:
    """One run, followed. `snapshots` reconnects by itself until the run is over."""

    def __init__(
        self,
        store: Store,
        run: Run,
        shell: Shell | None = None,
        *,
        connect: Callable[[Machine], Shell] = open_shell,
        log_lines: int = KEPT_LOG_LINES,
    ) -> None:
        folder = store.dir(run.id)
        self.run = run
        self._store = store
        self._shell = shell
        self._connect = connect
        self._events = Mirror(folder.events, f"{run.folder}/events.jsonl")
        self._log = Mirror(folder.log, f"{run.folder}/train.log")
        self._progress = Progress()
        self._torn_event = b""
        self._torn_line = b""
        self._lines: deque[str] = deque(maxlen=max(log_lines, 1))
        self._line_count = 0
        self._status: Status | None = None
        self._clock_offset = 0.0
        self._compared = False
        self._silent_since: float | None = None
        self._silent_why: str | None = None
        self._gone: MachineGone | None = None
        for data in self._events.at_home():
            self._fold(data)
        for data in self._log.at_home():
            self._split(data)

    def once(self) -> Snapshot:
        """The run as it is now; with what is known at home when the machine does not answer."""
        try:
            self._look()
        except ContactLost as e:
            self._lose_contact(e)
            self._look_elsewhere()
        except MachineGone as e:
            self._gone = e
            self._look_elsewhere()
        return self._snapshot()

    def snapshots(self) -> Iterator[Snapshot]:
        """What is known, again and again, until the run is over; contact is sought as long as it takes."""
        failures, asked = 0, 0.0
        while True:
            try:
                silent = time.monotonic() - asked > SILENCE_SECONDS
                if self._status is None or self._progress.ended or silent:
                    self._look()
                    asked = time.monotonic()
                elif self._read():
                    asked = time.monotonic()
                failures = 0
            except ContactLost as e:
                self._lose_contact(e)
                self._look_elsewhere()
                failures += 1
            except MachineGone as e:
                self._gone = e
                self._look_elsewhere()
            snapshot = self._snapshot()
            yield snapshot
            if self._gone is not None:
                return
            if self._status is not None and not self._status.alive and failures == 0:
                return
            time.sleep(BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS)) - 1] if failures else POLL_SECONDS)

    def close(self) -> None:
        """Let go of the machine."""
        if self._shell:
            self._shell.close()

    def _look(self) -> None:
        """Status before the last read: nothing is written after a death, so nothing can be missed."""
        status = remote.status(self.contact(), self.run)
        if not self._compared:
            self._compare(self.contact())
        while self._read():
            pass
        self._status = status
        self._clock_offset = status.now - time.time()
        self._store.note_state(self.run.id, judge(self._progress, status).state, time.time())
        self._silent_since = None

    def _look_elsewhere(self) -> None:
        """What the run's copy knows beyond what is at home; with the machine gone, its last word."""
        with contextlib.suppress(Ec2emoError):
            replica = providers.replica(self.run)
            if replica is None:
                return
            status = replica.status()
            for mirror, take in ((self._events, self._fold), (self._log, self._split)):
                while mirror.agrees(replica) and (data := mirror.new(replica)):
                    take(data)
            if self._gone and status.exit and status.attempt >= self.run.asked:
                self._status = dataclasses.replace(status, alive=False)
                state = judge(self._progress, self._status, self.run.asked).state
                self._store.note_state(self.run.id, state, time.time())

    def _compare(self, shell: Shell) -> None:
        """Once for each connection: where the home copy is no prefix of the machine's file, begin again."""
        if not self._events.agrees(shell):
            self._events.restart()
            self._progress, self._torn_event = Progress(), b""
        if not self._log.agrees(shell):
            self._log.restart()
            self._lines.clear()
            self._torn_line, self._line_count = b"", 0
        self._compared = True

    def _read(self) -> bool:
        """Whether anything new was there."""
        shell = self.contact()
        events = self._events.new(shell)
        self._fold(events)
        log = self._log.new(shell)
        self._split(log)
        self._silent_since = None
        return bool(events or log)

    def contact(self) -> Shell:
        """The shell, opened when it is needed. Raises ContactLost, or Refused at the first contact."""
        assert self.run.machine is not None
        if self._shell is None:
            try:
                self._shell = self._connect(self.run.machine)
            except (ContactLost, MachineGone):
                raise
            except Ec2emoError as e:
                if self._silent_since is None:
                    raise  # a refused key at the first contact is for a person to mend
                raise ContactLost(str(e)) from e
        return self._shell

    def _lose_contact(self, why: ContactLost) -> None:
        if self._shell:
            self._shell.close()
        self._shell = None
        self._status = None
        self._compared = False
        self._silent_why = str(why)
        if self._silent_since is None:
            self._silent_since = time.time()

    def _fold(self, data: bytes) -> None:
        *whole, torn = (self._torn_event + data).split(b"\n")
        self._torn_event = torn[-LONGEST_EVENT:]
        try:
            self._progress = fold(self._progress, map(decode, filter(None, whole)))
        except ContractError as e:
            raise BadRequest(str(e), run=self.run.id) from e

    def _split(self, data: bytes) -> None:
        if not data:
            return
        *whole, self._torn_line = (self._torn_line + data).split(b"\n")
        self._torn_line = self._torn_line[-LONGEST_LINE:]
        self._line_count += len(whole)
        self._lines.extend(line[-LONGEST_LINE:].decode("utf-8", "replace") for line in whole)

    def _snapshot(self) -> Snapshot:
        verdict = judge(self._progress, self._status, self.run.asked)
        if verdict.state == "unreachable" and self._gone:
            why = str(self._gone)
            verdict = Verdict("interrupted" if self._gone.interrupted else "lost", why, why)
        elif verdict.state == "unreachable" and self._silent_why:
            verdict = Verdict("unreachable", self._silent_why)
        silence = None if self._silent_since is None else time.time() - self._silent_since
        lines, count = tuple(self._lines), self._line_count
        if self._torn_line and verdict.state in OVER:
            lines, count = (*lines, self._torn_line.decode("utf-8", "replace")), count + 1
        now = time.time() + self._clock_offset
        return Snapshot(self.run, self._progress, verdict, now, lines, count, silence)
