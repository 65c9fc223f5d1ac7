"""`ec2emo deploy`."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator import bundle, data, providers, settings, view
from orchestrator import run as runs
from orchestrator.commands import _renting
from orchestrator.commands._again import Persistence, persistence
from orchestrator.commands.monitor import watch
from orchestrator.errors import BadRequest, Ec2emoError
from orchestrator.follow import Follower
from orchestrator.providers import Errand, Wish
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
        str | None,
        typer.Option(help="Where: local, ssh://user@host:port, a Host of ~/.ssh/config, ec2, or i-…."),
    ] = None,
    data_: Annotated[
        str | None,
        typer.Option("--data", help="A folder of features, remote:PATH on the machine, or demo (synthetic)."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="The most epochs to train.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Clips a step.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A parameter of the recipe, KEY=VALUE; may be repeated.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="speaker (none on both sides) or clip; speaker where they are known.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the split, the weights and the order of clips.")] = 42,
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
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before money is spent.")] = False,
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
    named = data_ or here.data
    if named is None:
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
    if split not in (None, "speaker", "clip"):
        raise BadRequest(f"--split is speaker or clip, not {split!r:.40}")
    run_id = runs.new_id(chosen.TAG, name)
    store = Store()
    again = persistence(store, follow=follow, asked=auto_resume)
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
    run = Run(run_id, spec, where=where, data=place, created=time.time(), terms=terms)
    if plan:
        _show_plan(run, report, wish, json=json)
        return
    _renting.consent(wish, Errand(run, store, view.say), yes=yes)
    started(_begin(store, run, key, report), follow=follow, json=json, again=again)


def _begin(store: Store, run: Run, key: str | None, report: Report | None) -> Follower:
    """The run's first start."""
    store.create(run)
    attempt = contract.Attempt(number=0, token=runs.new_token())
    try:
        run, shell = _renting.begun(store, run, attempt, f"{run.id} on {run.where}", key=key, report=report)
    except Ec2emoError:
        view.say(f"{run.id} is written down: once that is mended, 'ec2emo resume {run.id}' goes on with it")
        raise
    return Follower(store, run, shell)


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
        body = snapshot.to_dict()
        view.json_line({k: body[k] for k in ("run", "recipe", "machine", "state", "attempt")})
        return
    view.show(snapshot)


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


def _show_plan(run: Run, report: Report | None, wish: Wish, *, json: bool) -> None:
    renter = providers.renter(wish.provider)
    body = {
        **describe(run),
        "data": run.data,
        "clips": len(report.used) if report else None,
        "bytes": sum(c.bytes for c in report.used) if report else None,
        "synthetic": run.spec.synthetic,
        "split": run.spec.split or None,
        "epochs": run.spec.epochs,
        "batch_size": run.spec.batch_size,
        "seed": run.spec.seed,
        "params": dict(run.spec.params),
        "code": bundle.make().hash,
        **({"rented": renter.plan(wish, run.terms)} if renter else {}),
    }
    if json:
        view.json_line(body)
    else:
        view.plan(body)
