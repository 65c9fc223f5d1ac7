"""`ec2emo machines`."""

from __future__ import annotations

import sys
import time
from enum import StrEnum
from typing import Annotated, Any

import typer

from orchestrator import providers, remote, settings, view
from orchestrator.commands import _renting
from orchestrator.connect import open_shell
from orchestrator.errors import BadRequest, Ec2emoError
from orchestrator.run import Run
from orchestrator.store import Store


class Action(StrEnum):
    """What can be done with machines."""

    list = "list"
    start = "start"
    stop = "stop"
    terminate = "terminate"


def command(
    action: Annotated[Action, typer.Argument(help="list, or start, stop, terminate one.")] = Action.list,
    machine: Annotated[
        str | None, typer.Argument(help="Which: its id (i-…), or the run it was rented for.")
    ] = None,
    region: Annotated[
        str | None, typer.Option(help="EC2: the region; else that of ec2emo.toml or your AWS settings.")
    ] = None,
    all_regions: Annotated[
        bool, typer.Option("--all-regions", help="EC2: look everywhere, as after the loss of this computer.")
    ] = False,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="EC2: also a machine that ec2emo did not make.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask first.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout, a line for each.")] = False,
) -> None:
    """List machines; start, stop or terminate a rented one.

    Those your runs use, and those you rent, which are found by their tags whether or not a run here knows
    them: with what each costs, and until when it runs at the latest.

    Example: ec2emo machines terminate v9-0611-1200-abc
    """
    store = Store()
    if action is not Action.list:
        if all_regions:
            raise BadRequest("--all-regions is for the list: name the --region of the machine")
        region = region or settings.read().ec2.region
        _do(store, action, machine, region, adopt=adopt, yes=yes, json=json)
        return
    if machine is not None:
        raise BadRequest(f"'ec2emo machines list' lists all: did you mean 'ec2emo machines stop {machine}'?")
    rows = [*_used(store), *_rented(store, region, everywhere=all_regions)]
    if json:
        for row in rows:
            view.json_line(row)
    elif rows:
        view.machines_table(rows)
    else:
        view.say("no machine yet: 'ec2emo deploy RECIPE' uses the first")


def _do(
    store: Store,
    action: Action,
    machine: str | None,
    region: str | None,
    *,
    adopt: bool,
    yes: bool,
    json: bool,
) -> None:
    if machine is None:
        raise BadRequest(f"which machine: 'ec2emo machines {action} i-…', or the name of its run")
    if action is not Action.stop and not yes:
        why = "its disk goes too" if action is Action.terminate else "it costs from then on"
        if not sys.stdin.isatty():
            raise BadRequest(f"there is nobody to ask whether to {action} {machine} ({why}): --yes says so")
        if not view.confirm(f"{action} {machine}? ({why})"):
            raise BadRequest("nothing was done")
    renters = providers.renters()
    with view.progress(f"{action} {machine}"):
        said = getattr(renters[0], str(action))(store, machine, region, adopt=adopt)
    if json:
        view.json_line({"machine": machine, "action": str(action), "said": said})
    else:
        view.say(said, level="good")


def _used(store: Store) -> list[dict[str, Any]]:
    """The machines that are there without being rented, each asked how it is."""
    by_name: dict[str, list[Run]] = {}
    for run in store.all()[0]:
        if run.machine and not providers.renter(run.machine.provider):
            by_name.setdefault(run.machine.name, []).append(run)
    return [_asked(name, runs) for name, runs in sorted(by_name.items())]


def _rented(store: Store, region: str | None, *, everywhere: bool) -> list[dict[str, Any]]:
    """Those that cost money. Nobody is asked where nothing was ever rented from here, or named."""
    used = any(run.terms for run in store.all()[0]) or bool(store.leases())
    if not (used or everywhere or region or settings.read().ec2.region):
        return []
    return [
        row
        for renter in providers.renters()
        for one in _renting.regions(store, renter, region, everywhere=everywhere)
        for row in renter.machines(store, one)
    ]


def _asked(name: str, runs: list[Run]) -> dict[str, Any]:
    """What the machine says now."""
    machine = runs[-1].machine
    assert machine is not None
    row = {
        "machine": name,
        "provider": machine.provider,
        "runs": len(runs),
        "running": [],
        "state": "answers",
        "disk_free": None,
        "last_used_seconds": time.time() - max(r.created for r in runs),
        "cost_usd_per_hour": None,
    }
    try:
        with open_shell(machine) as shell:
            statuses = {r.id: remote.status(shell, r) for r in runs if r.attempts and r.python}
    except Ec2emoError as e:
        return {**row, "state": "unreachable", "why": str(e)}
    free = [s.disk_free for s in statuses.values() if s.disk_free is not None]
    alive = [run_id for run_id, s in statuses.items() if s.alive]
    return {**row, "running": alive, "disk_free": min(free, default=None)}
