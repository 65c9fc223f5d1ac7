"""`ec2emo download`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from orchestrator import tensorboard, view
from orchestrator.connect import open_shell
from orchestrator.errors import BadRequest, ContactLost
from orchestrator.fetch import fetch
from orchestrator.store import Store


def command(
    run: Annotated[
        str | None, typer.Argument(help="A run, or the beginning of its name; else the latest.")
    ] = None,
    best: Annotated[bool, typer.Option("--best", help="The epoch with the highest val_accuracy.")] = False,
    last: Annotated[bool, typer.Option("--last", help="The latest epoch that was saved.")] = False,
    to: Annotated[Path | None, typer.Option(help="The folder; ./models/RUN without it.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Bring home the model, its labels, mean and std, verified.

    All of one run and one epoch, or nothing. Works while training goes on; what stopped half way goes on
    where it stopped.

    Example: ec2emo download --best
    """
    if best == last:
        raise BadRequest("which model: --best (the highest val_accuracy) or --last (the latest)?")
    store = Store()
    chosen = store.find(run)
    if chosen.machine is None:
        raise BadRequest(f"{chosen.id} never reached a machine: there is nothing to download", run=chosen.id)
    with (
        open_shell(chosen.machine) as shell,
        view.progress(f"downloading from {chosen.machine.name}", unit="bytes") as telling,
    ):
        got = fetch(chosen, shell, "best" if best else "last", to, telling)
        with contextlib.suppress(ContactLost, OSError):  # the model is what was asked for
            tensorboard.bring_home(store, chosen, shell)
    if json:
        view.json_line(
            {
                "run": got.run,
                "epoch": got.epoch,
                "val_accuracy": got.value,
                "dir": str(got.dir),
                "synthetic": got.synthetic,
                "files": [
                    {"role": a.role, "path": a.name, "bytes": a.bytes, "sha256": a.sha256} for a in got.files
                ],
            }
        )
        return
    view.files_table([(a.role, a.name, a.bytes, a.sha256) for a in got.files])
    value = "" if got.value is None else f", val_accuracy {got.value:.4f}"
    state = "was here already" if got.already else "is here"
    view.say(f"epoch {got.epoch} of {got.run}{value} {state}, verified: {_short(got.dir)}", level="good")
    if got.synthetic:
        view.say("trained on SYNTHETIC data: it knows nothing of speech", level="warning")


def _short(folder: Path) -> str:
    return str(folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder)
