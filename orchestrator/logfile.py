"""A Keras log of a run that ec2emo did not start: read where it lies, and followed as it grows.

Nothing is kept at home. Whether the program lives is asked of the kernel: whoever holds the file open for
writing. Where it cannot say, because the processes are another user's or not on that machine, only what the
log itself says counts, and its age.
"""

from __future__ import annotations

import dataclasses
import shlex
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePath

from orchestrator import published
from orchestrator.connect import open_shell
from orchestrator.errors import BadRequest, ContactLost, Ec2emoError
from orchestrator.follow import BACKOFF_SECONDS, POLL_SECONDS, SILENCE_SECONDS
from orchestrator.keras_log import Fit, Reader
from orchestrator.machine import Machine
from orchestrator.progress import METRIC, OVER, Progress, Snapshot, State, Verdict
from orchestrator.published import Fitted, LogAnswer
from orchestrator.run import Run
from orchestrator.shell import Shell
from trainer.contract import Spec

KNOWN_BYTES = 1024  # read again each time: that they are the same is what makes it the same file
LAST_BYTES = 1 << 16  # of which the last lines are shown
QUIET_SECONDS = 10.0  # nobody writes, and nothing was written for so long: it is over
SETTLED_SECONDS = 3.0  # the same for a log whose last fit is over
OLD_SECONDS = 600.0  # without an answer from the kernel, and without an epoch to compare with

# What there is, one `name=value` a line. `written` is yes, no or unknown.
_LOOK = r"""
case $1 in "~/"*) set -- "$HOME/${1#??}" ;; esac
[ -e "$1" ] || { echo kind=absent; exit 0; }
[ -f "$1" ] || { echo kind=other; exit 0; }
[ -r "$1" ] || { echo kind=closed; exit 0; }
echo "path=$1"
{ stat -Lc 'id=%d:%i,changed=%Y' -- "$1" || stat -Lf 'id=%d:%i,changed=%m' -- "$1"; } 2>/dev/null |
    tr , '\n'
date +now=%s
written=unknown
if [ -d /proc/self/fd ] && { [ -O "$1" ] || [ "$(id -u)" = 0 ]; }; then
    written=no
    for fd in /proc/[0-9]*/fd/*; do
        [ "$fd" -ef "$1" ] || continue
        case $(sed -n 's/^flags:.*\(.\)$/\1/p' "${fd%/fd/*}/fdinfo/${fd##*/}" 2>/dev/null) in
            [1256]) written=yes && break ;;
        esac
    done
fi
echo "written=$written"
"""


@dataclass(frozen=True)
class Look:
    """The file at one moment. `written` is whether a process holds it open for writing, None for unknown;
    `changed` is when it last grew, and `now` when that was asked, both by the machine's clock. `id` is the
    same for as long as it is the same file.
    """

    path: str
    id: str
    written: bool | None
    changed: float
    now: float


def look(shell: Shell, path: str, where: str) -> Look:
    """One round trip. Raises BadRequest where there is no such file."""
    answer = shell.run(["sh", "-c", _LOOK, "look", path])
    lines = answer.out.decode("utf-8", "replace").splitlines()
    found = dict(line.split("=", 1) for line in lines if "=" in line)
    problem = {
        "absent": f"no file {path} on {where}: look at the path, which is as seen from the home folder there",
        "other": f"{path} on {where} is no file with text in it: name the log itself",
        "closed": f"{path} on {where} may not be read by you: name another user, or mend its permissions",
    }.get(found.get("kind", ""))
    if problem:
        raise BadRequest(problem)
    try:
        now, changed, _ = float(found["now"]), float(found["changed"]), found["id"]
    except (KeyError, ValueError) as e:
        raise BadRequest(f"{where} could not look at {path} ({answer.last_error})") from e
    written = {"yes": True, "no": False}.get(found["written"])
    return Look(found["path"], found["id"], written, changed, now)


class Tail:
    """The bytes of a growing file, each once, also where the file is rotated or truncated meanwhile."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._offset = 0
        self._known = b""

    def new(self, shell: Shell) -> bytes:
        """The next bytes; empty while there are none."""
        data = shell.read(self._path, self._offset - len(self._known))
        if data.startswith(self._known):
            return self._pass(data[len(self._known) :])
        if not shell.read(self._path, 0, 1):
            return b""  # rotated a moment ago, or its disk is away: what comes next will tell
        rest = self._rest(shell)
        self._offset, self._known = 0, b""
        return rest + b"\n" + self._pass(shell.read(self._path, 0))

    def _rest(self, shell: Shell) -> bytes:
        """The end of a file that was rotated away, from where logrotate puts it."""
        data = shell.read(f"{self._path}.1", self._offset - len(self._known))
        return data[len(self._known) :] if data.startswith(self._known) else b""

    def _pass(self, data: bytes) -> bytes:
        self._offset += len(data)
        self._known = (self._known + data[-KNOWN_BYTES:])[-KNOWN_BYTES:]
        return data


class LogFollower:
    """One log, followed: what `follow.Follower` is to a run of our own."""

    def __init__(
        self,
        machine: Machine,
        path: str,
        where: str,
        *,
        connect: Callable[[Machine], Shell] = open_shell,
        log_lines: int,
    ) -> None:
        self.machine, self.path, self.where = machine, path, where
        self.reader = Reader()
        self._connect = connect
        self._shell: Shell | None = None
        self._tail: Tail | None = None
        self._look: Look | None = None
        self._last = b""
        self._log_lines = log_lines
        self._lines = 0
        self._read_once = False
        self._unseen_writer = False
        self._seen: dict[tuple[int, int], float] = {}
        self._clock_offset = 0.0
        self._heard = time.monotonic()
        self._silent_since: float | None = None
        self._silent_why: str | None = None

    def once(self) -> LogSnapshot:
        """The log as it is now. Raises BadRequest without one, ContactLost without its machine."""
        self._ask()
        while self._read():
            pass
        return self._snapshot()

    def snapshots(self) -> Iterator[LogSnapshot]:
        """What is known, again and again, until the program is over."""
        failures, asked = 0, 0.0
        while True:
            try:
                if self._look is None or time.monotonic() - asked > SILENCE_SECONDS or self._is_quiet():
                    self._ask()
                    asked = time.monotonic()
                while self._read():
                    pass
                failures, self._silent_since = 0, None
            except ContactLost as e:
                self._lose_contact(e)
                failures += 1
            yield self._snapshot()
            if not failures and self._is_over():
                return
            time.sleep(BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS)) - 1] if failures else POLL_SECONDS)

    def close(self) -> None:
        """Let go of the machine."""
        if self._shell:
            self._shell.close()

    def _ask(self) -> None:
        """Who writes is asked before the last read: nothing is written after a death."""
        if self._shell is None:
            self._shell = self._contact()
        try:
            found = look(self._shell, self.path, self.where)
        except BadRequest:
            if self._tail is None:
                raise
            return  # rotated away a moment ago
        if self._tail is None:
            self._tail = Tail(found.path)
        if self._look and self._look.id != found.id:
            self._reopen()
        self._look = found
        self._clock_offset = found.now - time.time()

    def _reopen(self) -> None:
        """Another file lies there now. A shell may hold the one before open, which is read to its end."""
        while self._read():
            pass
        self.close()
        self._shell = self._contact()

    def _contact(self) -> Shell:
        try:
            return self._connect(self.machine)
        except ContactLost:
            raise
        except Ec2emoError as e:
            if self._tail is None:
                raise  # a refused key at the first contact is for a person to mend
            raise ContactLost(str(e)) from e

    def _read(self) -> bool:
        """Whether there was anything new."""
        assert self._shell is not None and self._tail is not None
        data = self._tail.new(self._shell)
        if not data:
            self._read_once = True
            return False
        if self._read_once and self._look and self._look.written is False:
            self._unseen_writer = True
        self._heard = time.monotonic()
        self._last = (self._last + data)[-LAST_BYTES:]
        self._lines += data.count(b"\n")
        self.reader.feed(data)
        return True

    def _lose_contact(self, why: ContactLost) -> None:
        if self._tail is None:
            raise why
        self.close()
        self._shell = self._look = None
        self._silent_why = str(why)
        if self._silent_since is None:
            self._silent_since = time.time()

    @property
    def _alive(self) -> bool | None:
        """Whether the program lives; None where nobody can say."""
        if self._look is None or (self._unseen_writer and not self._look.written):
            return None
        return self._look.written

    def _quiet_for(self) -> float:
        """Seconds since the log grew, by the machine's clock or by ours."""
        age = self._look.now - self._look.changed if self._look else 0.0
        here = time.monotonic() - self._heard
        return here if self._unseen_writer else max(here, age)

    def _is_quiet(self) -> bool:
        return self._quiet_for() > SETTLED_SECONDS and self._alive is False

    def _is_over(self) -> bool:
        if self._alive:
            return False
        said = self._verdict(self.reader.fits()).state in OVER
        if self._alive is None:
            return said and self._quiet_for() > QUIET_SECONDS
        return self._quiet_for() > (SETTLED_SECONDS if said else QUIET_SECONDS)

    def _verdict(self, fits: tuple[Fit, ...]) -> Verdict:
        if self._silent_since is not None:
            return Verdict("unreachable", self._silent_why)
        alive = self._alive
        if alive is None:
            each = fits[-1].progress.seconds_per_epoch if fits else None
            alive = self._quiet_for() < max(OLD_SECONDS, 3 * (each or 0.0))
        return judge(fits, self.reader.error(), alive=alive, sure=bool(self._alive), empty=not self._last)

    def _snapshot(self) -> LogSnapshot:
        fits = self.reader.fits()
        verdict = self._verdict(fits)
        now = time.time() + self._clock_offset
        progress = self._dated(fits[-1]) if fits else Progress()
        silence = None if self._silent_since is None else max(0.0, time.time() - self._silent_since)
        lines = deque(self._last.decode("utf-8", "replace").splitlines(), maxlen=max(1, self._log_lines))
        return LogSnapshot(
            run=self._run(fits),
            progress=progress,
            verdict=verdict,
            now=now,
            log=tuple(lines),
            log_count=self._lines + (not self._last.endswith(b"\n")),
            silence=silence,
            next=self.command(verdict.state),
            path=self.path,
            fits=fits,
        )

    def _dated(self, fit: Fit) -> Progress:
        """With the moments at which epochs were first seen here, for a log has none."""
        changed = self._look.changed if self._look else time.time() + self._clock_offset
        points = tuple(
            dataclasses.replace(p, at=self._seen.setdefault((fit.number, p.epoch), changed))
            for p in fit.progress.points
        )
        return dataclasses.replace(fit.progress, points=points, attempt_started=None, last_event=changed)

    def _run(self, fits: tuple[Fit, ...]) -> Run:
        """The program as a run, as far as its log tells of it."""
        number = f"fit {fits[-1].number} of a Keras log" if len(fits) > 1 else "a Keras log"
        epochs = fits[-1].epochs if fits else 0
        name = PurePath(self.path).name
        spec = Spec(run=name, recipe=number, data="", fingerprint="", epochs=epochs, batch_size=0)
        return Run(name, spec, self.where, data="", created=0.0, machine=self.machine)

    def command(self, state: State) -> str:
        """What to type to see it again, or to see more."""
        on = "" if self.where == "local" else f" --on {shlex.quote(self.where)}"
        more = " --log --lines 40" if state in OVER else " --follow"
        return f"ec2emo monitor --log-file {shlex.quote(self.path)}{on}{more}"


@dataclass(frozen=True)
class LogSnapshot(Snapshot):
    """A snapshot of the last fit, and all fits."""

    path: str = ""
    fits: tuple[Fit, ...] = ()


def answer(snapshot: LogSnapshot) -> LogAnswer:
    """The object `monitor --log-file --json` prints."""
    state, fits = snapshot.verdict.state, snapshot.fits
    told = [_fitted(fit, state if fit is fits[-1] else None) for fit in fits]
    return {**published.answer(snapshot), "recipe": None, "log_file": snapshot.path, "fits": told}


def _fitted(fit: Fit, state: State | None) -> Fitted:
    best = fit.progress.best
    last = fit.progress.last
    return {
        "epochs": fit.epochs or None,
        "last_epoch": fit.begun,
        "last_whole_epoch": last.epoch if last else None,
        "best": {"epoch": best.epoch, "val_accuracy": best.metrics[METRIC]} if best else None,
        "status": fit.ended.status if fit.ended else state or ("finished" if fit.whole else "lost"),
    }


def judge(fits: tuple[Fit, ...], error: str | None, *, alive: bool, sure: bool, empty: bool) -> Verdict:
    """The state of a program by its log. `sure` is whether the kernel itself says that it lives, so that
    what looks like its last words was not.
    """
    if error and not sure:
        interrupted = error.startswith("KeyboardInterrupt")
        return Verdict("stopped", error) if interrupted else Verdict("failed", error, error)
    last = fits[-1] if fits else None
    if last is None and alive:
        return Verdict("starting", "no bytes yet" if empty else "no epoch yet")
    if last is None:
        return _lost("it is empty" if empty else "there is no epoch of Keras in it")
    if sure and last.ended and last.ended.status != "finished":
        return Verdict("running", f"it went on after {last.ended.reason}")
    if last.ended:
        failed = last.ended.status == "failed"
        return Verdict(last.ended.status, last.ended.reason, last.ended.reason if failed else None)
    if alive:
        return Verdict("running")
    where = f"epoch {last.begun} of {last.epochs}" if last.epochs else f"epoch {last.begun}"
    if not last.whole:
        return _lost(f"the log ends in {where}")
    if last.went_on:
        return Verdict("finished", f"over after {where}, and the program went on")
    return Verdict("stopped", f"the log ends after {where} without a word of why")


def _lost(what: str) -> Verdict:
    why = f"{what}, and nobody writes to it any more"
    return Verdict("lost", why, why)
