"""`ec2emo resume`."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from orchestrator import view
from orchestrator.commands._again import attempt_for, go_on, persistence
from orchestrator.commands.deploy import started
from orchestrator.errors import BadRequest
from orchestrator.store import Store


def command(
    run: Annotated[
        str | None, typer.Argument(help="A run, or the beginning of its name; else the latest.")
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Extended training: from the best weights, at this learning rate.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="How many epochs more.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Stay and watch.")] = False,
    allow_cpu: Annotated[
        bool, typer.Option("--allow-cpu", help="EC2: train on the CPU where no GPU is seen.")
    ] = False,
    auto_resume: Annotated[
        bool, typer.Option("--auto-resume", help="With --follow: go on whenever the machine is taken away.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before money is spent.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Go on with a run that ended.

    From its last checkpoint; with --lr from its best weights, at that learning rate.

    Epoch numbers go on; the best so far stays the best until it is beaten. A rented machine that is gone is
    replaced by a new one, which takes up what 'ec2emo setup' has had kept in S3.

    Example: ec2emo resume --lr 5e-4 --epochs 20 --follow
    """
    if lr is not None and not 0 < lr < 1:
        raise BadRequest(f"--lr {lr:g} is no learning rate: it lies between 0 and 1")
    store = Store()
    again = persistence(store, follow=follow, asked=auto_resume)
    chosen = store.find(run)
    if allow_cpu and chosen.terms:
        chosen = dataclasses.replace(chosen, terms=dataclasses.replace(chosen.terms, allow_cpu=True))
    attempt = attempt_for(store, chosen, lr, epochs)
    if attempt is None:
        view.say(
            f"{chosen.id} has finished, nothing to resume: --epochs N trains N more, --lr X trains on from "
            f"the best weights at rate X"
        )
        return
    follower = go_on(store, chosen, attempt, yes=yes)
    started(follower, follow=follow, json=json, again=again)
