"""CreateFleet of type instant: the first pool that has room, and an error for each before it that has not."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.cloud.instances import BY_USER
from tests.cloud.market import ON_DEMAND, SPOT, Pool
from tests.cloud.wire import Call, Refusal

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud

OF_FLEETS = ("MaxPrice", "Priority", "WeightedCapacity")  # what of an override is no launch's
MESSAGES = {
    "InsufficientInstanceCapacity": "There is no capacity available that matches your request.",
    "MaxSpotInstanceCountExceeded": "Max spot instance count exceeded",
    "RequestLimitExceeded": "Request limit exceeded.",
    "UnauthorizedOperation": "You are not authorized to perform this operation.",
    # Only a pointer to the errors beside it.
    "UnfulfillableCapacity": "Failed to fulfill capacity. Please review errors in the response.",
}


def message(code: str) -> str:
    """What EC2 says with an error."""
    return MESSAGES.get(code, f"The request ended with {code}.")


@dataclass
class Fleet:
    """What is known of a fleet after the call that made it."""

    id: str
    region: str
    request: dict[str, Any]
    instances: list[str]
    errors: list[dict[str, Any]]
    created: Any
    state: str = "active"


class Fleets:
    """Instant fleets. `answer_next` makes the next calls answer 200 with these errors and no instance."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.all: dict[str, Fleet] = {}
        self.answer_next: list[list[tuple[str, str]]] = []

    def answers(self) -> dict[str, Callable[[Call], dict[str, Any] | None]]:
        return {
            "ec2:CreateFleet": self.create,
            "ec2:DescribeFleets": self.describe,
            "ec2:DeleteFleets": self.delete,
        }

    def create(self, call: Call) -> dict[str, Any]:
        request = call.parameters
        if request.get("Type", "maintain") != "instant":
            raise Refusal("UnsupportedOperation", "the test cloud simulates fleets of type instant alone")
        target = request["TargetCapacitySpecification"]
        market = target.get("DefaultTargetCapacityType", ON_DEMAND)
        pools = self._pools(call, request, market)
        if self.answer_next:
            said = self.answer_next.pop(0)
            turns = range(max(len(said), len(pools)))
            errors = [_error(pools[n % len(pools)][0], market, *said[n % len(said)]) for n in turns]
            return self._made(call, [], errors)
        wanted = target["TotalTargetCapacity"]
        found: list[dict[str, Any]] = []
        errors = []
        for spec, parameters, cap in pools:
            ids = []
            while sum(len(f["InstanceIds"]) for f in found) + len(ids) < wanted:
                try:
                    ids.append(self.cloud.launches.start(call, parameters, market, cap).id)
                except Refusal as refusal:
                    errors.append(_error(spec, market, refusal.code, refusal.message))
                    break
            if ids:
                kind = parameters["InstanceType"]
                found.append(_entry(spec, market) | {"InstanceIds": ids, "InstanceType": kind})
        return self._made(call, found, errors)

    def _made(self, call: Call, found: list[dict[str, Any]], errors: list[dict[str, Any]]) -> dict[str, Any]:
        ids = [i for f in found for i in f["InstanceIds"]]
        fleet = Fleet(
            f"fleet-{uuid.uuid4()}", call.region, call.parameters, ids, errors, self.cloud.clock.date()
        )
        self.all[fleet.id] = fleet
        return {"FleetId": fleet.id, "Instances": found, "Errors": errors}

    def _pools(
        self, call: Call, request: dict[str, Any], market: str
    ) -> list[tuple[dict[str, Any], dict[str, Any], float | None]]:
        """For each override, in order: how an answer names it, the launch it means, the highest price."""
        found = []
        tags = [t for t in request.get("TagSpecifications", []) if t["ResourceType"] != "fleet"]
        for config in request["LaunchTemplateConfigs"]:
            named = config["LaunchTemplateSpecification"]
            data = self.cloud.templates.data(call, named)
            if "InstanceMarketOptions" in data:
                raise Refusal(
                    "InvalidFleetConfiguration",
                    "InstanceMarketOptions in the launch template is incompatible with the fleet request.",
                )
            template = self.cloud.templates.specification(call, named)
            for override in config.get("Overrides", []) or [{}]:
                spec = {"LaunchTemplateSpecification": template, "Overrides": override}
                asked = {k: v for k, v in override.items() if k not in OF_FLEETS}
                asked |= {"LaunchTemplate": named, "TagSpecifications": tags}
                asked["ClientToken"] = request.get("ClientToken", "")
                if zone := asked.pop("AvailabilityZone", None):
                    asked["Placement"] = {"AvailabilityZone": zone}
                whole = self.cloud.launches.whole(call, asked)
                cap = override.get("MaxPrice") or request.get("SpotOptions", {}).get("MaxTotalPrice")
                found.append((spec, whole, float(cap) if cap else None))
        return sorted(found, key=lambda f: self._rank(call, request, market, f[0]["Overrides"], f[1]))

    def _rank(
        self,
        call: Call,
        request: dict[str, Any],
        market: str,
        override: dict[str, Any],
        whole: dict[str, Any],
    ) -> tuple[float, float]:
        """The allocation strategy as a sorting key: priority where it counts, then price."""
        options = request.get("SpotOptions" if market == SPOT else "OnDemandOptions", {})
        prioritized = "prioritized" in options.get("AllocationStrategy", "lowest-price")
        subnet = whole.get("SubnetId")
        zone = whole.get("Placement", {}).get("AvailabilityZone") or self._zone(call, subnet)
        price = self.cloud.market.price(Pool(whole["InstanceType"], zone, market))
        return (override.get("Priority", float("inf")) if prioritized else 0.0, price)

    def _zone(self, call: Call, subnet: str | None) -> str:
        if subnet is None:
            return f"{call.region}a"
        moto = self.cloud.moto.client("ec2", call.region)
        zones = {s["SubnetId"]: s["AvailabilityZone"] for s in moto.describe_subnets()["Subnets"]}
        return zones.get(subnet, "")

    def describe(self, call: Call) -> dict[str, Any]:
        """Instant fleets are told of only when they are asked for by id."""
        return {"Fleets": [self._describe(f) for f in self._find(call.parameters.get("FleetIds", []))]}

    def _describe(self, fleet: Fleet) -> dict[str, Any]:
        specified = fleet.request.get("TagSpecifications", [])
        tags = [t for s in specified if s["ResourceType"] == "fleet" for t in s["Tags"]]
        told = {
            "FleetId": fleet.id,
            "FleetState": fleet.state,
            "Type": "instant",
            "CreateTime": fleet.created,
            "Tags": tags,
            "Errors": fleet.errors,
            "Instances": [{"InstanceIds": fleet.instances}] if fleet.instances else [],
        }
        if token := fleet.request.get("ClientToken"):
            told["ClientToken"] = token
        return told

    def delete(self, call: Call) -> dict[str, Any]:
        """Deleting an instant fleet terminates its instances, whatever one hoped."""
        done = []
        for fleet in self._find(call.parameters["FleetIds"]):
            if not call.parameters.get("TerminateInstances"):
                raise Refusal(
                    "InvalidRequest", "Instant fleets can only be deleted together with their instances."
                )
            for instance in fleet.instances:
                self.cloud.instances.end(self.cloud.instances.all[instance], BY_USER, "")
            before, fleet.state = fleet.state, "deleted_terminating"
            told = {"FleetId": fleet.id, "PreviousFleetState": before, "CurrentFleetState": fleet.state}
            done.append(told)
        return {"SuccessfulFleetDeletions": done, "UnsuccessfulFleetDeletions": []}

    def _find(self, names: list[str]) -> list[Fleet]:
        for name in names:
            if name not in self.all:
                raise Refusal("InvalidFleetId.NotFound", f"The fleet ID '{name}' does not exist")
        return [self.all[name] for name in names]


def _entry(spec: dict[str, Any], market: str) -> dict[str, Any]:
    return {"LaunchTemplateAndOverrides": spec, "Lifecycle": market}


def _error(spec: dict[str, Any], market: str, code: str, message: str) -> dict[str, Any]:
    return _entry(spec, market) | {"ErrorCode": code, "ErrorMessage": message}
