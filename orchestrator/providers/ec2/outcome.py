"""Why EC2 gave no machine: quota, capacity, price, permission and throttling told apart. Pure.

The codes are those of the EC2 API reference, "Error codes", and of the `Errors` in a CreateFleet answer,
which comes with HTTP 200. One answer may carry several, of one override each; `cause_of` says which counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from orchestrator import errors
from orchestrator.errors import Ec2emoError


class Cause(IntEnum):
    """Of several at once the first counts: those that no other pool can mend before those that one can.

    A pool that was throttled was not tried, which is why throttling comes before a full or dear pool; a
    quota, or a missing permission, holds for all pools of the market.
    """

    REFUSED = 1
    QUOTA = 2
    MISMATCH = 3
    THROTTLED = 4
    UNKNOWN = 5
    PRICE = 6
    CAPACITY = 7
    SPENT = 8
    UNSUPPORTED = 9
    WRONG = 10


@dataclass(frozen=True)
class Failure:
    """One error as EC2 worded it, and of which pool (`g4dn.xlarge in us-east-1a`) where it says so."""

    code: str
    message: str
    pool: str = ""


CODES = {
    Cause.REFUSED: (
        "UnauthorizedOperation",
        "AuthFailure",
        "OptInRequired",
        "Blocked",
        "PendingVerification",
        "ExpiredToken",
        "ExpiredTokenException",
        "RequestExpired",
        "AccessDenied",
        "AccessDeniedException",
        "InvalidClientTokenId",
        "InvalidAccessKeyId",
        "UnrecognizedClientException",
        "SignatureDoesNotMatch",
        "IncompleteSignature",
        "MissingAuthenticationToken",
        "NotAuthorized",
    ),
    Cause.QUOTA: ("MaxSpotInstanceCountExceeded", "VcpuLimitExceeded", "InstanceLimitExceeded"),
    Cause.MISMATCH: ("IdempotentParameterMismatch",),
    Cause.THROTTLED: (
        "RequestLimitExceeded",
        "EC2ThrottledException",
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "RequestThrottled",
        "RequestThrottledException",
        "TooManyRequestsException",
        "SlowDown",
    ),
    Cause.UNKNOWN: (
        "InternalError",
        "InternalFailure",
        "InternalServerError",
        "ServerInternal",
        "Unavailable",
        "ServiceUnavailable",
        "RequestTimeout",
        "RequestTimeoutException",
        "500",
        "502",
        "503",
        "504",
    ),
    Cause.PRICE: ("SpotMaxPriceTooLow", "price-too-low"),
    Cause.CAPACITY: (
        "InsufficientInstanceCapacity",
        "InsufficientCapacity",
        "InsufficientHostCapacity",
        "InsufficientReservedInstanceCapacity",
        "InsufficientVolumeCapacity",
        "InsufficientFreeAddressesInSubnet",
        "UnfulfillableCapacity",
    ),
    Cause.SPENT: ("IdempotentInstanceTerminated",),
    Cause.UNSUPPORTED: ("Unsupported", "UnsupportedOperation", "InvalidFleetConfiguration"),
}
_CAUSES = {code: cause for cause, codes in CODES.items() for code in codes}
# What a fleet says beside the real errors, of which it only says that they are there.
PLACEHOLDER = "Failed to fulfill capacity. Please review errors in the response."

QUOTAS = "https://console.aws.amazon.com/servicequotas/home/services/ec2/quotas"
SPOT_QUOTA, ON_DEMAND_QUOTA = "L-3819A6DF", "L-DB2E81BA"  # vCPUs of all G and VT types


def cause_of_code(code: str) -> Cause:
    """What one code means. An unknown one is something wrong with the request."""
    bare = re.sub(r"^(Client|Server)\.", "", code)
    if bare in _CAUSES:
        return _CAUSES[bare]
    if bare.endswith("LimitExceeded"):
        return Cause.QUOTA  # of volumes, addresses, groups, key pairs, ...
    return Cause.THROTTLED if bare.startswith("Throttl") else Cause.WRONG


def real(failures: Iterable[Failure]) -> list[Failure]:
    """Without the placeholder that only points at the others; it stays where it is alone."""
    told = list(failures)
    return [f for f in told if f.message.strip() != PLACEHOLDER] or told


def cause_of(failures: Sequence[Failure]) -> Cause:
    """What an answer without a machine comes down to; one without an error too is lack of capacity."""
    return min((cause_of_code(f.code) for f in real(failures)), default=Cause.CAPACITY)


def failures_of(answer: Mapping[str, Any]) -> list[Failure]:
    """The errors in a CreateFleet answer."""
    return [
        Failure(str(e.get("ErrorCode", "")), str(e.get("ErrorMessage", "")), _pool(e))
        for e in answer.get("Errors") or ()
    ]


def _pool(error: Mapping[str, Any]) -> str:
    asked = (error.get("LaunchTemplateAndOverrides") or {}).get("Overrides") or {}
    where = asked.get("AvailabilityZone") or asked.get("SubnetId")
    return f"{asked.get('InstanceType', '?')} in {where}" if where else str(asked.get("InstanceType", ""))


def error_for(failures: Sequence[Failure], *, region: str, market: str | None = None) -> Ec2emoError:
    """The error to raise: one sentence with what happened, to what, and what to type next."""
    told = real(failures) or [Failure("", "EC2 answered without a machine and without a reason")]
    cause = cause_of(failures)
    first = next((f for f in told if cause_of_code(f.code) == cause), told[0])
    others = sorted({f"{f.code} ({f.pool or f.message[:60]})" for f in told if f.code != first.code})
    also = f"; also: {', '.join(others)}" if others else ""
    kind, sentence = _WORDS[cause]
    spot = market == "spot" or "Spot" in first.code
    words = sentence.format(
        said=first.message.strip().rstrip(".") or first.code,
        code=first.code or "no code",
        region=region,
        pools=", ".join(sorted({f.pool for f in told if f.pool})) or "the machines asked for",
        market="spot" if spot else "on-demand",
        other="--on-demand uses another quota" if spot else "--spot uses another quota",
        quota=SPOT_QUOTA if spot else ON_DEMAND_QUOTA,
        quotas=QUOTAS,
    )
    return kind(words + also, code=first.code or None)


_WORDS: dict[Cause, tuple[type[Ec2emoError], str]] = {
    Cause.REFUSED: (
        errors.Refused,
        (
            "AWS does not let you do that in {region} ({code}: {said}): 'ec2emo doctor --on ec2' says which "
            "permission or credential is missing"
        ),
    ),
    Cause.QUOTA: (
        errors.QuotaExceeded,
        (
            "the {market} quota of this account in {region} is used up ({code}: {said}): ask for more of "
            "{quota} at {quotas}/{quota}, name another --region, or {other}"
        ),
    ),
    Cause.MISMATCH: (
        errors.BadRequest,
        (
            "this was asked of EC2 before, in other words ({code}: {said}): 'ec2emo gc' removes what was "
            "begun, then repeat the command"
        ),
    ),
    Cause.THROTTLED: (
        errors.Throttled,
        (
            "EC2 in {region} asks to slow down ({code}: {said}): nothing was started; repeat the command in "
            "a few minutes"
        ),
    ),
    Cause.UNKNOWN: (
        errors.OutcomeUnknown,
        (
            "EC2 in {region} did not say whether it did what was asked ({code}: {said}): repeat the command, "
            "it asks with the same token; 'ec2emo gc' finds what was started"
        ),
    ),
    Cause.PRICE: (
        errors.PriceTooLow,
        (
            "the most you would pay is below the market in {region} ({code}: {said}): --on-demand has a "
            "fixed price, 'ec2emo deploy ... --plan' shows both"
        ),
    ),
    Cause.CAPACITY: (
        errors.NoCapacity,
        (
            "no {market} machine is free in {region} ({code}: {said}; asked: {pools}): repeat in ten "
            "minutes, or name another --instance-type, another --region, or the other of --spot and "
            "--on-demand"
        ),
    ),
    Cause.SPENT: (
        errors.RunFailed,
        (
            "the machine that was asked for is gone again ({code}: {said}): repeat the command, which asks "
            "anew"
        ),
    ),
    Cause.UNSUPPORTED: (
        errors.BadRequest,
        (
            "{region} does not offer that ({code}: {said}; asked: {pools}): name another --instance-type or "
            "--region"
        ),
    ),
    Cause.WRONG: (
        errors.BadRequest,
        ("EC2 in {region} cannot do that ({code}: {said}): check the options and [ec2] in ec2emo.toml"),
    ),
}
