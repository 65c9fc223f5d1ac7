"""What AWS publishes about its market: price list, spot price history, service quotas, types and zones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from tests.cloud.market import GIB_MONTH, QUOTAS, SPOT, Pool, Quota
from tests.cloud.moto import ACCOUNT
from tests.cloud.wire import Call, Refusal

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud

LOCATIONS = {
    "us-east-1": "US East (N. Virginia)",
    "us-west-2": "US West (Oregon)",
    "eu-central-1": "EU (Frankfurt)",
}
PRICING_REGIONS = ("us-east-1", "eu-central-1", "ap-south-1")


class Listings:
    """Read-only answers out of the market."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud

    def answers(self) -> dict[str, Callable[[Call], dict[str, Any] | None]]:
        return {
            "ec2:DescribeSpotPriceHistory": self.spot_price_history,
            "pricing:GetProducts": self.products,
            "service-quotas:GetServiceQuota": lambda call: self.quota(call, self.cloud.market.quotas),
            "service-quotas:GetAWSDefaultServiceQuota": lambda call: self.quota(
                call, self.cloud.market.defaults
            ),
            "service-quotas:ListServiceQuotas": lambda call: self.all_quotas(call, self.cloud.market.quotas),
            "service-quotas:ListAWSDefaultServiceQuotas": lambda call: self.all_quotas(
                call, self.cloud.market.defaults
            ),
        }

    def spot_price_history(self, call: Call) -> dict[str, Any]:
        """Three prices of each pool, the newest first: now, and what it was hours and days ago."""
        asked = call.parameters
        filters = {f["Name"]: f["Values"] for f in asked.get("Filters", [])}
        types = asked.get("InstanceTypes") or filters.get("instance-type") or list(self.cloud.market.prices)
        products = asked.get("ProductDescriptions") or filters.get("product-description")
        if products and not {"Linux/UNIX", "Linux/UNIX (Amazon VPC)"} & set(products):
            return {"SpotPriceHistory": []}
        now = self.cloud.clock.date().replace(microsecond=0)
        start, end = asked.get("StartTime"), asked.get("EndTime")
        found = []
        for kind in types:
            for zone in sorted(self.cloud.zones(call.region, kind)):
                wanted = asked.get("AvailabilityZone") or filters.get("availability-zone", [zone])
                if zone not in wanted:
                    continue
                price = self.cloud.market.price(Pool(kind, zone, SPOT))
                changes = [(now - timedelta(hours=h), price * f) for h, f in ((1, 1), (26, 1.1), (200, 0.9))]
                # The price that held at StartTime is told too, though it was set before.
                late = [c for c in changes if start is None or c[0] >= start]
                early = [c for c in changes if start is not None and c[0] < start][:1]
                for when, value in [*late, *early]:
                    if end is None or when <= end:
                        found.append(
                            {
                                "AvailabilityZone": zone,
                                "InstanceType": kind,
                                "ProductDescription": "Linux/UNIX",
                                "SpotPrice": f"{value:.6f}",
                                "Timestamp": when,
                            }
                        )
        found.sort(key=lambda f: f["Timestamp"], reverse=True)
        start_at = int(asked.get("NextToken") or 0)
        size = int(asked.get("MaxResults") or 1000)
        told: dict[str, Any] = {"SpotPriceHistory": found[start_at : start_at + size], "NextToken": ""}
        if start_at + size < len(found):
            told["NextToken"] = str(start_at + size)
        return told

    def products(self, call: Call) -> dict[str, Any]:
        """Price List products that match every filter, each a JSON text, as AWS has it."""
        if call.region not in PRICING_REGIONS:
            raise Refusal("AccessDeniedException", f"there is no price list in {call.region}")
        asked = call.parameters
        if asked["ServiceCode"] != "AmazonEC2":
            return {"PriceList": [], "FormatVersion": "aws_v1"}
        wanted = {f["Field"]: f["Value"] for f in asked.get("Filters", [])}
        found = [
            json.dumps(product)
            for product in self._products()
            if all(
                product["product"]["attributes"].get(k, product["product"].get(k)) == v
                for k, v in wanted.items()
            )
        ]
        start, size = int(asked.get("NextToken") or 0), int(asked.get("MaxResults") or 100)
        told: dict[str, Any] = {"PriceList": found[start : start + size], "FormatVersion": "aws_v1"}
        if start + size < len(found):
            told["NextToken"] = str(start + size)
        return told

    def _products(self) -> Iterator[dict[str, Any]]:
        """For each type what people mean, and the products beside it that cost something else or nothing."""
        for region, location in LOCATIONS.items():
            for kind, price in self.cloud.market.prices.items():
                usual = {
                    "instanceType": kind,
                    "regionCode": region,
                    "location": location,
                    "locationType": "AWS Region",
                    "servicecode": "AmazonEC2",
                    "operatingSystem": "Linux",
                    "preInstalledSw": "NA",
                    "tenancy": "Shared",
                    "capacitystatus": "Used",
                    "licenseModel": "No License required",
                    "marketoption": "OnDemand",
                    "operation": "RunInstances",
                    "vcpu": str(self.cloud.cpus(kind)),
                    "usagetype": f"BoxUsage:{kind}",
                }
                compute = "Compute Instance"
                yield _product(compute, usual, "Hrs", price)
                yield _product(compute, usual | {"operatingSystem": "Windows"}, "Hrs", price + 0.184)
                yield _product(compute, usual | {"tenancy": "Dedicated"}, "Hrs", price * 1.1)
                yield _product(
                    compute, usual | {"capacitystatus": "AllocatedCapacityReservation"}, "Hrs", 0.0
                )
                yield _product(compute, usual | {"preInstalledSw": "SQL Std"}, "Hrs", price + 0.48)
            for kind, price in GIB_MONTH.items():
                usual = {
                    "regionCode": region,
                    "location": location,
                    "volumeApiName": kind,
                    "servicecode": "AmazonEC2",
                }
                yield _product("Storage", usual, "GB-Mo", price)

    def quota(self, call: Call, values: dict[str, float]) -> dict[str, Any]:
        code = call.parameters["QuotaCode"]
        found = [
            q for q in QUOTAS if q.code == code and code in values and call.parameters["ServiceCode"] == "ec2"
        ]
        if not found:
            raise Refusal(
                "NoSuchResourceException", "The request failed because the specified quota does not exist."
            )
        return {"Quota": _quota(found[0], values[code], call.region)}

    def all_quotas(self, call: Call, values: dict[str, float]) -> dict[str, Any]:
        return {"Quotas": [_quota(q, values[q.code], call.region) for q in QUOTAS if q.code in values]}


def _product(family: str, attributes: dict[str, str], unit: str, price: float) -> dict[str, Any]:
    sku = hashlib.sha256(json.dumps(attributes, sort_keys=True).encode()).hexdigest()[:16].upper()
    term = f"{sku}.JRTCKXETXF"
    dimension = {
        "unit": unit,
        "rateCode": f"{term}.6YS6EN2CT7",
        "beginRange": "0",
        "endRange": "Inf",
        "description": f"${price} per {unit}",
        "appliesTo": [],
        "pricePerUnit": {"USD": f"{price:.10f}"},
    }
    offer = {
        "sku": sku,
        "offerTermCode": "JRTCKXETXF",
        "effectiveDate": "2025-11-01T00:00:00Z",
        "termAttributes": {},
        "priceDimensions": {f"{term}.6YS6EN2CT7": dimension},
    }
    return {
        "product": {"productFamily": family, "sku": sku, "attributes": attributes},
        "serviceCode": "AmazonEC2",
        "terms": {"OnDemand": {term: offer}},
        "version": "20251101000000",
        "publicationDate": "2025-11-01T00:00:00Z",
    }


def _quota(quota: Quota, value: float, region: str) -> dict[str, Any]:
    return {
        "ServiceCode": "ec2",
        "ServiceName": "Amazon Elastic Compute Cloud (Amazon EC2)",
        "QuotaArn": f"arn:aws:servicequotas:{region}:{ACCOUNT}:ec2/{quota.code}",
        "QuotaCode": quota.code,
        "QuotaName": quota.name,
        "Value": value,
        "Unit": "None",
        "Adjustable": True,
        "GlobalQuota": False,
    }
