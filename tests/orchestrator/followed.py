"""A run to be followed: a small program under the real supervisor, and the home that knows of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import remote_env
from orchestrator import remote
from orchestrator.follow import Follower
from orchestrator.machine import Machine
from orchestrator.progress import Snapshot
from orchestrator.run import Asked, Run
from orchestrator.shell import LocalShell
from orchestrator.store import Store
from tests.conftest import Box, end_runs, eventually
from tests.links import Link
from trainer import contract
from trainer.contract import Attempt, Epoch, RunDir, Spec, Started, encode

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, pathlib, sys, time
run = pathlib.Path(sys.argv[1])
while not (run / "go").exists():
    time.sleep(0.005)
exec((run / "go").read_text())
"""
# Talks until it is told that it is enough. Lines of all lengths, each in two pieces, and a log of which a
# newline is never the end.
CHATTER = """
import json
events = os.open(run / "events.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def say(**body):
    line = json.dumps({"t": time.time(), **body}).encode() + b"\\n"
    os.write(events, line[:7]); os.write(events, line[7:])
    os.write(1, b"log of " + line[:-1]); os.write(1, b"\\n... ")
say(type="started", attempt=1, first_epoch=1, epochs=9999, recipe="v9_attention")
n = 0
while not (run / "enough").exists():
    n += 1
    say(type="epoch", epoch=n, metrics={"val_accuracy": n / 1e4, "x" * (n * 37 % 900): 1}, lr=1e-3, seconds=1)
    time.sleep(0.001)
say(type="ended", status="finished", reason="all is said")
"""
FOLLOW = """
import json, sys
from pathlib import Path
from orchestrator import follow, published
from orchestrator.store import Store
follow.POLL_SECONDS = 0.01
store = Store(Path(sys.argv[1]))
for snapshot in follow.Follower(store, store.find("a-run")).snapshots():
    print(json.dumps(published.answer(snapshot)), flush=True)
"""


class There:
    """A machine with one run on it, and the home that knows of the run."""

    def __init__(self, folder: Path, machine: Machine) -> None:
        self.root = folder / "machine"
        self.run_dir = RunDir(self.root / "runs" / "a-run")
        self.run_dir.root.mkdir(parents=True)
        code = self.root / "code" / "c"
        (code / "trainer").mkdir(parents=True)
        (code / "trainer" / "__main__.py").write_text(PROGRAM)
        sent = Path(str(remote_env.__file__)).parent
        shutil.copytree(sent, code / "remote_env", ignore=shutil.ignore_patterns("__pycache__"))
        self.code = str(code)
        spec = Spec("a-run", "v9_attention", "/d", "f", 3, 8)
        self.run = Run(
            id="a-run",
            spec=spec,
            where=machine.name,
            data="/d",
            created=1.0,
            machine=machine,
            root=str(self.root),
            python=sys.executable,
            attempts=(Asked("t1", 1.0, "c", 1),),
        )
        self.store = Store(folder / "home")
        self.store.create(self.run)

    @property
    def home(self) -> RunDir:
        return self.store.dir("a-run")

    def launch(self, program: str) -> None:
        aside = self.run_dir.root / ".go"
        aside.write_text(program)
        aside.rename(self.run_dir.root / "go")
        attempt = Attempt(0, "t1")
        assert remote.launch(LocalShell(), self.run, self.run.spec, attempt, self.code, sys.executable) == 1

    def enough(self) -> None:
        """Let the program say its last word."""
        (self.run_dir.root / "enough").touch()

    def end(self) -> None:
        """Let the program end, and wait until it has."""
        self.enough()
        eventually(lambda: not remote.status(LocalShell(), self.run).alive)

    def is_all(self, snapshot: Snapshot) -> bool:
        """Whether everything that was told is in the snapshot once, and at home byte for byte."""
        told = self.run_dir.events.read_bytes().count(b'"type": "epoch"')
        whole = numbers(snapshot) == list(range(1, told + 1)) and snapshot.progress.unreadable == 0
        return whole and snapshot.verdict.reason == "all is said" and self.is_whole()

    def tell(self, *events: contract.AnyEvent) -> None:
        """As the trainer of a run that is over told it."""
        self.run_dir.attempts.mkdir(exist_ok=True)
        (self.run_dir.attempts / "1.json").write_bytes(Attempt(1, "t1").to_json())
        with self.run_dir.events.open("ab") as f:
            f.write(b"".join(map(encode, events)))

    def follower(self, **options: Any) -> Follower:
        return Follower(self.store, self.run, **options)

    def is_prefix(self) -> bool:
        """Whether both home copies are byte prefixes of the machine's files."""
        pairs = ((self.home.events, self.run_dir.events), (self.home.log, self.run_dir.log))
        for here, there in pairs:
            data = here.read_bytes() if here.exists() else b""
            if data and there.read_bytes()[: len(data)] != data:
                return False
        return True

    def is_whole(self) -> bool:
        same_events = self.home.events.read_bytes() == self.run_dir.events.read_bytes()
        return same_events and self.home.log.read_bytes() == self.run_dir.log.read_bytes()


def end(folder: Path) -> None:
    end_runs(folder / "machine" / "runs")
    subprocess.run(["tmux", "kill-server"], stderr=subprocess.DEVNULL, check=False)


def started(attempt: int = 1) -> Started:
    return Started(t=time.time(), attempt=attempt, first_epoch=1, epochs=5, recipe="v9_attention")


def epoch(number: int) -> Epoch:
    return Epoch(t=2.0, epoch=number, metrics={"val_accuracy": number / 10}, lr=1e-3, seconds=1.0)


def numbers(snapshot: Snapshot) -> list[int]:
    return [p.epoch for p in snapshot.progress.points]


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


# Rotates its log once, when it is told how, as logrotate does in its two ways.
ROTATING = CHATTER.replace("sleep(0.001)", "sleep(0.05)").replace(
    "    n += 1\n",
    """    n += 1
    if (run / "rotate").exists() and not (run / "train.log.1").exists():
        how = (run / "rotate").read_text()
        if how == "rename":
            os.rename(run / "train.log", run / "train.log.1")
            os.dup2(os.open(run / "train.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
        else:
            (run / ".copy").write_bytes((run / "train.log").read_bytes())
            os.rename(run / ".copy", run / "train.log.1")
            os.ftruncate(1, 0)
""",
)


def through(box: Box, link: Link) -> Machine:
    """The box as it is reached over a link, known by its host key."""
    public = (box.folder / "host_key.pub").read_text().split()[:2]
    with (box.client_home / ".ssh" / "known_hosts").open("a") as known:
        known.write(f"[127.0.0.1]:{link.port} {' '.join(public)}\n")
    return Machine("attached", host="127.0.0.1", user="root", port=link.port)
