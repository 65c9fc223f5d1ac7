"""Which Shell speaks to a machine."""

from __future__ import annotations

from orchestrator import providers
from orchestrator.errors import ContactLost, Ec2emoError, MachineGone
from orchestrator.machine import Machine
from orchestrator.shell import LocalShell, Shell


def open_shell(machine: Machine) -> Shell:
    """A shell on the machine. Raises ContactLost or Refused, MachineGone for a rented one that has ended."""
    if machine.host is None:
        return LocalShell()
    # Imported here because fabric and paramiko cost 0.2 s, which `ec2emo runs` need not pay.
    from orchestrator.ssh import SSHShell

    try:
        return SSHShell(machine)
    except ContactLost:
        moved = _again(machine)
        if moved is None:
            raise
    return SSHShell(moved)


def _again(machine: Machine) -> Machine | None:
    """A rented machine that does not answer, where its provider says it is now; None when that is no news."""
    renter = providers.renter(machine.provider)
    try:
        found: Machine | None = renter.again(machine) if renter else None
    except MachineGone:
        raise
    except Ec2emoError:
        return None  # that it does not answer is the news; why we could not ask is not
    return found
