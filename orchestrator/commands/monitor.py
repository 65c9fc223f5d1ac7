"""`ec2emo monitor`."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator import view
from orchestrator.commands import _log_file
from orchestrator.errors import BadRequest, ContactLost, RunFailed
from orchestrator.follow import Follower
from orchestrator.progress import Snapshot, next_step
from orchestrator.store import Store


def command(
    run: Annotated[
        str | None, typer.Argument(help="A run, or the beginning of its name; else the latest.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay until the run is over.")] = False,
    log: Annotated[bool, typer.Option("--log", help="The log instead of the numbers.")] = False,
    lines: Annotated[int, typer.Option(min=0, help="How many lines of the log.")] = 4,
    log_file: Annotated[
        str | None, typer.Option(help="The console log of any Keras program, which ec2emo did not start.")
    ] = None,
    on: Annotated[
        str | None, typer.Option(help="Where that log lies; else the place of ec2emo.toml.")
    ] = None,
    identity: Annotated[str | None, typer.Option(help="The private key for SSH to that place.")] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print JSON on stdout, a line for each change.")
    ] = False,
) -> None:
    """Show how a run stands, or follow it live.

    Ctrl-C leaves; the run goes on. The exit code is the run's: 0 while all is well, 1 when it failed or was
    lost, 6 when the machine cannot be reached.

    With --log-file it is any Keras program's console log that is read, on whatever place --on names, and
    each fit in it is told.

    Example: ec2emo monitor --follow
    """
    if log_file is not None:
        if run is not None:
            raise BadRequest(f"name either a run or --log-file {log_file}, not both")
        _log_file.monitor(log_file, on, identity, follow=follow, log=log, lines=lines, json=json)
        return
    if on or identity:
        raise BadRequest("--on and --identity say where a --log-file lies; a run knows where it is")
    store = Store()
    follower = Follower(store, store.find(run), log_lines=max(lines, 200))
    if log:
        _show_log(follower, lines=lines, follow=follow)
    elif follow:
        watch(follower, json=json, log_lines=lines)
    else:
        _once(follower, json=json)


def watch(follower: Follower, *, json: bool, log_lines: int) -> None:
    """Follow until the run is over; then exit as the run did."""
    try:
        last = _stream(follower) if json else view.follow(follower.snapshots(), log_lines=log_lines)
    except KeyboardInterrupt:
        raise _left(follower) from None
    finally:
        follower.close()
    _exit_as(last)


def _once(follower: Follower, *, json: bool) -> None:
    try:
        snapshot = follower.once()
    finally:
        follower.close()
    if json:
        view.json_line(snapshot.to_dict())
    else:
        view.show(snapshot)
    _exit_as(snapshot)


def _stream(follower: Follower) -> Snapshot:
    shown = None
    for snapshot in follower.snapshots():
        body = snapshot.to_dict()
        now = {k: v for k, v in body.items() if k != "eta_seconds"}
        if now != shown:
            view.json_line(body)
            shown = now
    return snapshot


def _show_log(follower: Follower, *, lines: int, follow: bool) -> None:
    """The last lines, and with `follow` each new one once."""
    shown = 0
    try:
        for snapshot in follower.snapshots() if follow else [follower.once()]:
            fresh = snapshot.log_count - shown
            wanted = min(fresh, lines) if shown == 0 else fresh
            for line in snapshot.log[max(0, len(snapshot.log) - wanted) :] if wanted > 0 else ():
                view.data(view.plain(line.rpartition("\r")[2] or line))  # of a progress bar, its last state
            shown = snapshot.log_count
    except KeyboardInterrupt:
        raise _left(follower) from None
    finally:
        follower.close()
    _exit_as(snapshot)


def _left(follower: Follower) -> typer.Exit:
    run = follower.run.id
    view.say(f"left {run}, which goes on: 'ec2emo monitor {run} --follow' comes back")
    return typer.Exit(130)


def _exit_as(snapshot: Snapshot) -> None:
    run, verdict = snapshot.run, snapshot.verdict
    if verdict.state in ("failed", "lost"):
        raise RunFailed(
            f"{run.id} {'failed' if verdict.state == 'failed' else 'was lost'}: {verdict.error}; "
            f"'ec2emo monitor {run.id} --log' shows more, '{next_step(snapshot)}' goes on from the last "
            f"checkpoint",
            run=run.id,
        )
    if verdict.state == "unreachable":
        raise ContactLost(f"{run.id} is out of reach, and may well go on: {verdict.reason}", run=run.id)
