"""`ec2emo machines`."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from orchestrator import remote, view
from orchestrator.connect import open_shell
from orchestrator.errors import Ec2emoError
from orchestrator.run import Run
from orchestrator.store import Store


def command(
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout, a line for each.")] = False,
) -> None:
    """List your runs' machines, and what runs there now.

    Example: ec2emo machines
    """
    readable, _ = Store().all()
    by_name: dict[str, list[Run]] = {}
    for run in readable:
        if run.machine:
            by_name.setdefault(run.machine.name, []).append(run)
    rows = [_asked(name, runs) for name, runs in sorted(by_name.items())]
    if json:
        for row in rows:
            view.json_line(row)
    elif rows:
        view.machines_table(rows)
    else:
        view.say("no machine yet: 'ec2emo deploy RECIPE' uses the first")


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
