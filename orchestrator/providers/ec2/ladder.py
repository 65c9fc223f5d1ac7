"""Which types of machine are asked for, in order, and what is known of them without asking.

Sizes are from DescribeInstanceTypes. Prices are the list prices of us-east-1 for Linux on demand as they
stood in 2025: what is reckoned with, and said so, when the price list does not answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from orchestrator.errors import BadRequest
from orchestrator.machine import Terms

Family = Literal["g", "p", "standard", "other"]


@dataclass(frozen=True)
class Type:
    """One type: virtual CPUs, memory in GiB, its GPU, and the price an hour that was known in 2025."""

    name: str
    vcpus: int
    memory: int
    gpu: str
    known: float


# One GPU each, from the cheapest up; one of a kind before the next size, because of one kind all may be gone.
LADDER = (
    Type("g4dn.xlarge", 4, 16, "T4 16 GB", 0.526),
    Type("g6.xlarge", 4, 16, "L4 24 GB", 0.8048),
    Type("g5.xlarge", 4, 16, "A10G 24 GB", 1.006),
    Type("g4dn.2xlarge", 8, 32, "T4 16 GB", 0.752),
    Type("g6.2xlarge", 8, 32, "L4 24 GB", 0.9776),
    Type("g5.2xlarge", 8, 32, "A10G 24 GB", 1.212),
    Type("g6e.xlarge", 4, 32, "L40S 48 GB", 1.861),
)
KNOWN = {t.name: t for t in LADDER}
NAME = re.compile(r"[a-z][a-z0-9-]{0,20}\.[a-z0-9-]{2,20}")
DISK_USD_PER_GB_MONTH = 0.08  # gp3, us-east-1
HOURS_A_MONTH = 730.0


def chosen(terms: Terms) -> tuple[str, ...]:
    """The names of the types, the one asked for first leading. Raises BadRequest for what is no name."""
    for name in terms.instance_types:
        if not NAME.fullmatch(name):
            raise BadRequest(f"--instance-type {name!r:.40} is no type of machine: write g4dn.xlarge")
    return tuple(dict.fromkeys(terms.instance_types)) or tuple(t.name for t in LADDER)


def family(name: str) -> Family:
    """Which quota a type counts against: quotas are kept by family (EC2 User Guide, "On-Demand quotas")."""
    letters = re.match(r"[a-z]+", name)
    first = letters[0] if letters else ""
    if first in ("g", "gr", "vt") or re.match(r"g\d", name):
        return "g"
    if first == "p":
        return "p"
    return (
        "standard" if first[:1] in set("acdhimrtz") and first not in ("dl", "trn", "hpc", "inf") else "other"
    )


def disk_usd_per_hour(terms: Terms) -> float:
    """What the disk costs, also while the machine is stopped."""
    return terms.disk_gb * DISK_USD_PER_GB_MONTH / HOURS_A_MONTH
