"""`ec2emo evaluate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator import data, view
from orchestrator.assess import REMOTE, assess, pool
from orchestrator.connect import open_shell
from orchestrator.errors import BadRequest
from orchestrator.run import Run
from orchestrator.settings import is_folder
from orchestrator.start import Telling
from orchestrator.store import Store

if TYPE_CHECKING:
    from trainer.clips import Report


def command(
    run: Annotated[
        str | None, typer.Argument(help="A run, or the beginning of its name; else the latest.")
    ] = None,
    data_: Annotated[
        str | None,
        typer.Option("--data", help="A folder of features, remote:PATH on the machine, or demo (synthetic)."),
    ] = None,
    folds: Annotated[
        bool, typer.Option("--folds", help="The folds of a cross-validation, each on what it held out.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Measure the best model of a run on any data.

    On the machine of the run, without its GPU, also while it trains. Emotions the model does not know are
    counted and left out. With --folds: what 'deploy --folds' has come to, fold by fold and all together, on
    clips that neither trained a model nor chose its epoch.

    Example: ec2emo evaluate --data other-speakers
    """
    if (data_ is None) != folds:
        raise BadRequest("name what to evaluate on: --data PATH, or --folds for a cross-validation")
    store = Store()
    if data_ is None:
        _folds(store, run, json=json)
        return
    chosen = store.find(run)
    if chosen.machine is None or chosen.python is None:
        raise BadRequest(f"{chosen.id} never reached a machine: there is nothing to evaluate", run=chosen.id)
    report = _look(chosen, data_, store)
    with (
        open_shell(chosen.machine) as shell,
        view.progress(f"{chosen.id} on {chosen.machine.name}", unit="bytes") as telling,
    ):
        answer = assess(chosen, shell, data_, report, Telling(telling.phase, telling))
    body = {"run": chosen.id, "data": data_, **answer}
    if json:
        view.json_line(body)
    else:
        view.evaluation(body)


def _folds(store: Store, named: str | None, *, json: bool) -> None:
    """Of all folds that have a machine; they share one."""
    runs = [run for run in store.folds(named) if run.machine and run.python]
    if not runs or runs[0].machine is None:
        raise BadRequest("no fold ever reached a machine: there is nothing to evaluate")
    with open_shell(runs[0].machine) as shell:
        body = {"run": runs[0].group, **pool(runs, shell)}
    if json:
        view.json_line(body)
    else:
        view.folds(body)


def _look(run: Run, named: str, store: Store) -> Report | None:
    """What is in the data, before a machine is asked; None when they lie there."""
    if named.startswith(REMOTE):
        if run.where == "local":
            raise BadRequest("--data remote:PATH is for another machine: name the folder itself")
        return None
    if named != "demo" and not is_folder(named):
        raise BadRequest(f"--data {named!r:.100} is not a folder on this machine")
    folder = data.folder_of(named, store)
    with view.progress(f"looking at {folder}", unit="files") as telling:
        report = data.look(folder, store, telling)
    if not report.used:
        raise BadRequest(f"{named} cannot be evaluated on: {report.problems[0].text}", run=run.id)
    return report
