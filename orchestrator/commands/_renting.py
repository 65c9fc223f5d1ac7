"""What commands that may rent a machine have in common: the terms, the question before money is spent."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Any

from orchestrator import machine, providers, settings, start, view
from orchestrator.errors import BadRequest
from orchestrator.machine import Terms
from orchestrator.providers import Errand, Wish
from orchestrator.run import Run
from orchestrator.settings import Settings
from orchestrator.shell import Shell
from orchestrator.store import Store
from trainer import contract

if TYPE_CHECKING:
    from orchestrator.connect import Ahead
    from trainer.clips import Report


def terms(
    wish: Wish,
    here: Settings,
    *,
    instance_types: list[str] | None,
    spot: bool | None,
    region: str | None,
    max_hours: float | None,
    max_cost: float | None,
    via: str | None,
    allow_from: str | None,
    adopt: bool,
    allow_cpu: bool,
) -> Terms | None:
    """What the options say, and the settings where they say nothing; None where nothing is rented.

    Raises BadRequest for an option that means nothing there, or for a value it cannot have.
    """
    said: dict[str, Any] = {
        "instance_types": tuple(instance_types) if instance_types else None,
        "market": None if spot is None else "spot" if spot else "on-demand",
        "region": region,
        "max_hours": max_hours,
        "max_cost": max_cost,
        "via": via,
        "allow_from": allow_from,
        "adopt": adopt or None,
        "allow_cpu": allow_cpu or None,
    }
    chosen = {k: v for k, v in said.items() if v is not None}
    if not providers.renter(wish.provider):
        if chosen:
            option = "spot" if "market" in chosen else next(iter(chosen)).rstrip("s").replace("_", "-")
            raise BadRequest(f"--{option} is for rented machines, and {wish.where!r:.60} is none: --on ec2")
        return None
    if spot and here.ec2.market == "spot-only":
        del chosen["market"]
    try:
        return machine.terms({**dataclasses.asdict(here.ec2), **chosen}, "the options")
    except contract.ContractError as e:
        raise BadRequest(str(e)) from e


def regions(store: Store, renter: Any, named: str | None, *, everywhere: bool) -> list[str | None]:
    """Where to look for machines: in all regions, in the one named, in those where some were rented from
    here, or in that of the AWS settings. Raises BadRequest for two of these at once.
    """
    if everywhere:
        if named:
            raise BadRequest("--all-regions looks everywhere, --region in one: choose one of the two")
        return [*renter.regions()]
    rented = sorted({lease.region for lease in store.leases()})
    if named is None:
        named = settings.read().ec2.region
    return [named] if named or not rented else [*rented]


def consent(wish: Wish, errand: Errand, *, yes: bool) -> None:
    """Say what is about to cost money, and ask. Raises BadRequest when the answer is no, or cannot be had."""
    renter = providers.renter(wish.provider)
    if renter is None:
        return
    with view.progress("asking for prices") as telling:
        question = renter.cost(wish, dataclasses.replace(errand, say=telling.phase))
    if question is None:
        return
    if yes:
        view.say(question.removesuffix("?"))
    elif not sys.stdin.isatty():
        raise BadRequest(f"this costs money, and there is nobody to ask: --yes means yes to: {question}")
    elif not view.confirm(question):
        raise BadRequest("nothing was started, and nothing costs")


def begun(
    store: Store,
    run: Run,
    attempt: contract.Attempt,
    title: str,
    *,
    key: str | None,
    report: Report | None,
    opening: Ahead | None = None,
) -> tuple[Run, Shell]:
    """Start an attempt, with its steps shown; Ctrl-C before the launch gives a rented machine back."""
    with view.progress(title, unit="bytes") as telling:
        told = start.Telling(telling.phase, telling)
        try:
            return start.begin(store, run, attempt, key=key, report=report, telling=told, opening=opening)
        except KeyboardInterrupt:
            start.call_off(store, run.id, told)
            raise
