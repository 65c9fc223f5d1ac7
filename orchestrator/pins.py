"""The host keys of rented machines, known before the first contact: one file for each machine, by its id.

In the format of known_hosts, so that `ssh -o HostKeyAlias=ID -o UserKnownHostsFile=FILE` reads them too.
"""

from __future__ import annotations

from pathlib import Path

from orchestrator.store import home
from trainer import contract


def path(machine_id: str) -> Path:
    """Where they are."""
    return home() / "known_hosts" / machine_id


def read(machine_id: str | None) -> tuple[str, ...]:
    """The keys the machine may show, each as `ssh-ed25519 AAAA…`; none where nothing is known of it."""
    if machine_id is None:
        return ()
    try:
        lines = path(machine_id).read_text().splitlines()
    except OSError:
        return ()
    return tuple(line.partition(" ")[2] for line in lines if line.startswith(f"{machine_id} "))


def write(machine_id: str, *keys: str) -> None:
    """From now on it must show one of these."""
    lines = "".join(f"{machine_id} {' '.join(key.split()[:2])}\n" for key in dict.fromkeys(keys))
    contract.publish(path(machine_id), lines.encode())


def forget(machine_id: str) -> None:
    """The machine is gone."""
    path(machine_id).unlink(missing_ok=True)
