"""`ec2emo stop`."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from orchestrator import remote, view
from orchestrator.follow import Follower
from orchestrator.progress import OVER
from orchestrator.published import answer
from orchestrator.store import Store

PATIENCE = 60.0  # seconds; a batch on a CPU can take several
ASK_EVERY = 0.5


def command(
    run: Annotated[
        str | None, typer.Argument(help="A run, or the beginning of its name; else the latest.")
    ] = None,
    now: Annotated[bool, typer.Option("--now", help="Do not wait for the batch to end.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """End a run after its batch.

    Its last checkpoint and its best stay, and 'resume' goes on from there.

    Example: ec2emo stop
    """
    store = Store()
    chosen = store.find(run)
    follower = Follower(store, chosen)
    try:
        shell = follower.contact()
        asked = remote.stop(shell, chosen, kill=now)
        until = time.monotonic() + PATIENCE
        while asked and remote.status(shell, chosen).alive and time.monotonic() < until:
            time.sleep(ASK_EVERY)
        snapshot = follower.once()
    finally:
        follower.close()
    if json:
        view.json_line({"asked": asked, **answer(snapshot)})
    elif not asked:
        view.say(f"{chosen.id} is not running ({snapshot.verdict.state}): nothing to stop")
    elif snapshot.verdict.state not in OVER:
        view.say(f"{chosen.id} was asked to stop and is still at it: 'ec2emo stop {chosen.id} --now' ends it")
    else:
        view.say(f"{chosen.id} {snapshot.verdict.state}; 'ec2emo resume {chosen.id}' goes on", level="good")
