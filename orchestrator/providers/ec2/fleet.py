"""Asking EC2 for one machine: one CreateFleet call of type `instant` for each market, over types and zones.

Its answer comes at once, with HTTP 200 also when there is no machine in it. A call is written down with its
token before it is sent. While its outcome is not known it is sent again with the same token, which can make
no second machine; a call that came to nothing is never sent again.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from orchestrator.errors import Ec2emoError, OutcomeUnknown, Throttled
from orchestrator.lease import Call, Lease, Market
from orchestrator.providers.ec2 import api, clock, outcome, tags
from orchestrator.providers.ec2.api import Aws
from orchestrator.providers.ec2.book import Book
from orchestrator.providers.ec2.instances import VISIBLE_WITHIN
from orchestrator.providers.ec2.offer import Offer
from orchestrator.providers.ec2.outcome import Cause, Failure

THROTTLED_FOR = 90.0  # seconds of asking to slow down after which we give up
UNKNOWN_FOR = 20.0  # seconds of asking again with the same token, before looking by the tags
IN_FLIGHT_FOR = 60.0  # seconds after which a request that was sent has had its effect, or will have none
LOOK_EVERY = 3.0
STALE = 600.0  # seconds after which a call without an outcome is looked for, but no longer sent again
ALIVE = ("pending", "running", "stopping", "stopped")

Say = Callable[[str], None]


def launch(book: Book, aws: Aws, offer: Offer, template: str, until: float, say: Say) -> None:
    """Ask market by market until there is a machine; the lease then names it.

    Raises QuotaExceeded, NoCapacity, PriceTooLow, Refused, Throttled, OutcomeUnknown, BadRequest.
    """
    failures: list[tuple[Market, list[Failure]]] = []
    for market in offer.markets:
        for _ in clock.backing_off(within=THROTTLED_FOR):
            say(f"asking for a {market} machine in {aws.region}")
            call = _new_call(book, offer, template, market, until)
            told = _send(book, aws, call)
            if book.lease.instance:
                return
            cause = outcome.cause_of(told)
            if cause not in (Cause.THROTTLED, Cause.UNKNOWN):
                break
        failures.append((market, told))
        if cause == Cause.REFUSED:
            break
        if len(offer.markets) > 1:
            say(str(outcome.error_for(told, region=aws.region, market=market)))
    market, worst = min(failures, key=lambda f: outcome.cause_of(f[1]))
    everything = [*worst, *(one for m, told in failures if m != market for one in told)]
    raise outcome.error_for(everything, region=aws.region, market=market)


def settle(book: Book, aws: Aws, say: Say) -> None:
    """Learn what became of a call that was written down and whose answer nobody heard.

    Afterwards the lease names a machine or has no open call. Raises OutcomeUnknown while it cannot be known.
    """
    call = book.lease.open_call
    if call is None:
        return
    say(f"looking what became of the request of {clock.iso(call.at)}")
    if clock.now() - call.at < STALE:
        _send(book, aws, call)
    else:
        close_unheard(book, aws, say)


def close_unheard(book: Book, aws: Aws, say: Say) -> None:
    """As `settle`, without asking for a machine again: wait until one would be seen, if it was made."""
    call = book.lease.open_call
    if call is None:
        return
    last = call.at if call.sent is None else call.sent
    remaining = max(0.0, last + IN_FLIGHT_FOR + VISIBLE_WITHIN - clock.now())
    if remaining > LOOK_EVERY:
        say(f"{book.lease.run}: a request was sent and not answered; looking for its machine")
    for _ in clock.every(LOOK_EVERY, within=remaining):
        if _found_by_tags(book, aws, call):
            return
    book.keep_call(dataclasses.replace(call, outcome="nothing came"))


def instances(aws: Aws, lease: Lease, states: tuple[str, ...] = ALIVE) -> Iterator[dict[str, Any]]:
    """The machines that carry this lease's tags."""
    wanted = {
        tags.OWNER: lease.owner,
        tags.RUN: lease.run,
        tags.UID: lease.uid,
        tags.ATTEMPT: str(lease.number),
    }
    filters = [{"Name": f"tag:{k}", "Values": [v]} for k, v in wanted.items()]
    filters.append({"Name": "instance-state-name", "Values": list(states)})
    for reservation in aws.all("ec2", "describe_instances", "Reservations", Filters=filters):
        yield from reservation["Instances"]


def _send(book: Book, aws: Aws, call: Call) -> list[Failure]:
    """Send a call until it is answered; the lease names the machine, or the failures are returned."""
    try:
        answer = _answered(book, aws, call)
    except OutcomeUnknown:
        for _ in clock.every(LOOK_EVERY, within=VISIBLE_WITHIN):
            if _found_by_tags(book, aws, call):
                return []
        raise
    except Ec2emoError as e:
        # Refused as a whole: no machine can come of it.
        book.keep_call(dataclasses.replace(call, outcome=e.code or type(e).__name__))
        if outcome.cause_of_code(e.code or "") in (
            Cause.REFUSED,
            Cause.MISMATCH,
            Cause.WRONG,
            Cause.THROTTLED,
        ):
            raise
        return [api.failure_of(e)]
    for made in answer.get("Instances") or ():
        for instance in made.get("InstanceIds") or ():
            _name(book, call, str(instance), made)
            return []
    told = outcome.failures_of(answer)
    said = ", ".join(dict.fromkeys(f.code for f in outcome.real(told))) or "an answer without a machine"
    book.keep_call(dataclasses.replace(call, outcome=said))
    return told


def _answered(book: Book, aws: Aws, call: Call) -> dict[str, Any]:
    """The answer to a call, asked for with the same token while EC2 is busy or silent.

    Each sending is written down: whoever has to find out what became of it counts from the last one.
    """
    began = clock.now()
    unheard: OutcomeUnknown | None = None
    for _ in clock.backing_off(within=THROTTLED_FOR):
        if unheard is not None and clock.now() - began > UNKNOWN_FOR:
            raise unheard
        book.keep_call(dataclasses.replace(call, sent=clock.now()))
        try:
            return aws.once("ec2", "create_fleet", **call.request, ClientToken=call.token)
        except Throttled as e:
            last: Ec2emoError = e
        except OutcomeUnknown as e:
            last = unheard = e
    raise unheard or last


def _found_by_tags(book: Book, aws: Aws, call: Call) -> bool:
    """Whether a machine of this call is there; the lease then names it."""
    for instance in instances(aws, book.lease):
        if tags.read(instance).get(tags.CALL) == str(call.number):
            zone = (instance.get("Placement") or {}).get("AvailabilityZone")
            overrides = {"InstanceType": instance.get("InstanceType"), "AvailabilityZone": zone}
            found = {"LaunchTemplateAndOverrides": {"Overrides": overrides}}
            _name(book, call, str(instance["InstanceId"]), found)
            return True
    return False


def _name(book: Book, call: Call, instance: str, made: Mapping[str, Any]) -> None:
    asked = (made.get("LaunchTemplateAndOverrides") or {}).get("Overrides") or {}
    book.keep_call(
        dataclasses.replace(call, outcome="launched"),
        instance=instance,
        instance_type=made.get("InstanceType") or asked.get("InstanceType"),
        zone=asked.get("AvailabilityZone"),
        market=call.market,
        launched=clock.now(),
    )


def _new_call(book: Book, offer: Offer, template: str, market: Market, until: float) -> Call:
    """The next call, written down."""
    number = 1 + max((c.number for c in book.lease.calls), default=0)
    call = Call(
        number=number,
        token=token(book.lease, number),
        market=market,
        at=clock.now(),
        request=request(offer, template, market, book.tags(until, number)),
    )
    book.keep_call(call)
    return call


def token(lease: Lease, number: int) -> str:
    """What makes a call repeatable: of run, machine and call; at most 64 ASCII characters."""
    digest = hashlib.sha256(f"{lease.uid}/{lease.owner}/{lease.run}".encode()).hexdigest()[:16]
    return f"{lease.run[:32]}-{digest}-{lease.number}-{number}"


def request(offer: Offer, template: str, market: Market, tagged: Mapping[str, str]) -> dict[str, Any]:
    """The CreateFleet request. Pure.

    Spot takes the pools least likely to be interrupted at a low price, as AWS advises; on demand takes them
    in our order.
    """
    order = {name: float(i) for i, name in enumerate(offer.types)}
    overrides = [
        {"InstanceType": t, "SubnetId": subnet, "Priority": order[t]} for t, _, subnet in offer.pools
    ]
    strategy: dict[str, Any] = (
        {
            "SpotOptions": {
                "AllocationStrategy": "price-capacity-optimized",
                "InstanceInterruptionBehavior": "terminate",
            }
        }
        if market == "spot"
        else {"OnDemandOptions": {"AllocationStrategy": "prioritized"}}
    )
    return {
        "Type": "instant",
        "LaunchTemplateConfigs": [
            {
                "LaunchTemplateSpecification": {"LaunchTemplateId": template, "Version": "1"},
                "Overrides": overrides[:300],
            }
        ],
        "TargetCapacitySpecification": {"TotalTargetCapacity": 1, "DefaultTargetCapacityType": market},
        "TagSpecifications": tags.specification(("fleet", "instance", "volume", "network-interface"), tagged),
        **strategy,
    }
