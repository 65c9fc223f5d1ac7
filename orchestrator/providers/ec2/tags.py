"""The tags on everything ec2emo makes in EC2: whose, for which run, until when. Pure.

They are put on by the call that makes the thing, so nothing of ours is ever without them, and state deleted
at home can be read back from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

PREFIX = "ec2emo:"
OWNER, RUN, UID, ATTEMPT, CALL, UNTIL, VERSION, ADOPTED = (
    PREFIX + name for name in ("owner", "run", "uid", "attempt", "call", "until", "version", "adopted")
)
TAGS_VERSION = "1"


def of(
    *,
    owner: str,
    run: str,
    uid: str,
    number: int,
    until: str,
    call: int | None = None,
) -> dict[str, str]:
    """The tags of one thing. `number` is the how-many-th machine of the run."""
    made = {
        "Name": f"ec2emo {run}",
        OWNER: owner,
        RUN: run,
        UID: uid,
        ATTEMPT: str(number),
        UNTIL: until,
        VERSION: TAGS_VERSION,
    }
    return made if call is None else {**made, CALL: str(call)}


def specification(kinds: Iterable[str], tags: Mapping[str, str]) -> list[dict[str, Any]]:
    """TagSpecifications as EC2 takes them."""
    return [{"ResourceType": kind, "Tags": as_list(tags)} for kind in kinds]


def as_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """As EC2 writes tags."""
    return [{"Key": k, "Value": v} for k, v in tags.items()]


def read(thing: Mapping[str, Any]) -> dict[str, str]:
    """The tags of anything EC2 describes."""
    return {str(t["Key"]): str(t["Value"]) for t in thing.get("Tags") or ()}


def filters(owner: str, run: str | None = None) -> list[dict[str, Any]]:
    """Filters for what is ours, or ours for one run."""
    wanted = {OWNER: owner} | ({RUN: run} if run else {})
    return [{"Name": f"tag:{k}", "Values": [v]} for k, v in wanted.items()]
