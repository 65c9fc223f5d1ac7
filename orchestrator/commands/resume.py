"""`ec2emo resume`."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator import providers, remote, settings, view
from orchestrator import run as runs
from orchestrator.commands import _renting
from orchestrator.commands.deploy import begun, started
from orchestrator.errors import BadRequest, MachineGone
from orchestrator.follow import Follower
from orchestrator.progress import Snapshot
from orchestrator.providers import Errand
from orchestrator.run import Run
from orchestrator.store import Store
from trainer import contract


def command(
    run: Annotated[
        str | None, typer.Argument(help="A run, or the beginning of its name; else the latest.")
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Extended training: from the best weights, at this learning rate.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="How many epochs more.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Stay and watch.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before money is spent.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Go on with a run that ended.

    From its last checkpoint; with --lr from its best weights, at that learning rate.

    Epoch numbers go on; the best so far stays the best until it is beaten.

    Example: ec2emo resume --lr 5e-4 --epochs 20 --follow
    """
    if lr is not None and not 0 < lr < 1:
        raise BadRequest(f"--lr {lr:g} is no learning rate: it lies between 0 and 1")
    store = Store()
    chosen = store.find(run)
    attempt = _attempt(store, chosen, lr, epochs)
    if attempt is None:
        view.say(
            f"{chosen.id} has finished, nothing to resume: --epochs N trains N more, --lr X trains on from "
            f"the best weights at rate X"
        )
        return
    key = settings.read().identity
    wish = providers.wish_for(chosen.where, key)
    _renting.consent(wish, Errand(chosen, store, view.say), yes=yes)
    chosen, shell = begun(store, chosen, attempt, f"{chosen.id} goes on", key=key, report=None)
    started(Follower(store, chosen, shell), follow=follow, json=json)


def _attempt(store: Store, run: Run, lr: float | None, epochs: int | None) -> contract.Attempt | None:
    """What to ask for, by what the run has come to; None when there is nothing to do."""
    now = _now(store, run) if run.machine and run.python and run.attempts else None
    has_begun = now is not None and (now.progress.attempt > 0 or now.verdict.state != "starting")
    if lr is not None and not (now and now.progress.points):
        raise BadRequest(
            f"{run.id} has no best weights yet: 'ec2emo resume {run.id}' without --lr", run=run.id
        )
    if not has_begun:
        # Asked for, but never begun: the same token cannot start it twice.
        token = run.attempts[-1].token if run.attempts else runs.new_token()
        return contract.Attempt(number=0, token=token, more_epochs=epochs)
    if now and now.verdict.state == "finished" and lr is None and epochs is None:
        return None
    return contract.Attempt(
        number=0,
        token=runs.new_token(),
        origin="checkpoint" if lr is None else "best",
        more_epochs=epochs,
        lr=lr,
    )


def _now(store: Store, run: Run) -> Snapshot:
    """How the run stands; a run that lives or cannot be seen is left alone."""
    follower = Follower(store, run)
    try:
        status = remote.status(follower.contact(), run)
        if status.alive:
            raise BadRequest(
                f"{run.id} is running: 'ec2emo monitor {run.id} --follow' watches it, 'ec2emo stop {run.id}' "
                f"ends it",
                run=run.id,
            )
        return follower.once()
    except MachineGone:
        return follower.once()
    finally:
        follower.close()
