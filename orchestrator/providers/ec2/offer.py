"""What would be asked of EC2, looked up without changing anything: types by zone, image, prices, limits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import BadRequest, CapReached
from orchestrator.lease import Market
from orchestrator.machine import Terms
from orchestrator.providers.ec2 import image, ladder, network, prices, quotas, setup
from orchestrator.providers.ec2.api import Aws
from orchestrator.providers.ec2.image import Image
from orchestrator.providers.ec2.prices import Price

LEAST_MINUTES = 15  # what a cap must allow: booting and the environment take some of it


@dataclass(frozen=True)
class Offer:
    """`pools` are (type, zone, subnet), the type asked for first leading; `worst` is dollars an hour.

    `backed` says whether `ec2emo setup` has been run: a guard outside of the machine, and copies in S3.
    """

    region: str
    vpc: str
    pools: tuple[tuple[str, str, str], ...]
    not_offered: tuple[str, ...]
    image: Image
    prices: Mapping[str, Price]
    markets: tuple[Market, ...]
    sources: tuple[str, ...]
    backed: bool

    @property
    def types(self) -> list[str]:
        """The types some zone has, the one asked for first leading."""
        return list(dict.fromkeys(t for t, _, _ in self.pools))

    @property
    def worst(self) -> float:
        """The most an hour may cost: the dearest type on demand, which spot does not exceed for long."""
        return max(self.prices[t].usd for t in self.types)

    @property
    def guessed(self) -> list[str]:
        """The types whose price AWS did not tell."""
        return [t for t in self.types if not self.prices[t].certain]


def look(aws: Aws, terms: Terms) -> Offer:
    """What the terms come down to here and now. Raises BadRequest, Refused, OutcomeUnknown."""
    types = ladder.chosen(terms)
    with ThreadPoolExecutor(max_workers=6) as pool:  # each waits for the network, not for the others
        sources = pool.submit(network.sources, aws, terms)
        backed = pool.submit(setup.found, aws)
        subnets = pool.submit(network.subnets, aws, terms)
        zones = pool.submit(_zones, aws, types)
        found = pool.submit(image.find, aws, terms)
        priced = pool.submit(prices.on_demand, aws, types)
    admitted = sources.result()
    if terms.via == "ssm" and backed.result() is None:
        raise BadRequest(setup.NO_ROLE)
    nets, offered = subnets.result(), zones.result()
    pools = tuple(
        (t, str(net["AvailabilityZone"]), str(net["SubnetId"]))
        for t in types
        for net in nets
        if net["AvailabilityZone"] in offered.get(t, ())
    )
    if not pools:
        raise BadRequest(
            f"{aws.region} offers none of {', '.join(types)} in the zones of your network: name another "
            f"--instance-type or --region"
        )
    return Offer(
        region=aws.region,
        vpc=str(nets[0]["VpcId"]),
        pools=pools,
        not_offered=tuple(t for t in types if t not in {p[0] for p in pools}),
        image=found.result(),
        prices=priced.result(),
        markets=markets(terms),
        sources=admitted,
        backed=backed.result() is not None,
    )


def markets(terms: Terms) -> tuple[Market, ...]:
    """Where to ask, in order."""
    ways: dict[str, tuple[Market, ...]] = {
        "on-demand": ("on-demand",),
        "spot": ("spot", "on-demand"),
        "spot-only": ("spot",),
    }
    return ways[terms.market]


def minutes(terms: Terms, worst: float) -> int:
    """How long the machine may be up, by the cap on time and the one on cost at the worst price.

    Raises CapReached when one of them leaves no time to train.
    """
    limit = math.floor(terms.max_hours * 60)
    if limit < LEAST_MINUTES:
        raise CapReached(
            f"--max-hours {terms.max_hours:g} is {limit} minutes, and a start alone takes {LEAST_MINUTES}: "
            f"raise it"
        )
    if terms.max_cost is not None:
        limit = min(limit, math.floor(terms.max_cost / (worst + ladder.disk_usd_per_hour(terms)) * 60))
        if limit < LEAST_MINUTES:
            raise CapReached(
                f"--max-cost {terms.max_cost:g} pays for {limit} minutes at ${worst:.2f} an hour, and a "
                f"start alone takes {LEAST_MINUTES}: raise it, or name a cheaper --instance-type"
            )
    return limit


def plan(aws: Aws, terms: Terms, offer: Offer) -> dict[str, Any]:
    """What `deploy --plan` says of the machine. Nothing is made."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        limits = pool.submit(quotas.of, aws, offer.types, list(offer.markets))
        spot = pool.submit(prices.spot, aws, offer.types)
    limit = minutes(terms, offer.worst)
    disk = ladder.disk_usd_per_hour(terms)
    return {
        "region": offer.region,
        "image": f"{offer.image.name or offer.image.id} ({offer.image.id})",
        "markets": list(offer.markets),
        "types": {t: _type(offer, t, spot.result().get(t, {})) for t in offer.types},
        "not_offered_here": list(offer.not_offered),
        "quotas": {q.code: _quota(q) for q in limits.result()},
        "disk": f"{disk_size(terms, offer.image)} GB gp3, encrypted, ${disk:.3f} an hour",
        "ports": ports(terms, offer.sources),
        "ends_after_minutes": limit,
        "after": terms.after,
        "guards": _guards(limit, outside=offer.backed),
        "worst_usd_per_hour": round(offer.worst, 4),
        "worst_usd": round((offer.worst + disk) * limit / 60, 2),
        "prices_guessed": offer.guessed,
    }


def _guards(minutes: int, *, outside: bool) -> dict[str, str]:
    """What ends the machine without this computer."""
    return {
        "shutdown": f"after {minutes} minutes, armed at its first boot",
        "idle": "ended by a guard on it",
        "outside": "a schedule, and a copy of the run in S3" if outside else setup.MISSING,
    }


def ports(terms: Terms, sources: tuple[str, ...]) -> str:
    """What is open, to whom."""
    behind = ", an EC2 Instance Connect Endpoint" if terms.via == "eice" else ""
    return f"22 for {', '.join(sources)}{behind}" if sources else f"none, by way of {terms.via}"


def disk_size(terms: Terms, chosen: Image) -> int:
    """In GB; never less than the image needs."""
    return max(terms.disk_gb, chosen.smallest_disk_gb)


def _type(offer: Offer, name: str, spot: Mapping[str, float]) -> dict[str, Any]:
    price = offer.prices[name]
    known = ladder.KNOWN.get(name)
    return {
        "gpu": known.gpu if known else None,
        "usd_per_hour": price.usd,
        "spot_usd_per_hour": min(spot.values(), default=None),
        "zones": [z for t, z, _ in offer.pools if t == name],
        "price_date": price.date,
        "spot_zone": min(spot, key=lambda z: spot[z], default=None),
        "price_source": price.source,
    }


def _quota(quota: quotas.Quota) -> dict[str, Any]:
    return {
        "market": quota.market,
        "family": quota.family,
        "allowed_vcpus": quota.allowed,
        "used_vcpus": quota.used,
        "needed_vcpus": quota.needed,
        "enough": quota.enough,
        "more": None if quota.enough else quota.link,
    }


def _zones(aws: Aws, types: tuple[str, ...]) -> dict[str, set[str]]:
    """Which zones have which type; asked for what a zone does not have, EC2 says Unsupported."""
    rows = aws.all(
        "ec2",
        "describe_instance_type_offerings",
        "InstanceTypeOfferings",
        LocationType="availability-zone",
        Filters=[{"Name": "instance-type", "Values": list(types)}],
    )
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(str(row["InstanceType"]), set()).add(str(row["Location"]))
    return found
