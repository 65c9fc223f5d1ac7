"""What an hour costs: on demand by the Price List API, spot by the latest price of each zone.

On-demand prices are kept at home for a week with their date. Where none can be had, the list price known in
2025 is reckoned with, or for a type nobody knows the highest of all, and that is said.
"""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import Ec2emoError
from orchestrator.lease import Market
from orchestrator.providers.ec2 import clock, ladder
from orchestrator.providers.ec2.api import Aws
from orchestrator.store import home
from trainer import contract

FRESH_DAYS = 7
LIST, KNOWN, WORST = "price list", "known in 2025", "unknown: the highest known price"


@dataclass(frozen=True)
class Price:
    """US dollars an hour, the day that was true, and who says so."""

    usd: float
    date: str
    source: str

    @property
    def certain(self) -> bool:
        """Whether AWS itself said it."""
        return self.source == LIST


def on_demand(aws: Aws, types: Iterable[str]) -> dict[str, Price]:
    """The price of each type; never without one."""
    kept = _kept()
    missing = [t for t in types if not _is_fresh(kept.get(f"{aws.region}/{t}"))]
    if missing:
        with ThreadPoolExecutor(max_workers=len(missing)) as pool:
            for name, found in zip(missing, pool.map(lambda t: _listed(aws, t), missing), strict=True):
                if found is not None:
                    kept[f"{aws.region}/{name}"] = asdict(Price(found, _today(), LIST))
        _keep(kept)
    return {t: _known(kept.get(f"{aws.region}/{t}"), t, kept) for t in types}


def spot(aws: Aws, types: Iterable[str]) -> dict[str, dict[str, float]]:
    """The latest spot price of each type in each zone; empty when EC2 does not say."""
    found: dict[str, dict[str, tuple[str, float]]] = {}
    now = datetime.datetime.fromtimestamp(clock.now(), datetime.UTC)
    with contextlib.suppress(Ec2emoError):
        rows = aws.all(
            "ec2",
            "describe_spot_price_history",
            "SpotPriceHistory",
            InstanceTypes=list(types),
            ProductDescriptions=["Linux/UNIX"],
            StartTime=now,
        )
        for row in rows:
            zones = found.setdefault(str(row["InstanceType"]), {})
            at, zone = str(row.get("Timestamp", "")), str(row["AvailabilityZone"])
            if zone not in zones or zones[zone][0] < at:
                zones[zone] = (at, float(row["SpotPrice"]))
    return {t: {z: usd for z, (_, usd) in sorted(zones.items())} for t, zones in found.items()}


def of(aws: Aws, name: str, market: Market, zone: str | None) -> Price:
    """What one machine costs an hour now. A spot price nobody tells is reckoned as the on-demand one."""
    if market == "spot":
        zones = spot(aws, [name]).get(name, {})
        usd = zones.get(zone or "") or max(zones.values(), default=None)
        if usd is not None:
            return Price(usd, _today(), LIST)
    return on_demand(aws, [name])[name]


def _listed(aws: Aws, name: str) -> float | None:
    """What the Price List API says; None when it says nothing."""
    wanted = {
        "instanceType": name,
        "regionCode": aws.region,
        "operatingSystem": "Linux",
        "tenancy": "Shared",
        "preInstalledSw": "NA",
        "capacitystatus": "Used",
    }
    filters = [{"Type": "TERM_MATCH", "Field": k, "Value": v} for k, v in wanted.items()]
    try:
        answer = aws.ask("pricing", "get_products", ServiceCode="AmazonEC2", Filters=filters)
    except Ec2emoError:
        return None
    found = [usd for product in answer.get("PriceList") or () for usd in _prices_in(product)]
    return max(found, default=None)


def _prices_in(product: object) -> list[float]:
    try:
        body: Any = json.loads(product) if isinstance(product, str) else product
        hours = [d for term in body["terms"]["OnDemand"].values() for d in term["priceDimensions"].values()]
        return [usd for d in hours if (usd := float(d["pricePerUnit"]["USD"])) > 0]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def _known(kept: Mapping[str, Any] | None, name: str, all_kept: Mapping[str, Any]) -> Price:
    if kept:
        return Price(float(kept["usd"]), str(kept["date"]), str(kept["source"]))
    if name in ladder.KNOWN:
        return Price(ladder.KNOWN[name].known, "2025", KNOWN)
    highest = max([t.known for t in ladder.LADDER] + [float(p["usd"]) for p in all_kept.values()])
    return Price(highest, _today(), WORST)


def _is_fresh(kept: Mapping[str, Any] | None) -> bool:
    try:
        since = datetime.date.fromisoformat(_today()) - datetime.date.fromisoformat(
            str(kept and kept["date"])
        )
    except ValueError:
        return False
    return since.days <= FRESH_DAYS


def _today() -> str:
    return clock.iso(clock.now())[:10]


def _path() -> Path:
    return home() / "prices.json"


def _kept() -> dict[str, Any]:
    try:
        body = contract.parse_object(_path().read_bytes(), "prices.json")
        return {k: v for k, v in body.items() if {"usd", "date", "source"} <= set(v)}
    except (OSError, contract.ContractError, TypeError):
        return {}


def _keep(kept: Mapping[str, Any]) -> None:
    with contextlib.suppress(OSError):  # asked again next time
        contract.publish(_path(), contract.to_json(kept))
