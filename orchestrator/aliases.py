"""`ssh ec2emo-RUN`: a file in the folder of each run, which one line of `~/.ssh/config` includes.

The machine may be an alias of the user's own configuration, whose settings `ssh -G` tells; it does so
without connecting.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

from orchestrator.errors import BadRequest
from orchestrator.machine import Machine
from orchestrator.run import Run
from orchestrator.store import Store
from trainer import contract

FILE = "ssh_config"
# What says how a host is reached; the rest is the user's taste, and holds for every host anyway.
KEPT = frozenset(
    {
        *("hostname", "user", "port", "identityfile", "identitiesonly", "certificatefile"),
        *("proxyjump", "proxycommand", "hostkeyalias", "userknownhostsfile"),
    }
)


def alias(run: Run) -> str:
    """What to type after `ssh`."""
    return f"ec2emo-{run.id}"


def write(store: Store, run: Run) -> bool:
    """Write the run's own file; False for one that needs none, because it is on this machine."""
    if run.machine is None or run.machine.host is None:
        return False
    lines = [f"Host {alias(run)}", *(f"    {line}" for line in _settings(run.machine))]
    with contextlib.suppress(OSError):  # convenience; the run does not depend on it
        contract.publish(store.dir(run.id).root / FILE, ("\n".join(lines) + "\n").encode())
    return True


def include(store: Store) -> str:
    """The line for `~/.ssh/config`."""
    return f'Include "{store.runs}/*/{FILE}"'


def is_included(store: Store, config: Path) -> bool:
    """Whether the line is there."""
    try:
        return include(store) in config.read_text(errors="surrogateescape").splitlines()
    except FileNotFoundError:
        return False
    except OSError as e:
        raise BadRequest(f"cannot read {config}: {e.strerror}") from e


def add(store: Store, config: Path) -> None:
    """Put the line first, where it holds for every host; all else stays as it is. Raises BadRequest."""
    target = config.resolve()  # which may lie in a folder of dotfiles
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        before = target.read_bytes() if target.exists() else b""
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o600
        aside = target.with_name(f".{target.name}.{os.getpid()}")
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with os.fdopen(fd, "wb") as f:
            f.write(include(store).encode() + b"\n\n"[: 2 if before else 1] + before)
            f.flush()
            os.fsync(f.fileno())
        aside.replace(target)
    except OSError as e:
        raise BadRequest(
            f"cannot write {target} ({e.strerror}): put this line first: {include(store)}"
        ) from e


def _settings(machine: Machine) -> list[str]:
    """How the machine is reached, as lines of a configuration."""
    assert machine.host is not None
    asked: list[str] = []
    if machine.user:
        asked += ["-l", machine.user]
    if machine.port:
        asked += ["-p", str(machine.port)]
    if machine.key:
        asked += ["-i", machine.key]
    ours, plain = _ssh([*asked, machine.host]), set(_ssh(["-F", "none", machine.host]))
    told = [line for line in ours if line.split(" ")[0] in KEPT and line not in plain]
    if not any(line.startswith("hostname ") for line in told):
        told.insert(0, f"hostname {machine.host}")
    return [*map(_quoted, told), "ForwardAgent no", "StrictHostKeyChecking yes"]


def _quoted(line: str) -> str:
    """As a configuration wants it: a path in quotes, for it may have spaces; a command as it stands."""
    name, _, value = line.partition(" ")
    return f'{name} "{value}"' if name in ("identityfile", "certificatefile") else line


def _ssh(argv: list[str]) -> list[str]:
    """What ssh would do. Without an ssh, or with a configuration it refuses, nothing."""
    try:
        asked = subprocess.run(["ssh", "-G", *argv], capture_output=True, text=True, timeout=15, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return asked.stdout.splitlines()
