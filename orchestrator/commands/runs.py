"""`ec2emo runs`."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from orchestrator import view
from orchestrator.progress import METRIC, Progress, fold
from orchestrator.run import Run, describe
from orchestrator.store import Store
from trainer.contract import ContractError, decode


def command(
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout, a line for each run.")] = False,
) -> None:
    """List all runs, with what was last heard of them.

    Asks no machine: 'ec2emo monitor RUN' does.

    Example: ec2emo runs
    """
    store = Store()
    readable, damaged = store.all()
    rows = [_row(store, run) for run in readable]
    if json:
        for row in rows:
            view.json_line(row)
    elif rows:
        view.runs_table(rows)
    else:
        view.say("no run yet: 'ec2emo deploy RECIPE' starts one")
    for run_id in damaged:
        view.say(f"the record of {run_id} cannot be read: {store.dir(run_id).root}", level="warning")


def _row(store: Store, run: Run) -> dict[str, Any]:
    progress = _known(store, run)
    best, last = progress.best, progress.last
    state, heard = store.noted_state(run.id) or ("starting", None)
    return {
        **describe(run),
        "data": run.data,
        "state": state,
        "best": {"epoch": best.epoch, METRIC: best.metrics[METRIC]} if best else None,
        "epoch": last.epoch if last else 0,
        "epochs": progress.epochs or run.spec.epochs,
        "age_seconds": time.time() - run.created,
        "heard_seconds": None if heard is None else max(0.0, time.time() - heard),
        "synthetic": run.spec.synthetic,
    }


def _known(store: Store, run: Run) -> Progress:
    """What is known at home, without asking anyone."""
    try:
        lines = store.dir(run.id).events.read_bytes().split(b"\n")
        return fold(Progress(), map(decode, filter(None, lines[:-1])))
    except (OSError, ContractError):  # a run of a newer ec2emo is listed too, without its figures
        return Progress()
