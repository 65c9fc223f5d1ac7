"""Client tokens: one effect for one token, whatever comes twice."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.cloud.wire import Answer, Call, Refusal

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud

IGNORED = ("ClientToken", "ClientRequestToken", "DryRun")


@dataclass
class Kept:
    """What a token has been used for; no answer yet, or never, when the call failed."""

    request: str
    answer: Answer | None = None


class Tokens:
    """Keyed by region, action and token, as EC2 does."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self._kept: dict[tuple[str, str, str], Kept] = {}
        self._locks: defaultdict[tuple[str, str, str], threading.Lock] = defaultdict(threading.Lock)

    def once(self, call: Call, act: Callable[[], Answer]) -> Answer:
        """The answer of the first call with this token; IdempotentParameterMismatch for another request.

        A token of a call that failed stays bound to its parameters, and a token whose instance is
        terminated is an error: EC2 does not start a second one for it.
        """
        token = call.parameters.get("ClientToken")
        if call.service != "ec2" or not token or not call.changes:
            return act()
        key = (call.region, call.action, token)
        said = json.dumps(
            {k: v for k, v in call.parameters.items() if k not in IGNORED}, sort_keys=True, default=str
        )
        with self._locks[key]:
            kept = self._kept.setdefault(key, Kept(said))
            if kept.request != said:
                raise Refusal(
                    "IdempotentParameterMismatch",
                    "Arguments on this idempotent request are inconsistent with arguments used in previous "
                    "request(s).",
                )
            if kept.answer is None:
                answer = act()
                kept.answer = answer if answer.status < 300 else None
                return answer
            if call.action == "RunInstances" and self._ended(call, token):
                raise Refusal(
                    "IdempotentInstanceTerminated",
                    "The request cannot be completed because the instance associated with the client token "
                    "is already terminated",
                )
            return kept.answer

    def _ended(self, call: Call, token: str) -> bool:
        everything = self.cloud.instances.all.values()
        born = [i for i in everything if i.launch.token == token and i.region == call.region]
        return bool(born) and all(i.ended for i in born)
