"""The runs folder at home: one folder a run, of the same shape as on the machine, plus `run.json`.

Where a machine was rented for it, `lease.json` too.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import platformdirs

from orchestrator import lease as leases
from orchestrator import run as runs
from orchestrator.errors import BadRequest
from orchestrator.lease import Lease
from orchestrator.run import Run
from trainer import contract
from trainer.contract import RunDir

RECORD = "run.json"
LEASE = "lease.json"
SEEN = "seen.json"


def home() -> Path:
    """`$EC2EMO_HOME`, else the platform's folder for a user's data."""
    named = os.environ.get("EC2EMO_HOME")
    return Path(named).expanduser().absolute() if named else platformdirs.user_data_path("ec2emo")


class Store:
    """The registry of a user's runs. Every write is whole or absent, whatever kills the writer."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or home()
        self.runs = self.root / "runs"

    def dir(self, run_id: str) -> RunDir:
        """The run's folder at home."""
        return RunDir(self.runs / run_id)

    def about(self, what: str, folder: Path) -> Path:
        """Where something is remembered of a folder of data; it may be deleted at any time."""
        return self.root / "cache" / f"{what}-{_name_of(folder)}"

    def narrowed(self, folder: Path) -> Path:
        """Where the copy of a folder of data in float16 lies: what runs were trained on, and no cache."""
        return self.root / "float16" / f"{folder.name}-{_name_of(folder)}"

    def is_narrowed(self, folder: Path) -> bool:
        """Whether it is such a copy, or was."""
        return folder.parent == self.root / "float16"

    def create(self, run: Run) -> None:
        """Write down a new run: of several at once with one name, one wins. Raises BadRequest."""
        folder = self.dir(run.id).root
        with _writing(self.runs, run.id):
            self.runs.mkdir(parents=True, exist_ok=True)
            aside = Path(tempfile.mkdtemp(dir=self.runs, prefix=f".{run.id}."))
            try:
                contract.publish(aside / RECORD, run.to_json())
                aside.rename(folder)  # over nothing, or an empty folder: the file system sees to that
            except OSError as e:
                shutil.rmtree(aside, ignore_errors=True)
                if e.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
                raise BadRequest(_taken(run.id, folder), run=run.id) from e
            contract.sync_folder(self.runs)

    def freeze(self, run: Run) -> None:
        """Write down what is asked and where, as the last thing before a launch. Raises BadRequest."""
        self.save(run)
        if not any(a.number for a in run.attempts):
            with _writing(self.dir(run.id).spec, run.id):
                contract.publish(self.dir(run.id).spec, run.spec.to_json())

    def save(self, run: Run) -> None:
        """Write the record. Raises BadRequest when the disk refuses."""
        with _writing(self._record(run.id), run.id):
            contract.publish(self._record(run.id), run.to_json())

    def load(self, run_id: str) -> Run:
        """One run. Raises BadRequest when its record is missing or unreadable."""
        path = self._record(run_id)
        try:
            run = runs.parse(path.read_bytes(), str(path))
            if run.id != run_id:
                raise contract.ContractError(f"{path} is the record of another run, {run.id!r:.80}")
        except FileNotFoundError as e:
            raise BadRequest(f"there is no run called {run_id}: 'ec2emo runs' lists them") from e
        except OSError as e:
            raise BadRequest(f"cannot read {path} ({e.strerror}): make it readable", run=run_id) from e
        except contract.ContractError as e:
            raise BadRequest(
                f"{e}; if it is damaged, move {path.parent} away: what trains on the machine is untouched",
                run=run_id,
            ) from e
        return run

    def ids(self) -> list[str]:
        """All run ids, in no order. Raises BadRequest when the folder cannot be read."""
        try:
            names = [name for name in os.listdir(self.runs) if name[0] != "."]  # noqa: PTH208 - a Path costs
            return [name for name in names if os.path.exists(f"{self.runs}/{name}/{RECORD}")]  # noqa: PTH110
        except FileNotFoundError:
            return []
        except OSError as e:
            raise BadRequest(
                f"cannot read {self.runs} ({e.strerror}): make it readable, or set EC2EMO_HOME"
            ) from e

    def all(self) -> tuple[list[Run], list[str]]:
        """The readable runs, the oldest first, and the ids of the others."""
        return self.some(self.ids())

    def some(self, ids: Iterable[str]) -> tuple[list[Run], list[str]]:
        """As `all`, of these."""
        readable, damaged = [], []
        for run_id in ids:
            try:
                readable.append(self.load(run_id))
            except BadRequest:
                damaged.append(run_id)
        return sorted(readable, key=lambda r: (r.created, r.id)), sorted(damaged)

    def read_for_lists(self, run_id: str) -> list[str]:
        """The files that what a list says of a run is made of."""
        return [f"{self.runs}/{run_id}/{name}" for name in (RECORD, LEASE, SEEN, contract.EVENTS)]

    def lease(self, run_id: str) -> Lease | None:
        """What was rented for a run, None when nothing was. Raises BadRequest when it cannot be read."""
        path = self._lease(run_id)
        try:
            return leases.parse(path.read_bytes(), str(path))
        except FileNotFoundError:
            return None
        except OSError as e:
            raise BadRequest(f"cannot read {path} ({e.strerror}): make it readable", run=run_id) from e
        except contract.ContractError as e:
            raise BadRequest(
                f"{e}; if it is damaged, move it away: 'ec2emo gc' finds its machine by the tags", run=run_id
            ) from e

    def keep_lease(self, lease: Lease) -> None:
        """Write it down; one before it, of another machine, stays beside it. Raises BadRequest."""
        path = self._lease(lease.run)
        with _writing(path, lease.run):
            before = self.lease(lease.run)
            if before and before.number != lease.number:
                kept = path.with_name(f"lease-{before.number}.json")
                contract.publish(kept, before.to_json())
            contract.publish(path, lease.to_json())

    def leases(self) -> list[Lease]:
        """The latest lease of every run that has a readable one, whether or not the run has a record."""
        try:
            names = [p.parent.name for p in self.runs.glob(f"[!.]*/{LEASE}")]
        except OSError:
            return []
        found = []
        for name in sorted(names):
            with contextlib.suppress(BadRequest):
                found.append(self.lease(name))
        return [lease for lease in found if lease is not None]

    @contextlib.contextmanager
    def holding(self, run_id: str) -> Iterator[None]:
        """Alone with what is rented for a run, until the end of the block or of the process.

        Raises BadRequest, naming the other process, while another is at it.
        """
        path = self.dir(run_id).root / ".lease.lock"
        with _writing(path, run_id):
            path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if not _locked(fd):
                who = os.pread(fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
                raise BadRequest(
                    f"another ec2emo (process {who}) is at work on the machine of {run_id}: wait for it, or "
                    f"end it, and repeat the command",
                    run=run_id,
                )
            os.ftruncate(fd, 0)
            os.pwrite(fd, b"%d\n" % os.getpid(), 0)
            yield
        finally:
            os.close(fd)

    def note_state(self, run_id: str, state: str, at: float) -> None:
        """Remember what the machine said last, for lists that ask nobody; losing it costs nothing."""
        with contextlib.suppress(OSError):
            contract.publish(self._seen(run_id), contract.to_json({"state": state, "at": at}))

    def noted_state(self, run_id: str) -> tuple[str, float] | None:
        """The state last heard of, and when; None when nothing was."""
        try:
            body = contract.parse_object(self._seen(run_id).read_bytes(), "seen.json")
            return str(body["state"]), float(body["at"])
        except (OSError, contract.ContractError, KeyError, TypeError, ValueError):
            return None

    def find(self, named: str | None) -> Run:
        """A run by id, by unique prefix, or the latest when nothing is named. Raises BadRequest."""
        if named is None:
            runs, _ = self.all()
            if not runs:
                raise BadRequest("there is no run yet: 'ec2emo deploy RECIPE' starts one")
            return runs[-1]
        ids = self.ids()
        matches = [i for i in ids if i == named] or sorted(i for i in ids if i.startswith(named))
        if len(matches) > 1:
            some = ", ".join(matches[-5:])
            raise BadRequest(f"{named!r} begins {len(matches)} runs: {some}; type more of it")
        if not matches:
            raise BadRequest(f"there is no run called {named!r:.80}: 'ec2emo runs' lists them")
        return self.load(matches[0])

    def folds(self, named: str | None) -> list[Run]:
        """The runs of a cross-validation in the order of their folds, by its name or the beginning of it, by
        one of its runs, or the latest when nothing is named. Raises BadRequest.
        """
        groups: dict[str, list[Run]] = {}
        for run in self.all()[0]:
            if run.group is not None:
                groups.setdefault(run.group, []).append(run)
        if not groups:
            raise BadRequest("there is no cross-validation yet: 'ec2emo deploy RECIPE --folds K' starts one")
        if named is None:
            return groups[max(groups, key=lambda name: groups[name][-1].created)]
        exact = [g for g, those in groups.items() if g == named or named in [run.id for run in those]]
        matches = exact or sorted(g for g in groups if g.startswith(named))
        if len(matches) != 1:
            what = f"begins {len(matches)} cross-validations" if matches else "names no cross-validation"
            raise BadRequest(f"{named!r:.80} {what}: there are {', '.join(sorted(groups)[-5:])}")
        return sorted(groups[matches[0]], key=lambda run: run.spec.fold or 0)

    def _seen(self, run_id: str) -> Path:
        return self.dir(run_id).root / SEEN

    def _lease(self, run_id: str) -> Path:
        return self.dir(run_id).root / LEASE

    def _record(self, run_id: str) -> Path:
        return self.dir(run_id).root / RECORD


def _name_of(folder: Path) -> str:
    return hashlib.sha256(str(folder).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _writing(path: Path, run_id: str) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise BadRequest(
            f"cannot write {path} ({e.strerror}): free some room and repeat the command, or set EC2EMO_HOME "
            f"to a folder that can be written",
            run=run_id,
        ) from e


def _taken(run_id: str, folder: Path) -> str:
    if (folder / RECORD).exists():
        return (
            f"there is a run called {run_id} already: choose another --name, or 'ec2emo resume {run_id}' "
            f"goes on with it"
        )
    return f"{folder} is there without a record: move it away, or choose another --name"
