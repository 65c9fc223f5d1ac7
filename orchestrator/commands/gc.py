"""`ec2emo gc`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from orchestrator import providers, view
from orchestrator.commands import _renting
from orchestrator.store import Store


def command(
    region: Annotated[
        str | None, typer.Option(help="EC2: the region; else those where machines were rented from here.")
    ] = None,
    all_regions: Annotated[
        bool, typer.Option("--all-regions", help="EC2: look everywhere, as after the loss of this computer.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Remove what is found, and do not only say.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout, a line for each.")] = False,
) -> None:
    """Find what was rented and no run owns; --yes removes it.

    Machines, disks, templates, security groups, keys: by their tags, whatever became of the command that
    made them. What has a living run is never touched. A machine no record here knows of is written down
    again.

    Example: ec2emo gc --yes
    """
    store = Store()
    with view.progress("looking for what nobody needs") as telling:
        rows: list[dict[str, Any]] = [
            row
            for renter in providers.renters()
            for one in _renting.regions(store, renter, region, everywhere=all_regions)
            for row in renter.collect(store, one, telling.phase, remove=yes)
        ]
    if json:
        for row in rows:
            view.json_line({**row, "done": yes and row["act"] != "keep"})
        return
    view.findings_table(rows)
    todo = [row for row in rows if row["act"] != "keep"]
    if not rows:
        view.say("nothing of yours is there", level="good")
    elif not todo:
        view.say("nothing to remove: all of it has its run", level="good")
    elif yes:
        view.say(f"done: {_counted(todo)}", level="good")
    else:
        view.say(f"to do: {_counted(todo)}; nothing was changed, 'ec2emo gc --yes' does it")


def _counted(rows: list[dict[str, Any]]) -> str:
    acts = dict.fromkeys(str(row["act"]) for row in rows)
    return ", ".join(f"{act} {sum(row['act'] == act for row in rows)}" for act in acts)
