"""`ec2emo runs`."""

from __future__ import annotations

import datetime
import re
import time
from typing import Annotated

import typer

from orchestrator import view
from orchestrator.errors import BadRequest
from orchestrator.listing import listed
from orchestrator.store import Store
from orchestrator.view.looks import LOOKS

_SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 604800}


def command(
    recipe: Annotated[str | None, typer.Option(help="Only those of this recipe.")] = None,
    state: Annotated[str | None, typer.Option(help="Only those in this state, as last heard of.")] = None,
    on: Annotated[str | None, typer.Option(help="Only those on a machine with this in its name.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Only those begun since: 90m, 12h, 3d, 2w, or a day like 2026-11-21.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout, a line for each run.")] = False,
) -> None:
    """List all runs, with what was last heard of them.

    Asks no machine: 'ec2emo monitor RUN' does.

    Example: ec2emo runs --state finished --since 7d
    """
    if state is not None and state not in LOOKS:
        raise BadRequest(f"there is no state {state!r:.40}: {', '.join(LOOKS)}")
    begun = 0.0 if since is None else _moment(since)
    store = Store()
    readable, damaged = listed(store)
    oldest = time.time() - begun
    rows = [row for row in readable if row["age_seconds"] <= oldest]
    for key, wanted in (("recipe", recipe), ("state", state)):
        rows = [row for row in rows if wanted in (None, row[key])]
    rows = [row for row in rows if on is None or on in row["machine"]]
    if json:
        for row in rows:
            view.json_line(row)
    elif rows:
        view.runs_table(rows)
    elif readable:
        view.say(f"none of {len(readable)} runs is like that")
    else:
        view.say("no run yet: 'ec2emo deploy RECIPE' starts one")
    for run_id in damaged:
        view.say(f"the record of {run_id} cannot be read: {store.dir(run_id).root}", level="warning")


def _moment(since: str) -> float:
    """When that was. Raises BadRequest."""
    if ago := re.fullmatch(r"([0-9]{1,6})([mhdw])", since):
        return time.time() - int(ago[1]) * _SECONDS[ago[2]]
    try:
        return datetime.datetime.fromisoformat(since).timestamp()
    except (ValueError, OverflowError, OSError) as e:
        raise BadRequest(f"--since {since!r:.40} is neither like 90m, 12h, 3d, 2w nor a day") from e
