"""What the account would pay: seconds of instances and GiB of volumes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.cloud.market import GIB_MONTH

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud

LEAST = 60.0  # seconds; EC2 bills Linux by the second after the first minute
MONTH = 730 * 3600.0  # seconds, as AWS counts them


@dataclass(frozen=True)
class Line:
    """One thing that is paid for: seconds at US dollars an hour."""

    resource: str
    what: str
    seconds: float
    hourly: float

    @property
    def dollars(self) -> float:
        return self.seconds / 3600 * self.hourly


@dataclass(frozen=True)
class Bill:
    """All of it, up to now on the cloud's clock."""

    lines: list[Line]

    @property
    def dollars(self) -> float:
        return sum(line.dollars for line in self.lines)

    def of(self, resource: str) -> float:
        return sum(line.dollars for line in self.lines if line.resource == resource)


def bill(cloud: Cloud) -> Bill:
    now = cloud.clock.now()
    lines = []
    for instance in cloud.instances.all.values():
        for begun, ended in instance.paid:
            seconds = max(LEAST, min(ended, now) - begun)
            lines.append(
                Line(
                    instance.id,
                    f"{instance.pool.market} {instance.pool.type}",
                    seconds,
                    cloud.market.price(instance.pool),
                )
            )
        gone = instance.since if instance.state == "terminated" else now
        for mapping in instance.launch.request.get("BlockDeviceMappings", []):
            disk = mapping.get("Ebs", {})
            size, kind = disk.get("VolumeSize", 8), disk.get("VolumeType", "gp2")
            hourly = size * GIB_MONTH.get(kind, 0.1) * 3600 / MONTH
            lines.append(Line(instance.id, f"{size} GiB {kind}", gone - instance.created, hourly))
    return Bill(lines)
