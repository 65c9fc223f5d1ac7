"""EventBridge Scheduler: one-time schedules that lie in moto and come true on the cloud's clock."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from botocore.exceptions import ClientError

from tests.cloud.faults import denial
from tests.cloud.policies import allows
from tests.cloud.wire import Call, Refusal

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud

TARGET = "arn:aws:scheduler:::aws-sdk:ec2:"


class Schedules:
    """Watches schedules come and go. `fired` lists (schedule, action, outcome)."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.fired: list[tuple[str, str, str]] = []

    def amends(self) -> dict[str, Callable[[Call, dict[str, Any]], dict[str, Any]]]:
        return {"scheduler:CreateSchedule": self.changed, "scheduler:UpdateSchedule": self.changed}

    def changed(self, call: Call, told: dict[str, Any]) -> dict[str, Any]:
        """What is to happen when."""
        asked = call.parameters
        name, group = asked["Name"], asked.get("GroupName", "default")
        due = moment(asked["ScheduleExpression"], asked.get("ScheduleExpressionTimezone", "UTC"))
        if due is not None:
            self.cloud.clock.at(due, lambda: self._fire(call.region, group, name, due))
        return told

    def _fire(self, region: str, group: str, name: str, due: float) -> None:
        moto = self.cloud.moto.client("scheduler", region)
        try:
            found = moto.get_schedule(GroupName=group, Name=name)
        except ClientError:
            return  # it was deleted meanwhile
        now = moment(found["ScheduleExpression"], found.get("ScheduleExpressionTimezone", "UTC"))
        if now != due or found.get("State") == "DISABLED":
            return
        action = found["Target"]["Arn"].removeprefix(TARGET)
        self.fired.append((name, action, self._act(region, action, found["Target"])))
        if found.get("ActionAfterCompletion") == "DELETE":
            moto.delete_schedule(GroupName=group, Name=name)

    def _act(self, region: str, action: str, target: dict[str, Any]) -> str:
        """The universal target's call, in the name of the schedule's role."""
        wanted = json.loads(target.get("Input", "{}"))
        handler = {
            "terminateInstances": self.cloud.instances.terminate,
            "stopInstances": self.cloud.instances.stop,
        }.get(action)
        if handler is None:
            return "UnsupportedTarget"
        call = Call("ec2", region, action[0].upper() + action[1:], wanted, target["RoleArn"], "ec2")
        call.at = self.cloud.clock.now()
        self.cloud.calls.append(call)
        role = target["RoleArn"].rpartition("/")[2]
        allowed = self.cloud.permissions.of_role(role)
        try:
            for need in self.cloud.permissions.needs(call):
                if not allows(allowed, need):
                    raise denial(call, need, target["RoleArn"])
            handler(call)
        except Refusal as refusal:
            call.outcome = refusal.code
        else:
            call.outcome = "200"
        return call.outcome


def moment(expression: str, zone: str) -> float | None:
    """When an at(...) expression comes due, in seconds since 1970; None for rates and crons."""
    found = re.fullmatch(r"at\((.+)\)", expression)
    if found is None:
        return None
    return datetime.fromisoformat(found[1]).replace(tzinfo=ZoneInfo(zone)).timestamp()
