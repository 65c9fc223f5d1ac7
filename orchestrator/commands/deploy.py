"""`ec2emo deploy`."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator import data, float16, providers, settings, start, view
from orchestrator import run as runs
from orchestrator import search as search_
from orchestrator.commands import _plan, _renting
from orchestrator.commands._again import Persistence, persistence
from orchestrator.commands.monitor import watch
from orchestrator.errors import BadRequest, Ec2emoError, RunFailed
from orchestrator.follow import Follower
from orchestrator.progress import Snapshot
from orchestrator.providers import Errand
from orchestrator.run import Run, describe
from orchestrator.settings import Settings, is_folder
from orchestrator.store import Store
from trainer import contract, recipes

if TYPE_CHECKING:
    from orchestrator.connect import Ahead
    from orchestrator.shell import Shell
    from trainer.clips import Report

HOLD_SECONDS = 20.0  # how long deploy waits for the trainer's first word


def command(
    recipe: Annotated[str, typer.Argument(help="The recipe to train; 'ec2emo recipes' lists them.")],
    on: Annotated[
        str | None,
        typer.Option(help="Where: local, ssh://user@host:port, a Host of ~/.ssh/config, ec2, or i-…."),
    ] = None,
    data_: Annotated[
        str | None,
        typer.Option("--data", help="A folder of features, remote:PATH on the machine, or demo (synthetic)."),
    ] = None,
    search: Annotated[
        bool, typer.Option("--search", help="List the features in usual folders, and ask which.")
    ] = False,
    narrow: Annotated[
        bool, typer.Option("--float16", help="Train on a copy of the features in float16: half to send.")
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
    gpus: Annotated[
        str, typer.Option(help="one, or all of the machine's: each takes a share of a batch.")
    ] = "one",
    name: Annotated[str | None, typer.Option(help="What to call the run.")] = None,
    identity: Annotated[Path | None, typer.Option(help="The private key for SSH.")] = None,
    instance_type: Annotated[
        list[str] | None, typer.Option(help="EC2: a type to ask for, the first leading; may be repeated.")
    ] = None,
    spot: Annotated[
        bool | None, typer.Option("--spot/--on-demand", help="EC2: spot first, or no spot.")
    ] = None,
    region: Annotated[
        str | None, typer.Option(help="EC2: the region; else that of your AWS settings.")
    ] = None,
    max_hours: Annotated[
        float | None, typer.Option(help="EC2: the machine ends itself after so long; 12 without it.")
    ] = None,
    max_cost: Annotated[float | None, typer.Option(help="EC2: the most it may cost, in US dollars.")] = None,
    via: Annotated[
        str | None, typer.Option(help="EC2: ssm or eice, a tunnel in place of an open port.")
    ] = None,
    allow_from: Annotated[
        str | None, typer.Option(help="EC2: who may reach port 22 (CIDR); else this computer alone.")
    ] = None,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="EC2: treat a machine of yours as if ec2emo had made it.")
    ] = False,
    allow_cpu: Annotated[
        bool, typer.Option("--allow-cpu", help="EC2: train on the CPU where no GPU is seen.")
    ] = False,
    auto_resume: Annotated[
        bool, typer.Option("--auto-resume", help="With --follow: go on whenever the machine is taken away.")
    ] = False,
    yes: Annotated[
        bool,
        typer.Option("--yes", "-y", help="Do not ask: yes, or the only choice."),
    ] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Stay and watch.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would be done, and do nothing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Start a training run on a machine.

    Looks at the data, makes the machine ready, launches. The run goes on without this terminal, this
    connection, this computer.

    Example: ec2emo deploy v9_attention --on ssh://ubuntu@gpu.example.org --data features --follow

    Example: ec2emo deploy v9_attention --on ec2 --data features --max-cost 5 --follow
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
    wish = providers.wish_for(where, key)  # what cannot be is refused before the data are looked at
    terms = _renting.terms(
        wish,
        here,
        instance_types=instance_type,
        spot=spot,
        region=region,
        max_hours=max_hours,
        max_cost=max_cost,
        via=via,
        allow_from=allow_from,
        adopt=adopt,
        allow_cpu=allow_cpu,
    )
    if folds and terms:
        raise BadRequest(
            "--folds trains its runs one after another on one machine, and one is rented for each run: name "
            "a machine you have, or deploy without --folds"
        )
    data.refuse_split(split)
    if gpus not in ("one", "all"):
        raise BadRequest(f"--gpus {gpus!r:.40} is neither one nor all")
    run_id = runs.new_id(chosen.TAG, name)
    store = Store()
    again = persistence(store, follow=follow, asked=auto_resume)
    if search or named is None:
        named = search_.choose(store, where, key, yes=yes)
    if narrow and named.startswith("remote:"):
        raise BadRequest(
            f"--float16 copies features that lie here, and {named!r:.100} lies on the machine: deploy "
            f"without it"
        )
    opening = None if plan else start.ahead(wish)
    report = _look(named, where, store)
    if narrow and report and not float16.is_narrow(report):
        report = _narrowed(report, store, make=not plan)
        named = str(report.folder)
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
        split=data.split_of(report, split) if report else split or "",
        gpus=gpus,
        synthetic=bool(report and report.synthetic),
    )
    place = str(data.folder_of(named, store)) if is_folder(named) else named
    run = Run(run_id, spec, where=where, data=place, created=time.time(), terms=terms)
    if folds and report:
        data.folds(report, spec.split, folds, seed)
    if plan:
        body = _plan.of(store, run, report, folds, wish, narrow=narrow)
        (view.json_line if json else view.plan)(body)
        return
    _renting.consent(wish, Errand(run, store, view.say), yes=yes)
    followers = _begin(store, runs.folded(run, folds) if folds else [run], key, report, opening)
    if folds:
        _folds_started(run.id, followers, follow=follow, json=json)
    else:
        started(followers[0], follow=follow, json=json, again=again)


def _begin(
    store: Store, all_: list[Run], key: str | None, report: Report | None, opening: Ahead | None
) -> list[Follower]:
    """The first start of each run, on one machine; all are written down before any is started."""
    for run in all_:
        store.create(run)
    followers: list[Follower] = []
    for run in all_:
        machine = followers[0].run.machine if followers else None
        try:
            begun, shell = _start(
                store, dataclasses.replace(run, machine=machine), key, report, None if followers else opening
            )
        except Ec2emoError:
            for left in all_[len(followers) :]:
                view.say(
                    f"{left.id} is written down: once that is mended, 'ec2emo resume {left.id}' starts it"
                )
            raise
        if followers:
            shell.close()
        followers.append(Follower(store, begun, None if followers else shell))
    return followers


def _start(
    store: Store, run: Run, key: str | None, report: Report | None, opening: Ahead | None
) -> tuple[Run, Shell]:
    attempt = contract.Attempt(number=0, token=runs.new_token())
    return _renting.begun(
        store, run, attempt, f"{run.id} on {run.where}", key=key, report=report, opening=opening
    )


def _folds_started(group: str, followers: list[Follower], *, follow: bool, json: bool) -> None:
    """What deploy does once all folds are launched; each waits on the machine for its turn."""
    if follow:
        _watch_all(followers, json=json)
    elif json:
        view.json_line({"folds": group, "runs": [_brief(follower.once()) for follower in followers]})
        for follower in followers:
            follower.close()
    else:
        started(followers[0], follow=False, json=False)
        others = ", ".join(follower.run.id for follower in followers[1:])
        view.say(f"{others} wait on the machine for their turn")
    view.say(f"'ec2emo evaluate {group} --folds' shows what all folds are worth together")


def _watch_all(followers: list[Follower], *, json: bool) -> None:
    """One after another, as they train; one that fails keeps nobody from watching the next."""
    failed: RunFailed | None = None
    for follower in followers:
        try:
            watch(follower, json=json, log_lines=4)
        except RunFailed as e:
            view.say(str(e), level="warning")
            failed = failed or e
    if failed:
        raise failed


def started(follower: Follower, *, follow: bool, json: bool, again: Persistence | None = None) -> None:
    """What deploy and resume do after the launch: watch, or wait for the trainer's first word and say it."""
    if follow:
        watch(follower, json=json, log_lines=4, again=again)
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
    return {
        **describe(snapshot.run),
        "state": snapshot.verdict.state,
        "attempt": snapshot.progress.attempt,
    }


def _recipe(name: str, settings_: list[str]) -> tuple[recipes.Recipe, dict[str, Any]]:
    pairs = dict(s.partition("=")[::2] for s in settings_)
    wrong = [s for s in settings_ if "=" not in s]
    if wrong:
        raise BadRequest(f"--set {wrong[0]!r:.60} is not of the form KEY=VALUE")
    try:
        module = recipes.load(name)
        return module, dataclasses.asdict(recipes.make_params(module, pairs))
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
        raise BadRequest("--data s3://... is not read yet: name a folder here, or remote:PATH on the machine")
    if named.startswith("remote:"):
        if where == "local":
            raise BadRequest("--data remote:PATH is for another machine: name the folder itself")
        return None
    folder = data.folder_of(named, store)
    with view.progress(f"looking at {folder}", unit="files") as telling:
        report = data.look(folder, store, telling)
    data.refuse_fatal(report)
    left_out = f", {len(report.skipped):,} left out (all: 'ec2emo data check')" if report.skipped else ""
    people = f", {len(report.speakers)} speakers" if report.speakers else ""
    view.say(f"{len(report.used):,} clips of {len(report.classes)} emotions{people}{left_out}")
    for problem in report.problems:
        view.say(problem.text, level="warning")
    if report.synthetic:
        view.say("these data are SYNTHETIC: the model will know nothing of speech", level="warning")
    return report


def _narrowed(report: Report, store: Store, *, make: bool) -> Report:
    """What is in the copy in float16; without `make`, of one that is not there yet, what it is a copy of."""
    folder = float16.made(report, store)
    if folder is None and not make:
        return report
    if folder is None:
        with view.progress(f"copying {report.folder} in float16", unit="files") as telling:
            folder = float16.make(report, store, telling)
    with view.progress(f"looking at {folder}", unit="files") as telling:
        copied = data.look(folder, store, telling)
    data.refuse_fatal(copied)
    view.say(
        f"{sum(c.bytes for c in copied.used) / 1e6:,.1f} MB in float16, in place of "
        f"{sum(c.bytes for c in report.used) / 1e6:,.1f} MB"
    )
    for refused in copied.skipped:
        view.say(f"{refused.path} is left out in float16: {refused.reason}", level="warning")
    return copied
