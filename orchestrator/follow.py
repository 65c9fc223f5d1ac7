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
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from orchestrator import providers, remote
from orchestrator.connect import open_shell
from orchestrator.errors import BadRequest, ContactLost, Ec2emoError, MachineGone, StrangeAnswer
from orchestrator.machine import Machine
from orchestrator.progress import OVER, Progress, Snapshot, Status, Verdict, fold, judge
from orchestrator.run import Run
from orchestrator.shell import READ_LIMIT, Reader, Shell
from orchestrator.store import Store
from trainer.contract import ContractError, decode

POLL_SECONDS = 0.25
SILENCE_SECONDS = 5.0  # after so long without a byte, ask whether it lives
HEALTH_SECONDS = 10.0  # after so long, ask how the machine is doing
RETRY_SECONDS = 0.3  # to a machine out of reach: one packet is asked whether the link is back
RETRY_PATIENCE = 1.0  # seconds for its answer; a link that comes back must not wait for an old attempt
BACKOFF_SECONDS = (1.0, 2.0, 4.0, 8.0, 15.0)  # to one that answers, but lets nobody in or makes no sense
CAUGHT_UP = 1 << 14  # bytes; of a run that writes all the time there is never nothing new
SHOWN_SECONDS = 0.5  # while much is read, what is known so far is shown so often
KEPT_LOG_LINES = 200
LOG_LINE_BYTES = 1024  # of a log at home so much is read for each line that is kept, and no more
ROTATED = "--- the log was begun anew ---"
LONGEST_LINE = 1 << 16  # of the log; what is longer is cut for showing, the mirror keeps all
LONGEST_EVENT = 1 << 22  # what is longer is no line of ours
KNOWN_BYTES = 1024  # read again each time: that they are the same is what makes it the same file


class Rewritten(Exception):
    """The machine's file does not go on from what is known of it."""


class Mirror:
    """The home copy of one growing file; `at_home` gives its bytes first, then `new` the machine's.

    Every read begins with the last bytes that are known. A machine that lost power may have lost what it
    told before, and a log may be rotated or truncated: then they are not there.
    """

    def __init__(self, path: Path, there: str) -> None:
        self._path = path
        self._there = there
        self._offset = 0
        self._known = b""

    def at_home(self, last: int | None = None) -> Iterator[bytes]:
        """What is here already, or the last bytes of it, piece by piece."""
        with contextlib.suppress(OSError), self._path.open("rb") as f:
            if last is not None:
                self._offset = f.seek(max(0, f.seek(0, os.SEEK_END) - last))
            while data := f.read(READ_LIMIT):
                self._pass(data)
                yield data

    def new(self, shell: Reader) -> bytes:
        """The next bytes from the machine, kept at home before they are shown. Raises Rewritten.

        One that has nothing at all, its disk not mounted or its folder cleaned, contradicts nothing.
        """
        known = self._known
        data = shell.read(self._there, self._offset - len(known))
        if not data.startswith(known):
            if shell.read(self._there, 0, 1):
                raise Rewritten
            return b""
        fresh = data[len(known) :]
        if fresh:
            self._keep(fresh)
            self._pass(fresh)
        return fresh

    def rest(self, shell: Shell) -> Iterator[bytes]:
        """The end of a file that was rotated away, from where logrotate puts it, whether it renames or
        copies; nothing where that does not go on from what is known either.
        """
        there, self._there = self._there, f"{self._there}.1"
        try:
            while data := self.new(shell):
                yield data
        except Rewritten:
            return
        finally:
            self._there = there

    def restart(self) -> None:
        """Begin a new copy; the one until now stays beside it."""
        with contextlib.suppress(OSError):
            if self._is_ours():
                self._path.replace(self._path.with_name(f"{self._path.name}.before"))
        self._offset, self._known = 0, b""

    def _is_ours(self) -> bool:
        """Whether the copy is what this one has read; another follower may have begun anew already."""
        with self._path.open("rb") as f:
            return os.pread(f.fileno(), len(self._known), self._offset - len(self._known)) == self._known

    def _pass(self, data: bytes) -> None:
        self._offset += len(data)
        self._known = (self._known + data[-KNOWN_BYTES:])[-KNOWN_BYTES:]

    def _keep(self, data: bytes) -> None:
        """Never after a gap, which a full disk or a file taken away has left: then no more is kept."""
        with contextlib.suppress(OSError):
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                if os.fstat(fd).st_size >= self._offset:
                    os.pwrite(fd, data, self._offset)
            finally:
                os.close(fd)


class Connect(Protocol):
    """Opens a shell on a machine that has `patience` seconds to answer."""

    def __call__(self, machine: Machine, *, patience: float = ...) -> Shell:
        """See orchestrator.connect.open_shell."""
        ...


class LetNobodyIn(ContactLost):
    """A machine that was followed refuses now; asking it often would make that worse."""


class Follower:
    """One run, followed. `snapshots` reconnects by itself until the run is over."""

    def __init__(
        self,
        store: Store,
        run: Run,
        shell: Shell | None = None,
        *,
        connect: Connect = open_shell,
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
        self._heard: Status | None = None
        self._clock_offset = 0.0
        self._silent_since: float | None = None
        self._silent_why: str | None = None
        self._gone: MachineGone | None = None
        for data in self._events.at_home():
            self._fold(data)
        for data in self._log.at_home(last=LOG_LINE_BYTES * max(log_lines, KEPT_LOG_LINES)):
            self._split(data)

    def once(self) -> Snapshot:
        """The run as it is now; with what is known at home when the machine does not answer."""
        try:
            for _ in self._look():
                pass
        except ContactLost as e:
            self._lose_contact(e)
            self._look_elsewhere()
        except MachineGone as e:
            self._gone = e
            self._look_elsewhere()
        return self._snapshot()

    def snapshots(self) -> Iterator[Snapshot]:
        """What is known, again and again, until the run is over; contact is sought as long as it takes."""
        refusals, asked, heard = 0, -HEALTH_SECONDS, -SILENCE_SECONDS
        while True:
            wait = POLL_SECONDS
            try:
                now = time.monotonic()
                due = now - heard > SILENCE_SECONDS or now - asked > HEALTH_SECONDS
                if self._status is None or self._progress.ended or due:
                    yield from self._look()
                    asked = heard = time.monotonic()
                elif self._read():
                    heard = time.monotonic()
                refusals = 0
            except ContactLost as e:
                self._lose_contact(e)
                wait = RETRY_SECONDS
                if isinstance(e, (LetNobodyIn, StrangeAnswer)):
                    wait = BACKOFF_SECONDS[min(refusals, len(BACKOFF_SECONDS) - 1)]
                    refusals += 1
                self._look_elsewhere()
            except MachineGone as e:
                self._gone = e
                self._look_elsewhere()
            yield self._snapshot()
            if self._gone is not None:
                return
            if self._status is not None and not self._status.alive:
                return
            time.sleep(wait)

    def close(self) -> None:
        """Let go of the machine."""
        if self._shell:
            self._shell.close()

    def _look(self) -> Iterator[Snapshot]:
        """Status before the last read: nothing is written after a death, so nothing can be missed.

        Yields what is known so far while much is read of a run that lives.
        """
        status = remote.status(self.contact(), self.run, health=True)
        self._clock_offset = status.now - time.time()
        self._silent_since = None
        self._heard = status
        if status.alive:
            self._status = status
        shown = time.monotonic()
        while self._read() > (CAUGHT_UP if status.alive else 0):
            if status.alive and time.monotonic() - shown > SHOWN_SECONDS:
                yield self._snapshot()
                shown = time.monotonic()
        self._status = status
        self._store.note_state(self.run.id, self._verdict().state, time.time())

    def _look_elsewhere(self) -> None:
        """What the run's copy knows beyond what is at home; with the machine gone, its last word."""
        with contextlib.suppress(Ec2emoError):
            replica = providers.replica(self.run)
            if replica is None:
                return
            status = replica.status()
            for mirror, take in ((self._events, self._fold), (self._log, self._split)):
                with contextlib.suppress(Rewritten):  # an older copy than what is at home
                    while data := mirror.new(replica):
                        take(data)
            if self._gone and status.exit and status.attempt >= self.run.asked:
                self._status = dataclasses.replace(status, alive=False)
                self._store.note_state(self.run.id, self._verdict().state, time.time())

    def _read(self) -> int:
        """How many bytes were new."""
        shell = self.contact()
        events, log = self._new_events(shell), self._new_log(shell)
        self._silent_since = None
        return events + log

    def _new_events(self, shell: Shell) -> int:
        try:
            data = self._events.new(shell)
        except Rewritten:
            self._events.restart()
            self._progress, self._torn_event = Progress(), b""
            data = self._events.new(shell)
        self._fold(data)
        return len(data)

    def _new_log(self, shell: Shell) -> int:
        try:
            data = self._log.new(shell)
        except Rewritten:
            for piece in self._log.rest(shell):
                self._split(piece)
            self._split(b"\n" * bool(self._torn_line) + ROTATED.encode() + b"\n")
            self._log.restart()
            data = self._log.new(shell)
        self._split(data)
        return len(data)

    def contact(self) -> Shell:
        """The shell, opened when it is needed. Raises ContactLost, or Refused at the first contact."""
        assert self.run.machine is not None
        if self._shell is None and self._silent_since is None:
            self._shell = self._connect(self.run.machine)  # a refused key is for a person to mend
        elif self._shell is None:
            try:
                self._shell = self._connect(self.run.machine, patience=RETRY_PATIENCE)
            except (ContactLost, MachineGone):
                raise
            except Ec2emoError as e:
                raise LetNobodyIn(str(e)) from e
        return self._shell

    def _lose_contact(self, why: ContactLost) -> None:
        if self._shell:
            self._shell.close()
        self._shell = None
        self._status = None
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

    def _verdict(self) -> Verdict:
        verdict = judge(self._progress, self._status, self.run.asked, time.time() + self._clock_offset)
        if verdict.state == "unreachable" and self._gone:
            why = str(self._gone)
            return Verdict("interrupted" if self._gone.interrupted else "lost", why, why)
        if verdict.state == "unreachable" and self._silent_why:
            return Verdict("unreachable", self._silent_why)
        return verdict

    def _snapshot(self) -> Snapshot:
        verdict = self._verdict()
        silence = None if self._silent_since is None else max(0.0, time.time() - self._silent_since)
        lines, count = tuple(self._lines), self._line_count
        if self._torn_line and verdict.state in OVER:
            lines, count = (*lines, self._torn_line.decode("utf-8", "replace")), count + 1
        now = time.time() + self._clock_offset
        bill = providers.bill(self._store, self.run)
        return Snapshot(self.run, self._progress, verdict, now, lines, count, silence, self._heard, bill)
