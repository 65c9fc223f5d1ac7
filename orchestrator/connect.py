"""Which Shell speaks to a machine."""

from __future__ import annotations

import threading
from concurrent.futures import Future

from orchestrator import providers
from orchestrator.errors import ContactLost, Ec2emoError, MachineGone
from orchestrator.machine import Machine
from orchestrator.shell import LocalShell, Shell

PATIENCE = 15.0


def open_shell(machine: Machine, *, patience: float = PATIENCE) -> Shell:
    """A shell on the machine, which has `patience` seconds to answer at all.

    Raises ContactLost or Refused, MachineGone for a rented one that has ended.
    """
    if machine.host is None:
        return LocalShell()
    # Imported here because fabric and paramiko cost 0.2 s, which `ec2emo runs` need not pay.
    from orchestrator.ssh import SSHShell

    try:
        return SSHShell(machine, patience)
    except ContactLost:
        moved = _again(machine)
        if moved is None:
            raise
    return SSHShell(moved, patience)


class Ahead:
    """A shell that opens while something else is done; what stood in its way is raised when it is asked for.

    One that nobody asks for keeps nobody waiting, and ends with the process.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._opened: Future[Shell] = Future()
        threading.Thread(target=self._open, daemon=True).start()

    def shell(self) -> Shell:
        """The shell, once it is open. Raises what `open_shell` raises."""
        return self._opened.result()

    def _open(self) -> None:
        try:
            self._opened.set_result(open_shell(self.machine))
        except BaseException as e:  # noqa: BLE001 - it is raised where the shell is asked for
            self._opened.set_exception(e)


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
