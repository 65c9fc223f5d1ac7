"""What goes wrong on purpose: refusals, throttles, lost answers, and callers that die at a numbered point."""

from __future__ import annotations

import base64
import fnmatch
import json
import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cloud.policies import Need
from tests.cloud.wire import Call, Refusal

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud

SERVER_FAULTS = {
    "InsufficientInstanceCapacity": 500,
    "InsufficientHostCapacity": 500,
    "InternalError": 500,
    "RequestLimitExceeded": 503,
    "EC2ThrottledException": 503,
    "ServiceUnavailable": 503,
    "Unavailable": 503,
    "UnauthorizedOperation": 403,
    "AuthFailure": 401,
    "OptInRequired": 403,
}


class Cut(Exception):
    """The connection ends without an answer."""


@dataclass(frozen=True)
class Point:
    """A moment at which a caller may die or an answer get lost: `before` or `after` the effect of a call."""

    number: int
    when: str
    call: str


@dataclass
class Bucket:
    """Tokens for calls: full at first, refilled by so many a second of the cloud's clock."""

    capacity: float
    refill: float
    level: float
    at: float


@dataclass
class Failure:
    """The next so many calls of these names end so; with `effect`, what was asked is done all the same."""

    pattern: str
    code: str
    message: str
    times: int
    effect: bool


class Faults:
    """Asked about every call before and after its effect."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.denied: list[str] = []
        self.failures: list[Failure] = []
        self.buckets: dict[str, Bucket] = {}
        self.quiet_until: dict[str, float] = {}
        self.points: list[Point] = []
        self.kill: tuple[int, int | None] | None = None
        self.lose: set[int] = set()

    def before(self, call: Call, peer: tuple[str, int]) -> None:
        """What keeps a call from having its effect."""
        if call.changes:
            self._point("before", call, peer)
        self._throttle(call)
        self._permit(call)
        if call.parameters.get("DryRun"):
            raise Refusal("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", 412)
        if (failure := self._failing(call)) and not failure.effect:
            self._fail(failure)

    def after(self, call: Call, peer: tuple[str, int]) -> None:
        """What keeps the answer from its caller when the effect is there."""
        if call.changes:
            self._point("after", call, peer)
        if failure := self._failing(call):
            self._fail(failure)

    def _point(self, when: str, call: Call, peer: tuple[str, int]) -> None:
        point = Point(len(self.points) + 1, when, call.name)
        self.points.append(point)
        if self.kill and self.kill[0] == point.number:
            victim = self.kill[1] or process_of(peer, self.cloud.port)
            call.outcome = "killed"
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
            raise Cut
        if point.number in self.lose:
            call.outcome = "lost"
            raise Cut

    def _throttle(self, call: Call) -> None:
        now = self.cloud.clock.now()
        silent = any(
            fnmatch.fnmatchcase(call.name, p) and now < until for p, until in self.quiet_until.items()
        )
        for pattern, bucket in self.buckets.items():
            if fnmatch.fnmatchcase(call.name, pattern):
                bucket.level = min(bucket.capacity, bucket.level + (now - bucket.at) * bucket.refill)
                bucket.at = now
                silent = silent or bucket.level < 1
                bucket.level = max(0.0, bucket.level - 1)
        if silent:
            code = "RequestLimitExceeded" if call.service == "ec2" else "ThrottlingException"
            raise Refusal(code, "Request limit exceeded.", 503 if call.service == "ec2" else 400)

    def _permit(self, call: Call) -> None:
        need = self.cloud.permissions.refused(call)
        if need is None and any(fnmatch.fnmatchcase(call.name, pattern) for pattern in self.denied):
            need = Need(call.name, "*")
        if need is not None:
            raise denial(call, need, self.cloud.arn_of(call.access_key))

    def _failing(self, call: Call) -> Failure | None:
        return next((f for f in self.failures if f.times and fnmatch.fnmatchcase(call.name, f.pattern)), None)

    def _fail(self, failure: Failure) -> None:
        failure.times -= 1
        raise Refusal(failure.code, failure.message, SERVER_FAULTS.get(failure.code, 400))


def denial(call: Call, need: Need, who: str) -> Refusal:
    """Not authorized, in the words of the service; EC2 adds a message that only STS decodes."""
    said = (
        f"User: {who} is not authorized to perform: {need.action} on resource: {need.resource} because no "
        f"identity-based policy allows the {need.action} action"
    )
    if call.service == "ec2":
        context = {"principal": {"arn": who}, "action": need.action, "resource": need.resource}
        secret = json.dumps({"allowed": False, "explicitDeny": False, "context": context})
        encoded = base64.urlsafe_b64encode(secret.encode()).decode()
        return Refusal(
            "UnauthorizedOperation",
            f"You are not authorized to perform this operation. {said}. "
            f"Encoded authorization failure message: {encoded}",
            403,
        )
    code = "AccessDenied" if call.protocol in ("query", "rest-xml") else "AccessDeniedException"
    return Refusal(code, said, 403 if call.protocol in ("query", "rest-xml", "rest-json") else 400)


def process_of(peer: tuple[str, int], port: int) -> int:
    """The process on this machine that holds the other end of a connection to us."""
    ends = f"{_hex(*peer)} {_hex('127.0.0.1', port)}"
    (inode,) = [
        line.split()[9]
        for line in Path("/proc/net/tcp").read_text().splitlines()
        if " ".join(line.split()[1:3]) == ends
    ]
    for fd in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if os.readlink(fd) == f"socket:[{inode}]":  # noqa: PTH115
                return int(fd.parts[2])
    raise ProcessLookupError(f"nobody holds {peer}")


def _hex(address: str, port: int) -> str:
    return f"{int.from_bytes(bytes(int(b) for b in address.split('.')), 'little'):08X}:{port:04X}"
