"""Which Shell speaks to a machine."""

from __future__ import annotations

from orchestrator.machine import Machine
from orchestrator.shell import LocalShell, Shell

PATIENCE = 15.0


def open_shell(machine: Machine, *, patience: float = PATIENCE) -> Shell:
    """A shell on the machine, which has `patience` seconds to answer at all. Raises ContactLost, Refused."""
    if machine.host is None:
        return LocalShell()
    # Imported here because fabric and paramiko cost 0.2 s, which `ec2emo runs` need not pay.
    from orchestrator.ssh import SSHShell

    return SSHShell(machine, patience)
