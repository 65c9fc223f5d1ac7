"""What was asked of a provider that rents machines, and what came of it: the write-ahead log of one machine.

`lease.json` beside `run.json` holds the latest; those before it are `lease-N.json`. Each field is written
down before the step that follows from it is taken, so every verb goes on from what the record says:

    a call (token and request)  →  its outcome, the instance  →  reached (host key pinned)  →  ended
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.machine import After, Terms, Via, terms
from trainer import contract

Market = Literal["on-demand", "spot"]


@dataclass(frozen=True)
class Call:
    """One request for a machine, written down before it is sent; `outcome` None means nobody knows yet.

    The same token goes only with the same `request`; one that has come to nothing is never used again. `at`
    is when it was first written down, `sent` when it was sent last, in seconds since 1970.
    """

    number: int
    token: str
    market: Market
    at: float
    request: Mapping[str, Any]
    outcome: str | None = None
    sent: float | None = None


@dataclass(frozen=True)
class Lease:
    """One machine for one run, the `number`-th of it. Times are seconds since 1970, money is US dollars.

    `uid` tells two runs of one name apart. `until` is when the machine ends itself, None where it does
    not. `host_key` is the public half of the key it shows at first contact; `confirmed` is when its console
    showed the one it has had since. `usd_per_hour` is None while
    no price is known; `worst` is then what is reckoned with. `made` is False for a machine that was there
    before us. Where `ec2emo setup` was run, `store` is where runs are mirrored (s3://…), `profile` what
    lets the machine do it, and `ender` the role in which a schedule ends the machine from outside.
    """

    run: str
    uid: str
    number: int
    provider: str
    region: str
    owner: str
    asked: float
    terms: Terms
    until: float | None = None
    made: bool = True
    host_key: str | None = None
    group: str | None = None
    template: str | None = None
    store: str | None = None
    profile: str | None = None
    ender: str | None = None
    worst: float | None = None
    calls: tuple[Call, ...] = ()
    instance: str | None = None
    instance_type: str | None = None
    zone: str | None = None
    market: Market | None = None
    usd_per_hour: float | None = None
    priced: str | None = None
    image: str | None = None
    user: str | None = None
    launched: float | None = None
    reached: float | None = None
    confirmed: float | None = None
    ended: float | None = None
    why_ended: str | None = None

    @property
    def open_call(self) -> Call | None:
        """The call whose outcome nobody knows yet."""
        return next((c for c in self.calls if c.outcome is None), None)

    @property
    def via(self) -> Via | None:
        """The tunnel, where no port is open."""
        return self.terms.via

    @property
    def after(self) -> After:
        """What becomes of the machine once the artifacts are home."""
        return self.terms.after

    def with_call(self, call: Call) -> Lease:
        """With one more call, or one again with its outcome."""
        kept = tuple(c for c in self.calls if c.number != call.number)
        return dataclasses.replace(self, calls=(*kept, call))

    def to_json(self) -> bytes:
        """As written to `lease.json`."""
        return contract.to_json({"contract": contract.VERSION, **dataclasses.asdict(self)})


@dataclass(frozen=True)
class Bill:
    """What a rented machine costs by what home knows: US dollars until now and an hour, with its disk.

    `until` is when it ends itself, seconds since 1970; None where it does not, or has ended.
    """

    usd: float
    usd_per_hour: float
    until: float | None


def parse(data: bytes, name: str) -> Lease:
    """The lease in `data`. Raises contract.ContractError when it is not one."""
    body = contract.parse_object(data, name)
    calls = body.get("calls", [])
    if not isinstance(calls, list) or not isinstance(body.get("terms"), Mapping):
        raise contract.ContractError(f"{name} has no list of calls, or no terms")
    return contract.build(
        Lease,
        {
            **body,
            "terms": terms(body["terms"], name),
            "calls": tuple(contract.build(Call, c, name) for c in calls),
        },
        name,
    )
