"""`ec2emo tensorboard`."""

from __future__ import annotations

import contextlib
import time
from typing import Annotated

import typer

from orchestrator import remote, tensorboard, view
from orchestrator.connect import open_shell
from orchestrator.errors import BadRequest, ContactLost
from orchestrator.run import Run
from orchestrator.shell import ServerEnded, Shell
from orchestrator.store import Store

LOOK_EVERY = 5.0  # seconds


def command(
    run: Annotated[
        str | None, typer.Argument(help="A run, or the beginning of its name; else the latest.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port here; 0 takes a free one.")] = 0,
) -> None:
    """Show a run in TensorBoard until Ctrl-C.

    Of a run that is alive the machine's own, through a tunnel, on loopback at both ends; of another one what
    came home of it.

    Example: ec2emo tensorboard
    """
    store = Store()
    chosen = store.find(run)
    try:
        with contextlib.ExitStack() as stack:
            shell = _alive(stack, store, chosen)
            serving = (
                tensorboard.serve_there(chosen, shell, port)
                if shell
                else tensorboard.serve_here(store, chosen, port)
            )
            view.data(f"http://127.0.0.1:{stack.enter_context(serving)}/")
            view.say(f"TensorBoard of {chosen.id}; Ctrl-C ends it and nothing else")
            _stay(shell, chosen)
    except ServerEnded as e:
        raise tensorboard.failed(chosen, str(e)) from e
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except OSError as e:
        raise BadRequest(f"port {port} cannot be used here ({e.strerror}): name another with --port") from e


def _alive(stack: contextlib.ExitStack, store: Store, run: Run) -> Shell | None:
    """A shell where the run is alive; else None, with all at home that can be had. Raises when that is
    nothing.
    """
    if run.machine is None or run.python is None:
        raise BadRequest(f"{run.id} never reached a machine: there is nothing to show", run=run.id)
    try:
        shell = stack.enter_context(open_shell(run.machine))
        if remote.status(shell, run).alive:
            return shell
        tensorboard.bring_home(store, run, shell)
    except ContactLost as e:
        if not tensorboard.at_home(store, run):
            raise ContactLost(
                f"the curves of {run.id} are on its machine alone, which is out of reach ({e}): try again "
                f"when it answers",
                run=run.id,
            ) from e
        view.say(f"{e}; shown is what came home before", level="warning")
    if not tensorboard.at_home(store, run):
        raise BadRequest(f"{run.id} has left no curves: its first epoch never ended", run=run.id)
    return None


def _stay(shell: Shell | None, run: Run) -> None:
    """Until Ctrl-C, or the line is cut."""
    while True:
        time.sleep(LOOK_EVERY)
        if shell is not None:
            remote.status(shell, run)
