"""How many virtual CPUs the account may have at once, by family and market, and how many it has.

Codes of Service Quotas: EC2 counts vCPUs per region, apart for on demand and for spot.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from orchestrator.errors import Ec2emoError
from orchestrator.lease import Market
from orchestrator.providers.ec2 import ladder
from orchestrator.providers.ec2.api import Aws
from orchestrator.providers.ec2.outcome import QUOTAS

CODES: dict[tuple[Market, str], str] = {
    ("on-demand", "g"): "L-DB2E81BA",
    ("spot", "g"): "L-3819A6DF",
    ("on-demand", "p"): "L-417A185B",
    ("spot", "p"): "L-7212CCBC",
    ("on-demand", "standard"): "L-1216C47A",
    ("spot", "standard"): "L-34B43A08",
}
ALIVE = ["pending", "running", "stopping", "shutting-down"]


@dataclass(frozen=True)
class Quota:
    """vCPUs: `allowed` None when Service Quotas does not say; `used` by what runs now."""

    code: str
    market: Market
    family: str
    allowed: float | None
    used: int
    needed: int

    @property
    def enough(self) -> bool | None:
        """Whether a machine of the smallest type asked for fits; None when it is not known."""
        return None if self.allowed is None else self.used + self.needed <= self.allowed

    @property
    def link(self) -> str:
        """Where more is asked for."""
        return f"{QUOTAS}/{self.code}"


def vcpus(aws: Aws, types: list[str]) -> dict[str, int]:
    """The virtual CPUs of each type; without those EC2 does not know."""
    known = {t: ladder.KNOWN[t].vcpus for t in types if t in ladder.KNOWN}
    if unknown := [t for t in types if t not in known]:
        rows = aws.all(
            "ec2",
            "describe_instance_types",
            "InstanceTypes",
            Filters=[{"Name": "instance-type", "Values": unknown}],
        )
        known |= {str(r["InstanceType"]): int(r["VCpuInfo"]["DefaultVCpus"]) for r in rows}
    return known


def of(aws: Aws, types: list[str], markets: list[Market]) -> list[Quota]:
    """What each market and family asked for needs, and has. `needed` is by its smallest type."""
    sizes = vcpus(aws, types)
    found = []
    for market in markets:
        for family in dict.fromkeys(ladder.family(t) for t in types):
            code = CODES.get((market, family))
            needed = min((sizes[t] for t in types if ladder.family(t) == family and t in sizes), default=0)
            if code:
                found.append(
                    Quota(code, market, family, _allowed(aws, code), _used(aws, market, family), needed)
                )
    return found


def _allowed(aws: Aws, code: str) -> float | None:
    """The applied quota; where none was ever applied, the default one."""
    for operation in ("get_service_quota", "get_aws_default_service_quota"):
        with contextlib.suppress(Ec2emoError, KeyError, TypeError, ValueError):
            answer = aws.ask("service-quotas", operation, ServiceCode="ec2", QuotaCode=code)
            return float(answer["Quota"]["Value"])
    return None


def _used(aws: Aws, market: Market, family: str) -> int:
    """Virtual CPUs of this family that run now, ours or not."""
    rows = aws.all(
        "ec2",
        "describe_instances",
        "Reservations",
        Filters=[{"Name": "instance-state-name", "Values": ALIVE}],
    )
    used = 0
    for instance in (i for r in rows for i in r["Instances"]):
        spot = instance.get("InstanceLifecycle") == "spot"
        if spot == (market == "spot") and ladder.family(str(instance["InstanceType"])) == family:
            cpu = instance.get("CpuOptions") or {}
            used += int(cpu.get("CoreCount") or 2) * int(cpu.get("ThreadsPerCore") or 2)
    return used
