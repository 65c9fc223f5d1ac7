"""What there is to rent, how much of it, to whom and at what price: capacity, quotas, prices."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tests.cloud.wire import Refusal

ON_DEMAND, SPOT = "on-demand", "spot"

# US dollars an hour, Linux, us-east-1, as listed in 2025.
LIST_PRICES = {
    "t3.micro": 0.0104,
    "t3.large": 0.0832,
    "m5.large": 0.096,
    "c5.xlarge": 0.17,
    "g4dn.xlarge": 0.526,
    "g4dn.2xlarge": 0.752,
    "g4dn.4xlarge": 1.204,
    "g5.xlarge": 1.006,
    "g5.2xlarge": 1.212,
    "g6.xlarge": 0.8048,
    "g6.2xlarge": 0.9776,
    "gr6.4xlarge": 1.5392,
    "g6e.xlarge": 1.861,
    "g6e.2xlarge": 2.24208,
    "p4d.24xlarge": 21.957642,
    "p5.4xlarge": 4.326,
    "p5.48xlarge": 55.04,
}
GIB_MONTH = {"gp3": 0.08, "gp2": 0.10}  # US dollars
SPOT_SHARE = 0.4  # of the list price, where a test says nothing else


@dataclass(frozen=True)
class Quota:
    """A limit on the virtual CPUs of a family that run at once."""

    code: str
    name: str
    market: str
    families: str


QUOTAS = (
    Quota("L-DB2E81BA", "Running On-Demand G and VT instances", ON_DEMAND, "g gr vt"),
    Quota("L-3819A6DF", "All G and VT Spot Instance Requests", SPOT, "g gr vt"),
    Quota("L-417A185B", "Running On-Demand P instances", ON_DEMAND, "p"),
    Quota("L-7212CCBC", "All P4, P3 and P2 Spot Instance Requests", SPOT, "p"),
    Quota(
        "L-1216C47A",
        "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances",
        ON_DEMAND,
        "a c d h i m r t z",
    ),
    Quota(
        "L-34B43A08",
        "All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests",
        SPOT,
        "a c d h i m r t z",
    ),
)


@dataclass(frozen=True)
class Pool:
    """What EC2 counts capacity by."""

    type: str
    zone: str
    market: str


@dataclass
class Pools:
    """How many instances of a pool may live at once. Keys are (type, zone, market), each of them or `*`."""

    limits: dict[tuple[str, str, str], int] = field(default_factory=dict)

    def __setitem__(self, key: tuple[str, str, str], limit: int) -> None:
        self.limits[key] = limit

    def __delitem__(self, key: tuple[str, str, str]) -> None:
        del self.limits[key]

    def of(self, pool: Pool) -> int | None:
        """The least that is said of it; None if nothing is."""
        asked = (pool.type, pool.zone, pool.market)
        said = [
            limit
            for key, limit in self.limits.items()
            if all(k in ("*", a) for k, a in zip(key, asked, strict=True))
        ]
        return min(said, default=None)


class Market:
    """The market of one account.

    `counted` tells of each instance that counts its pool, its region, and whether it still takes room there;
    `cpus` tells how many virtual CPUs a type has.
    """

    def __init__(
        self, counted: Callable[[], Iterable[tuple[Pool, str, bool]]], cpus: Callable[[str], int]
    ) -> None:
        self._counted = counted
        self._cpus = cpus
        self.capacity = Pools()
        self.defaults: dict[str, float] = dict.fromkeys((q.code for q in QUOTAS), 0.0)
        self.quotas: dict[str, float] = dict.fromkeys((q.code for q in QUOTAS), 64.0)
        self.prices: dict[str, float] = dict(LIST_PRICES)
        self.spot_prices: dict[tuple[str, str], float] = {}

    def price(self, pool: Pool) -> float:
        """US dollars an hour; a type that is not on the list costs a dollar."""
        listed = self.prices.get(pool.type, 1.0)
        if pool.market == ON_DEMAND:
            return listed
        for key in ((pool.type, pool.zone), (pool.type, "*")):
            if key in self.spot_prices:
                return self.spot_prices[key]
        return round(listed * (SPOT_SHARE + (ord(pool.zone[-1]) - ord("a")) / 100), 4)

    def quota(self, pool: Pool) -> Quota:
        """The limit that counts a pool's virtual CPUs."""
        family = "".join(itertools.takewhile(str.isalpha, pool.type))
        return next(q for q in QUOTAS if q.market == pool.market and family in q.families.split())

    def check(self, pool: Pool, region: str, max_price: float | None) -> None:
        """Say no as EC2 does: for the quota first, then for the price, then for want of machines."""
        self._check_quota(pool, region)
        if pool.market == SPOT and max_price is not None and max_price < self.price(pool):
            raise Refusal(
                "SpotMaxPriceTooLow",
                f"Your Spot request price of {max_price:g} is lower than the minimum required Spot request "
                f"fulfillment price of {self.price(pool):g}.",
            )
        limit = self.capacity.of(pool)
        if limit is not None and sum(p == pool and there for p, _, there in self._counted()) >= limit:
            if pool.market == SPOT:
                raise Refusal(
                    "InsufficientInstanceCapacity",
                    "There is no Spot capacity available that matches your request.",
                    500,
                )
            raise Refusal(
                "InsufficientInstanceCapacity",
                f"We currently do not have sufficient {pool.type} capacity in the Availability Zone you "
                f"requested ({pool.zone}). Our system will be working on provisioning additional capacity. "
                f"You can currently get {pool.type} capacity by not specifying an Availability Zone in your "
                "request.",
                500,
            )

    def _check_quota(self, pool: Pool, region: str) -> None:
        quota = self.quota(pool)
        limit = self.quotas.get(quota.code, self.defaults[quota.code])
        used = sum(
            self._cpus(p.type) for p, r, _ in self._counted() if r == region and self.quota(p) == quota
        )
        if used + self._cpus(pool.type) <= limit:
            return
        if pool.market == SPOT:
            raise Refusal("MaxSpotInstanceCountExceeded", "Max spot instance count exceeded")
        raise Refusal(
            "VcpuLimitExceeded",
            f"You have requested more vCPU capacity than your current vCPU limit of {limit:g} allows for the "
            "instance bucket that the specified instance type belongs to. Please visit "
            "http://aws.amazon.com/contact-us/ec2-request to request an adjustment to this limit.",
        )
