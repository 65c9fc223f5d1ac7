"""What can go wrong, told apart by exit code.

    Ec2emoError
    ├── RunFailed            1   the run itself failed or was lost
    │   └── MachineGone          its rented machine has ended or is stopped
    ├── BadRequest           2   usage, unknown recipe or run, data that cannot be trained on
    ├── QuotaExceeded        3   the account may not have so many machines
    ├── NoCapacity           4   nowhere is such a machine free
    ├── Refused              5   credentials, permission, host keys
    ├── ContactLost          6   the machine cannot be reached: the run's state is unknown
    │   ├── StrangeAnswer        it answers, but not what was asked
    │   └── OutcomeUnknown       a request was sent, and whether it took effect is not known
    ├── Interrupted          7   the machine was taken away, and the run did not go on elsewhere
    ├── ArtifactsIncomplete  8   artifacts missing or not what the manifest says
    ├── CapReached           9   a cap on cost or time stands in the way
    ├── PriceTooLow         10   the most that may be paid is below the market
    ├── Throttled           11   the service asks for patience, for longer than ours lasts
    └── Defect              70   ec2emo itself is wrong; the traceback is in a file

A message is one sentence: what happened, to what, and what to do next.
"""

from __future__ import annotations


class Ec2emoError(Exception):
    """The root: `exit_code` is the table's, `run` the run it is about, `code` a service's own word for it."""

    exit_code = 70

    def __init__(self, message: str, *, run: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.run = run
        self.code = code


class RunFailed(Ec2emoError):
    """The run itself failed, or its process is gone without a record."""

    exit_code = 1


class MachineGone(RunFailed):
    """The rented machine has ended or is stopped; `interrupted`: its owner took it back."""

    def __init__(self, message: str, *, interrupted: bool = False, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.interrupted = interrupted


class BadRequest(Ec2emoError):
    """What was asked cannot be done as asked."""

    exit_code = 2


class QuotaExceeded(Ec2emoError):
    """The account's quota does not allow such a machine."""

    exit_code = 3


class NoCapacity(Ec2emoError):
    """Nobody has such a machine free now."""

    exit_code = 4


class Refused(Ec2emoError):
    """A key, a password, a permission or a host key stands in the way."""

    exit_code = 5


class ContactLost(Ec2emoError):
    """The machine does not answer; nothing is known of the run."""

    exit_code = 6


class StrangeAnswer(ContactLost):
    """The machine answers, but not what was asked; to connect anew would not help."""


class Interrupted(Ec2emoError):
    """The machine was taken away; the run can go on from its last checkpoint."""

    exit_code = 7


class OutcomeUnknown(ContactLost):
    """A request was sent and no word came back: it may have taken effect."""


class ArtifactsIncomplete(Ec2emoError):
    """What should come home is missing, or is not what the manifest says."""

    exit_code = 8


class CapReached(Ec2emoError):
    """A cap on cost or time does not allow it."""

    exit_code = 9


class PriceTooLow(Ec2emoError):
    """The most that may be paid is below what the market asks."""

    exit_code = 10


class Throttled(Ec2emoError):
    """A service asked to slow down for longer than we were willing to wait."""

    exit_code = 11


class Defect(Ec2emoError):
    """A fault of ec2emo's own."""

    exit_code = 70
