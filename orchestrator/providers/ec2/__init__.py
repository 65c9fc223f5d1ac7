"""Machines of EC2: made for a run (`ec2`), or there already (`i-…`, `Name=…`).

What a person asks for is below; each imports what it needs when it is called, because boto3 costs a quarter
of a second. A machine made here, and everything around it, is written down in the run's lease before EC2
hears of it, carries the tags of its run from its first moment, and ends itself when its time is over.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from orchestrator.errors import BadRequest
from orchestrator.lease import Bill
from orchestrator.machine import Machine, Terms
from orchestrator.providers import Errand, Wish
from orchestrator.providers.ec2.names import THERE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestrator.providers.ec2.elsewhere import Replica
    from orchestrator.run import Run
    from orchestrator.store import Store

HELP = "'ec2' for a new machine of EC2, or '[user@]i-…' or '[user@]Name=…' for one you have there"
RENTS = True


def claim(where: str, key: str | None) -> Wish | None:
    """Ours are the word `ec2`, and a machine by its id or by its Name tag."""
    if where == "ec2" or THERE.fullmatch(where):
        return Wish("ec2", where, key)
    if re.match(r"(.*@)?(i-|Name=)", where):
        raise BadRequest(f"--on {where!r:.100} is not of the form i-0123456789abcdef0, or Name=my-machine")
    return None


def acquire(wish: Wish, errand: Errand | None) -> Machine:
    """A machine that answers: made or found, started where it is stopped, its host key verified."""
    from orchestrator.providers.ec2 import attach, provision

    assert errand is not None
    return provision.provide(errand) if wish.where == "ec2" else attach.attach(wish, errand)


def cost(wish: Wish, errand: Errand) -> str | None:
    """What `acquire` would begin to spend, as a sentence that can be asked; None when nothing new."""
    from orchestrator.providers.ec2 import attach, spending

    return spending.cost(errand) if wish.where == "ec2" else attach.cost(wish, errand)


def plan(wish: Wish, terms: Terms) -> dict[str, Any]:
    """What would be asked for, with prices, quotas and the worst cost. Makes nothing."""
    from orchestrator.providers.ec2 import attach, offer
    from orchestrator.providers.ec2.api import Aws

    aws = Aws(terms.region)
    if wish.where != "ec2":
        return attach.plan(aws, wish, terms)
    return offer.plan(aws, terms, offer.look(aws, terms))


def again(machine: Machine) -> Machine | None:
    """A machine that does not answer, where it is now, our address let in; None when nothing has changed.

    Raises MachineGone when it has ended or is stopped.
    """
    from orchestrator.providers.ec2 import lifecycle

    return lifecycle.again(machine)


def bill(store: Store, run: Run) -> Bill | None:
    """What the latest machine of the run costs; None where nothing is paid for it."""
    from orchestrator.providers.ec2 import rates

    lease = store.lease(run.id)
    return rates.bill(lease) if lease else None


def has_gpu(store: Store, run: Run) -> bool:
    """By the name of its type: G and P have GPUs. Of a machine that is only attached nothing is known."""
    lease = store.lease(run.id)
    return bool(lease and re.match(r"(g|gr|p)\d", lease.instance_type or ""))


def replica(run: Run) -> Replica | None:
    """The run's copy in S3, which its machine keeps where `ec2emo setup` was run."""
    if run.machine is None or run.machine.store is None:
        return None
    from orchestrator.providers.ec2 import api
    from orchestrator.providers.ec2.elsewhere import Replica

    return Replica(api.connected(run.machine.region), run.machine.store, run.id, run.folder)


def release(store: Store, run: Run) -> str | None:
    """The artifacts are home: do with the machine what was agreed, and say so with the bill."""
    from orchestrator.providers.ec2 import lifecycle

    return lifecycle.release(store, run)


def roll_back(errand: Errand) -> None:
    """Undo a start that was called off before anything trained."""
    from orchestrator.providers.ec2 import provision

    provision.roll_back(errand.store, errand.run.id, errand.say)


def collect(
    store: Store, region: str | None, say: Callable[[str], None], *, remove: bool
) -> list[dict[str, Any]]:
    """What of ours in the region nobody needs, each with what to do about it; with `remove` it is done."""
    from orchestrator.providers.ec2 import sweep

    return sweep.collect(store, region, say, remove=remove)


def checks(wish: Wish, terms: Terms) -> Iterator[tuple[str, str, str, str]]:
    """What could stand in the way: what, ok, warn or fail, what was found, what to do."""
    from orchestrator.providers.ec2 import doctor

    return doctor.checks(terms)


def regions() -> list[str]:
    """All that the account may use."""
    from orchestrator.providers.ec2 import api

    return sorted(str(r["RegionName"]) for r in api.connected(None).ask("ec2", "describe_regions")["Regions"])


def machines(store: Store, region: str | None) -> list[dict[str, Any]]:
    """Every machine of this user's in the region, by its tags."""
    from orchestrator.providers.ec2 import lifecycle

    return lifecycle.machines(store, region)


def start(store: Store, name: str, region: str | None, *, adopt: bool = False) -> str:
    """Start a stopped machine; the sentence to say."""
    from orchestrator.providers.ec2 import lifecycle

    return lifecycle.start(store, name, region, adopt=adopt)


def stop(store: Store, name: str, region: str | None, *, adopt: bool = False) -> str:
    """Stop one, its disk stays; the sentence to say."""
    from orchestrator.providers.ec2 import lifecycle

    return lifecycle.stop(store, name, region, adopt=adopt)


def terminate(store: Store, name: str, region: str | None, *, adopt: bool = False) -> str:
    """End one for good, and remove what was made around it; the sentence to say."""
    from orchestrator.providers.ec2 import lifecycle

    return lifecycle.terminate(store, name, region, adopt=adopt)
