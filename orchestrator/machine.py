"""Where a run trains: a record, without methods that act."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """One machine. `root` is ec2emo's folder there; a leading `~/` is the home folder of `user` there.

    `host` is a name or address, or an alias of `~/.ssh/config`, which may then say user, port and key.
    """

    provider: str
    root: str = "~/.ec2emo"
    host: str | None = None
    user: str | None = None
    port: int | None = None
    key: str | None = None
    id: str | None = None
    region: str | None = None

    @property
    def name(self) -> str:
        """As people write it after `--on`."""
        if self.host is None:
            return self.provider
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = f":{self.port}" if self.port else ""
        return f"ssh://{user}{host}{port}"
