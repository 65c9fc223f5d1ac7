"""What can go wrong, told apart by exit code.

    Ec2emoError
    ├── RunFailed            1   the run itself failed or was lost
    ├── BadRequest           2   usage, unknown recipe or run, data that cannot be trained on
    ├── Refused              5   credentials, permission, host keys
    ├── ContactLost          6   the machine cannot be reached: the run's state is unknown
    ├── Interrupted          7   the machine was taken away, and the run did not go on elsewhere
    ├── ArtifactsIncomplete  8   artifacts missing or not what the manifest says
    ├── CapReached           9   a cap on cost or time stands in the way
    └── Defect              70   ec2emo itself is wrong; the traceback is in a file

A message is one sentence: what happened, to what, and what to do next.
"""

from __future__ import annotations


class Ec2emoError(Exception):
    """The root: `exit_code` is the table's, `run` the run it is about, where there is one."""

    exit_code = 70

    def __init__(self, message: str, *, run: str | None = None) -> None:
        super().__init__(message)
        self.run = run


class RunFailed(Ec2emoError):
    """The run itself failed, or its process is gone without a record."""

    exit_code = 1


class BadRequest(Ec2emoError):
    """What was asked cannot be done as asked."""

    exit_code = 2


class Refused(Ec2emoError):
    """A key, a password, a permission or a host key stands in the way."""

    exit_code = 5


class ContactLost(Ec2emoError):
    """The machine does not answer; nothing is known of the run."""

    exit_code = 6


class Interrupted(Ec2emoError):
    """The machine was taken away; the run can go on from its last checkpoint."""

    exit_code = 7


class ArtifactsIncomplete(Ec2emoError):
    """What should come home is missing, or is not what the manifest says."""

    exit_code = 8


class CapReached(Ec2emoError):
    """A cap on cost or time does not allow it."""

    exit_code = 9


class Defect(Ec2emoError):
    """A fault of ec2emo's own."""

    exit_code = 70
