"""TensorBoard of a run: its files brought home, and the server there or here."""

from __future__ import annotations

import importlib.util
import re
import sys
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath

from orchestrator.errors import BadRequest, RunFailed
from orchestrator.follow import Mirror, Rewritten
from orchestrator.run import Run
from orchestrator.shell import LocalShell, Shell
from orchestrator.store import Store

FILE = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+){0,3}")
LISTENS = re.compile(r"http://127\.0\.0\.1:([0-9]{1,5})/")
MOST_FILES = 1000


def bring_home(store: Store, run: Run, shell: Shell) -> int:
    """Fetch what is new of the run's event files; answers how many files there are. Raises ContactLost."""
    there = f"{run.folder}/tensorboard"
    script = 'cd "$1" 2>/dev/null && find . -type f -name "*tfevents*"'
    listed = shell.run(["sh", "-c", script, "find", there]).out.decode("utf-8", "replace").splitlines()
    names = [name.removeprefix("./") for name in listed]
    names = [n for n in names if FILE.fullmatch(n) and ".." not in PurePosixPath(n).parts][:MOST_FILES]
    for name in names:
        home = folder(store, run) / name
        home.parent.mkdir(parents=True, exist_ok=True)
        mirror = Mirror(home, f"{there}/{name}")
        for _ in mirror.at_home():
            pass
        try:
            while mirror.new(shell):
                pass
        except Rewritten:
            mirror.restart()
            while mirror.new(shell):
                pass
    return len(names)


def folder(store: Store, run: Run) -> Path:
    """Where they lie at home."""
    return store.dir(run.id).tensorboard


def at_home(store: Store, run: Run) -> bool:
    """Whether there are any."""
    return any(folder(store, run).rglob("*tfevents*"))


def serve_there(run: Run, shell: Shell, port: int) -> AbstractContextManager[int]:
    """On the machine, with the run's own Python; answers a port here that leads to it."""
    assert run.python is not None
    asked = port if isinstance(shell, LocalShell) else 0
    return shell.serve(_argv(run.python, f"{run.folder}/tensorboard", asked), _port, port)


def serve_here(store: Store, run: Run, port: int) -> AbstractContextManager[int]:
    """On this machine, on what came home. Raises BadRequest where there is no TensorBoard here."""
    if importlib.util.find_spec("tensorboard") is None:
        raise BadRequest(
            f"there is no TensorBoard here: 'pip install tensorboard', then "
            f"'tensorboard --logdir {folder(store, run)}' shows {run.id}",
            run=run.id,
        )
    return LocalShell().serve(_argv(sys.executable, str(folder(store, run)), port), _port, port)


def failed(run: Run, said: str) -> RunFailed:
    """What to say of one that ended before it listened."""
    return RunFailed(f"TensorBoard of {run.id} did not start: {said}", run=run.id)


def _argv(python: str, logs: str, port: int) -> list[str]:
    options = ["--logdir", logs, "--host", "127.0.0.1", "--port", str(port), "--reload_interval", "5"]
    return ["env", "PYTHONUNBUFFERED=1", python, "-m", "tensorboard.main", *options]


def _port(line: str) -> int | None:
    found = LISTENS.search(line)
    return int(found[1]) if found else None
