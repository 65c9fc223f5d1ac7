"""`ec2emo download`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from orchestrator import providers, remote, tensorboard, view
from orchestrator.connect import open_shell
from orchestrator.errors import BadRequest, ContactLost, Ec2emoError, MachineGone
from orchestrator.fetch import Fetched, fetch
from orchestrator.follow import Follower
from orchestrator.machine import Machine
from orchestrator.run import Run
from orchestrator.store import Store


def command(
    run: Annotated[
        str | None, typer.Argument(help="A run, or the beginning of its name; else the latest.")
    ] = None,
    best: Annotated[bool, typer.Option("--best", help="The epoch with the highest val_accuracy.")] = False,
    last: Annotated[bool, typer.Option("--last", help="The latest epoch that was saved.")] = False,
    to: Annotated[Path | None, typer.Option(help="The folder; ./models/RUN without it.")] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Do not end a rented machine once the model is home.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Bring home the model, its labels, mean and std, verified.

    All of one run and one epoch, or nothing. Works while training goes on; what stopped half way goes on
    where it stopped. A machine that ec2emo rented for the run is ended once the run is over and its model is
    here, unless 'after' under [ec2] says otherwise.

    Example: ec2emo download --best
    """
    if best == last:
        raise BadRequest("which model: --best (the highest val_accuracy) or --last (the latest)?")
    store = Store()
    chosen = store.find(run)
    if chosen.machine is None:
        raise BadRequest(f"{chosen.id} never reached a machine: there is nothing to download", run=chosen.id)
    which = "best" if best else "last"
    try:
        got, over = _from_machine(store, chosen, chosen.machine, which, to)
    except (ContactLost, MachineGone) as e:
        got, over = _from_copy(chosen, which, to, e), False
    released = _release(store, chosen) if over and not keep else None
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
        if released:
            view.say(released)
        return
    view.files_table([(a.role, a.name, a.bytes, a.sha256) for a in got.files])
    value = "" if got.value is None else f", val_accuracy {got.value:.4f}"
    state = "was here already" if got.already else "is here"
    view.say(f"epoch {got.epoch} of {got.run}{value} {state}, verified: {_short(got.dir)}", level="good")
    if got.synthetic:
        view.say("trained on SYNTHETIC data: it knows nothing of speech", level="warning")
    if released:
        view.say(released)


def _from_machine(
    store: Store, run: Run, machine: Machine, which: str, to: Path | None
) -> tuple[Fetched, bool]:
    """What came home, and whether the run is over and all it leaves is safe."""
    with (
        open_shell(machine) as shell,
        view.progress(f"downloading from {machine.name}", unit="bytes") as telling,
    ):
        got = fetch(run, shell, which, to, telling)
        with contextlib.suppress(ContactLost, OSError):  # the model is what was asked for
            tensorboard.bring_home(store, run, shell)
        if providers.renter(machine.provider):
            remote.note_collected(shell, run, [a.sha256 for a in got.files])
        # All that it told, too: nobody may have followed, and a rented machine may be about to end.
        seen = Follower(store, run, shell).once()
        if not providers.renter(machine.provider):
            return got, False
        if seen.status is None or seen.status.alive or seen.silence is not None:
            return got, False
        telling.phase("waiting for the copy in S3 to be whole")
        return got, machine.store is None or remote.await_mirror(shell, run, seen.status.attempt)


def _from_copy(run: Run, which: str, to: Path | None, why: Ec2emoError) -> Fetched:
    """From what is kept elsewhere, when the machine is gone or does not answer."""
    replica = providers.replica(run)
    if replica is None:
        raise why
    view.say(f"{why}: taking what is kept in S3")
    with replica, view.progress("downloading from S3", unit="bytes") as telling:
        return fetch(run, replica, which, to, telling)


def _release(store: Store, run: Run) -> str | None:
    """What the model's being home means for a rented machine, as a sentence."""
    renter = providers.renter(run.machine.provider) if run.machine else None
    if renter is None:
        return None
    with view.progress("ending the machine, as agreed"):
        said: str | None = renter.release(store, run)
    return said


def _short(folder: Path) -> str:
    return str(folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder)
