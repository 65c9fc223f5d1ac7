"""What could stand in the way of renting a machine, looked for without changing anything."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from orchestrator.errors import BadRequest, Ec2emoError
from orchestrator.lease import Lease
from orchestrator.machine import Terms
from orchestrator.providers.ec2 import (
    api,
    clock,
    console,
    image,
    keys,
    ladder,
    network,
    offer,
    prices,
    quotas,
    setup,
    tags,
)
from orchestrator.providers.ec2.api import Aws
from orchestrator.providers.ec2.image import Image
from orchestrator.store import Store

Finding = tuple[str, str, str, str]  # what, ok | warn | fail, found, what to do
CLOCK_TOLERANCE = 240.0  # seconds; AWS refuses signatures that are 300 s off


def checks(terms: Terms) -> Iterator[Finding]:
    """One after the other; what hangs on credentials is left out without them."""
    try:
        aws = api.connected(terms.region)
        account, skew = aws.account, aws.clock_skew()
    except Ec2emoError as e:
        yield ("AWS credentials", "fail", str(e), "")
        return
    yield ("AWS credentials", "ok", f"{account['Arn']}, as {terms.owner or aws.owner}", "")
    yield ("AWS region", "ok", aws.region, "")
    apart = "AWS does not tell the time" if skew is None else f"{abs(skew):.0f} s apart"
    late = skew is not None and abs(skew) > CLOCK_TOLERANCE
    yield ("AWS clock", "fail" if late else "ok", apart, "set this computer's clock" if late else "")
    found: list[Image] = []
    yield from _tried("EC2 image", lambda: _image(aws, terms, found))
    if found:
        yield _permissions(aws, terms, found[0])
    yield from _tried("EC2 network", lambda: _network(aws, terms))
    yield from _tried("your way in", lambda: _way_in(aws, terms))
    yield from _tried("your key", _key)
    yield from _quotas(aws, terms)
    yield _prices(aws, terms)
    yield from _tried("ec2emo setup", lambda: _setup(aws, terms))
    yield from _host_keys(aws)


def _tried(what: str, look: Callable[[], Finding]) -> Iterator[Finding]:
    try:
        yield look()
    except Ec2emoError as e:
        said, _, todo = str(e).partition(": ")
        yield (what, "fail", said, todo)


def _image(aws: Aws, terms: Terms, found: list[Image]) -> Finding:
    found.append(image.find(aws, terms))
    return ("EC2 image", "ok", f"{found[0].name or found[0].id} ({found[0].id})", "")


def _permissions(aws: Aws, terms: Terms, chosen: Image) -> Finding:
    """What EC2 says to requests that it shall not carry out (DryRun); this tests neither quota nor "
    "capacity.
    """
    tagged = tags.of(owner=terms.owner or aws.owner, run="doctor", uid="doctor", number=1, until="")

    def marked(kind: str) -> dict[str, Any]:
        return {"TagSpecifications": tags.specification([kind], tagged)}

    requests: dict[str, dict[str, Any]] = {
        "run_instances": {
            "ImageId": chosen.id,
            "InstanceType": ladder.chosen(terms)[0],
            "MinCount": 1,
            "MaxCount": 1,
            **marked("instance"),
        },
        "create_launch_template": {
            "LaunchTemplateName": "ec2emo-doctor",
            "LaunchTemplateData": {"ImageId": chosen.id},
            **marked("launch-template"),
        },
        "create_security_group": {
            "GroupName": "ec2emo-doctor",
            "Description": "ec2emo doctor",
            **marked("security-group"),
        },
        "import_key_pair": {"KeyName": "ec2emo-doctor", "PublicKeyMaterial": b"", **marked("key-pair")},
        "describe_instances": {},
        "describe_launch_templates": {},
        "describe_security_groups": {},
        "describe_volumes": {},
        "describe_spot_price_history": {},
    }
    refused = {
        name: error
        for name, request in requests.items()
        if (error := aws.permitted(name, **request)) and error.exit_code == 5
    }
    if not refused:
        return ("EC2 permissions", "ok", f"{len(requests)} asked for, none refused", "")
    names = ", ".join("ec2:" + "".join(word.title() for word in name.split("_")) for name in refused)
    return (
        "EC2 permissions",
        "fail",
        f"not allowed: {names}",
        "have them added to your user, see docs/aws-policy.json",
    )


def _network(aws: Aws, terms: Terms) -> Finding:
    nets = network.subnets(aws, terms)
    zones = ", ".join(dict.fromkeys(str(net["AvailabilityZone"]) for net in nets))
    return ("EC2 network", "ok", f"{nets[0]['VpcId']}: {zones}", "")


def _way_in(aws: Aws, terms: Terms) -> Finding:
    return ("your way in", "ok", offer.ports(terms, network.sources(aws, terms)), "")


def _key() -> Finding:
    return ("your key", "ok", str(keys.user_key()), "")


def _quotas(aws: Aws, terms: Terms) -> Iterator[Finding]:
    try:
        found = quotas.of(aws, list(ladder.chosen(terms)), ["on-demand", "spot"])
    except Ec2emoError as e:
        yield ("EC2 quota", "warn", str(e), "")
        return
    wanted = offer.markets(terms)
    for quota in found:
        what = f"EC2 quota {quota.market}"
        if quota.allowed is None:
            yield (what, "warn", f"{quota.code} is not told", "allow servicequotas:GetServiceQuota")
            continue
        said = f"{quota.used} of {quota.allowed:g} vCPUs used, {quota.needed} needed ({quota.code})"
        level = "ok" if quota.enough else "fail" if quota.market in wanted else "warn"
        yield (what, level, said, "" if quota.enough else f"ask for more at {quota.link}")


def _prices(aws: Aws, terms: Terms) -> Finding:
    found = prices.on_demand(aws, ladder.chosen(terms))
    guessed = [name for name, price in found.items() if not price.certain]
    if guessed:
        todo = "allow pricing:GetProducts; until then prices of 2025 count"
        return ("AWS prices", "warn", f"not told for {', '.join(guessed)}", todo)
    cheapest = min(found, key=lambda name: found[name].usd)
    return ("AWS prices", "ok", f"from ${found[cheapest].usd:.3f} an hour ({cheapest})", "")


def _setup(aws: Aws, terms: Terms) -> Finding:
    made = setup.found(aws)
    if made is None and terms.via == "ssm":
        raise BadRequest(setup.NO_ROLE)
    if made is None:
        return ("ec2emo setup", "warn", "not run in this region", setup.MISSING)
    return ("ec2emo setup", "ok", f"copies in {made.store}", "")


def _host_keys(aws: Aws) -> Iterator[Finding]:
    """Of every machine we made here: whether its console shows the key that is pinned for it."""
    for lease in Store().leases():
        if lease.region == aws.region and lease.host_key and lease.reached and lease.ended is None:
            yield from _tried(f"host key of {lease.instance}", functools.partial(_host_key, aws, lease))


def _host_key(aws: Aws, lease: Lease) -> Finding:
    what = f"host key of {lease.instance}"
    if lease.confirmed is not None:
        return (what, "ok", f"its console showed it at {clock.iso(lease.confirmed)}", "")
    answer = console.confirm(aws, lease)
    if answer == "confirmed":
        return (what, "ok", console.SENTENCES[answer], "")
    todo = "look again in some minutes; if it stays so although it runs since, terminate it"
    return (what, "warn", console.SENTENCES[answer], todo)
