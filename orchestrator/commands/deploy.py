"""`ec2emo deploy`."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator import bundle, data, providers, settings, start, view
from orchestrator import run as runs
from orchestrator import search as search_
from orchestrator.commands.monitor import watch
from orchestrator.errors import BadRequest, Ec2emoError
from orchestrator.follow import Follower
from orchestrator.progress import Snapshot
from orchestrator.run import Run, describe
from orchestrator.settings import Settings, is_folder
from orchestrator.store import Store
from trainer import contract, recipes

if TYPE_CHECKING:
    from trainer.clips import Report

HOLD_SECONDS = 20.0  # how long deploy waits for the trainer's first word


def command(
    recipe: Annotated[str, typer.Argument(help="The recipe to train; 'ec2emo recipes' lists them.")],
    on: Annotated[
        str | None, typer.Option(help="Where: local, ssh://user@host:port, or a Host of ~/.ssh/config.")
    ] = None,
    data_: Annotated[
        str | None,
        typer.Option("--data", help="A folder of features, remote:PATH on the machine, or demo (synthetic)."),
    ] = None,
    search: Annotated[
        bool, typer.Option("--search", help="List the features in usual folders, and ask which.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask where one answer alone makes sense.")
    ] = False,
    epochs: Annotated[int | None, typer.Option(min=1, help="The most epochs to train.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Clips a step.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A parameter of the recipe, KEY=VALUE; may be repeated.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="speaker (none on both sides) or clip; speaker where they are known.")
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(min=2, help="Train K runs, one after another: each holds another part out."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the split, the weights and the order of clips.")] = 42,
    name: Annotated[str | None, typer.Option(help="What to call the run.")] = None,
    identity: Annotated[Path | None, typer.Option(help="The private key for SSH.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Stay and watch.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would be done, and do nothing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Start a training run on a machine.

    Looks at the data, makes the machine ready, launches. The run goes on without this terminal, this
    connection, this computer.

    Example: ec2emo deploy v9_attention --on ssh://ubuntu@gpu.example.org --data features --follow
    """
    chosen, params = _recipe(recipe, set_ or [])
    here = settings.read()
    where = _where(on, here)
    key = str(identity) if identity else here.identity
    if search and data_:
        raise BadRequest("--search looks for data, --data names them: choose one of the two")
    named = data_ or here.data
    if named is None and not search:
        raise BadRequest(data.THREE_WAYS)
    providers.wish_for(where, key)  # what cannot be is refused before the data are looked at
    if split not in (None, "speaker", "clip"):
        raise BadRequest(f"--split is speaker or clip, not {split!r:.40}")
    run_id = runs.new_id(chosen.TAG, name)
    store = Store()
    if search or named is None:
        named = search_.choose(store, where, key, yes=yes)
    report = _look(named, where, store)
    spec = contract.Spec(
        run=run_id,
        uid=runs.new_token(),
        recipe=recipe,
        data="",
        fingerprint=report.fingerprint if report else "",
        epochs=epochs or chosen.EPOCHS,
        batch_size=batch_size or chosen.BATCH_SIZE,
        params=params,
        seed=seed,
        split=split or _split(report),
        synthetic=bool(report and report.synthetic),
    )
    place = str(data.folder_of(named, store)) if is_folder(named) else named
    run = Run(run_id, spec, where=where, data=place, created=time.time())
    if folds and report:
        data.refuse_folds(report, spec.split, folds, seed)
    if plan:
        _show_plan(run, report, folds, json=json)
        return
    all_ = runs.folded(run, folds) if folds else [run]
    followers = _begin(store, all_, key, report)
    if folds:
        _folds_started(run.id, followers, follow=follow, json=json)
    else:
        started(followers[0], follow=follow, json=json)


def _begin(store: Store, all_: list[Run], key: str | None, report: Report | None) -> list[Follower]:
    """The first start of each run; all are written down before any is started."""
    for run in all_:
        store.create(run)
    followers: list[Follower] = []
    for run in all_:
        attempt = contract.Attempt(number=0, token=runs.new_token())
        try:
            with view.progress(f"{run.id} on {run.where}", unit="bytes") as telling:
                begun, shell = start.begin(
                    store, run, attempt, key=key, report=report, telling=start.Telling(telling.phase, telling)
                )
        except Ec2emoError:
            for left in all_[len(followers) :]:
                view.say(
                    f"{left.id} is written down: once that is mended, 'ec2emo resume {left.id}' goes on "
                    "with it"
                )
            raise
        shell.close()
        followers.append(Follower(store, begun))
    return followers


def _folds_started(group: str, followers: list[Follower], *, follow: bool, json: bool) -> None:
    """What deploy does once all folds are launched; each waits on the machine for its turn."""
    if follow:
        for follower in followers:
            watch(follower, json=json, log_lines=4)
    elif json:
        view.json_line({"folds": group, "runs": [_brief(follower.once()) for follower in followers]})
        for follower in followers:
            follower.close()
    else:
        started(followers[0], follow=False, json=False)
        others = ", ".join(follower.run.id for follower in followers[1:])
        view.say(f"{others} wait on the machine for their turn")
    view.say(f"'ec2emo evaluate {group} --folds' shows what all folds are worth together")


def started(follower: Follower, *, follow: bool, json: bool) -> None:
    """What deploy and resume do after the launch: watch, or wait for the trainer's first word and say it."""
    if follow:
        watch(follower, json=json, log_lines=4)
        return
    try:
        until = time.monotonic() + HOLD_SECONDS
        for snapshot in follower.snapshots():
            if snapshot.verdict.state != "starting" or time.monotonic() > until:
                break
    finally:
        follower.close()
    if json:
        view.json_line(_brief(snapshot))
        return
    view.show(snapshot)


def _brief(snapshot: Snapshot) -> dict[str, Any]:
    body = snapshot.to_dict()
    return {k: body[k] for k in ("run", "recipe", "machine", "state", "attempt")}


def _recipe(name: str, settings_: list[str]) -> tuple[recipes.Recipe, dict[str, Any]]:
    pairs = dict(s.partition("=")[::2] for s in settings_)
    wrong = [s for s in settings_ if "=" not in s]
    if wrong:
        raise BadRequest(f"--set {wrong[0]!r:.60} is not of the form KEY=VALUE")
    try:
        module = recipes.load(name)
        return module, asdict(recipes.make_params(module, pairs))
    except ValueError as e:
        raise BadRequest(str(e)) from e


def _where(on: str | None, here: Settings) -> str:
    if on or here.on:
        return on or here.on or ""
    view.say("training on this machine (local): --on WHERE or 'ec2emo init' names another")
    return "local"


def _look(named: str, where: str, store: Store) -> Report | None:
    """What is in the data, before a machine is asked for; None when they lie on the machine."""
    if named.startswith("s3://"):
        raise BadRequest("--data s3://... is for EC2 machines, which ec2emo cannot make yet: name a folder")
    if named.startswith("remote:"):
        if where == "local":
            raise BadRequest("--data remote:PATH is for another machine: name the folder itself")
        return None
    folder = data.folder_of(named, store)
    with view.progress(f"looking at {folder}", unit="files") as telling:
        report = data.look(folder, store, telling)
    data.refuse_fatal(report)
    left_out = (
        f", {len(report.skipped):,} left out ('ec2emo data check' names them)" if report.skipped else ""
    )
    people = f", {len(report.speakers)} speakers" if report.speakers else ""
    view.say(f"{len(report.used):,} clips of {len(report.classes)} emotions{people}{left_out}")
    if report.synthetic:
        view.say("these data are SYNTHETIC: the model will know nothing of speech", level="warning")
    return report


def _split(report: Report | None) -> str:
    if report is None:
        return ""
    return "speaker" if report.every_speaker_known else "clip"


def _show_plan(run: Run, report: Report | None, folds: int | None, *, json: bool) -> None:
    body = {
        **describe(run),
        "data": run.data,
        "clips": len(report.used) if report else None,
        "bytes": sum(c.bytes for c in report.used) if report else None,
        "synthetic": run.spec.synthetic,
        "split": run.spec.split or None,
        "folds": folds,
        "epochs": run.spec.epochs,
        "batch_size": run.spec.batch_size,
        "seed": run.spec.seed,
        "params": dict(run.spec.params),
        "code": bundle.make().hash,
    }
    if json:
        view.json_line(body)
    else:
        view.plan(body)
