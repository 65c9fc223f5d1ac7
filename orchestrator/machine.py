"""Where a run trains, and on which terms a machine may be rented: records, without methods that act."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from trainer import contract

Via = Literal["ssm", "eice"]
After = Literal["terminate", "stop", "keep"]
Choice = Literal["on-demand", "spot", "spot-only"]


@dataclass(frozen=True)
class Machine:
    """One machine. `root` is ec2emo's folder there; a leading `~/` is the home folder of `user` there.

    `host` is a name or address, or an alias of `~/.ssh/config`, which may then say user, port and key. `id`
    names a rented machine, whose address may change. `via` is the tunnel to it, None for an open port.
    `store` is where it mirrors its runs (s3://…), None where it does not.
    """

    provider: str
    root: str = "~/.ec2emo"
    host: str | None = None
    user: str | None = None
    port: int | None = None
    key: str | None = None
    id: str | None = None
    region: str | None = None
    via: Via | None = None
    store: str | None = None

    @property
    def name(self) -> str:
        """As people write it after `--on`."""
        if self.id is not None:
            return self.id
        if self.host is None:
            return self.provider
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = f":{self.port}" if self.port else ""
        return f"ssh://{user}{host}{port}"


@dataclass(frozen=True)
class Terms:
    """On which terms a machine may be rented. Money is US dollars.

    No `instance_types` means the ladder of `providers.ec2.ladder`. `market` spot means spot first, then
    on-demand; spot-only never pays the on-demand price. The machine ends itself after `max_hours`, or
    earlier where `max_cost` would be exceeded. `after` is what becomes of a machine ec2emo made, once the
    artifacts are home. `allow_from` is who may reach port 22, in CIDR notation; None is this computer's
    address alone. `image` is an AMI, or the name of an SSM parameter that holds one. `adopt` allows to stop,
    terminate and tag a machine that ec2emo did not make; `allow_cpu` to train on it where no GPU is seen.
    """

    region: str | None = None
    instance_types: tuple[str, ...] = ()
    market: Choice = "on-demand"
    max_hours: float = 12.0
    max_cost: float | None = None
    after: After = "terminate"
    idle_minutes: int = 30
    disk_gb: int = 100
    via: Via | None = None
    allow_from: str | None = None
    subnets: tuple[str, ...] = ()
    image: str | None = None
    owner: str | None = None
    adopt: bool = False
    allow_cpu: bool = False


def tunnel(machine: Machine) -> list[str]:
    """The command whose standard input and output are the line to port 22 of a machine without open ports."""
    assert machine.id is not None
    region = ["--region", machine.region] if machine.region else []
    if machine.via == "eice":
        return ["aws", "ec2-instance-connect", "open-tunnel", "--instance-id", machine.id, *region]
    session = ["--document-name", "AWS-StartSSHSession", "--parameters", "portNumber=22"]
    return ["aws", "ssm", "start-session", "--target", machine.id, *session, *region]


def terms(body: object, name: str) -> Terms:
    """The terms in a JSON or TOML object. Raises contract.ContractError naming `name`."""
    if not isinstance(body, Mapping):
        raise contract.ContractError(f"{name}: {body!r:.80} is no set of terms")
    lists = {k: tuple(v) if isinstance(v, list) else v for k, v in body.items()}
    made = contract.build(Terms, lists, name)
    for field in ("instance_types", "subnets"):
        if not all(isinstance(one, str) for one in getattr(made, field)):
            raise contract.ContractError(f"{name}: {field} is a list of texts")
    if not 0 < made.max_hours <= 24 * 30:
        raise contract.ContractError(f"{name}: max_hours lies between 0 and 720, not {made.max_hours:g}")
    if made.max_cost is not None and not made.max_cost > 0:
        raise contract.ContractError(f"{name}: max_cost is more than 0, not {made.max_cost:g}")
    if not 8 <= made.disk_gb <= 16384:
        raise contract.ContractError(f"{name}: disk_gb lies between 8 and 16384, not {made.disk_gb}")
    if made.idle_minutes < 1:
        raise contract.ContractError(f"{name}: idle_minutes is 1 or more, not {made.idle_minutes}")
    return made


TERMS = tuple(f.name for f in dataclasses.fields(Terms) if f.name != "adopt")
