"""`ec2emo monitor`."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator import view
from orchestrator.commands._again import Persistence, persistence
from orchestrator.errors import CapReached, ContactLost, Interrupted, RunFailed
from orchestrator.follow import Follower
from orchestrator.progress import Snapshot, next_step
from orchestrator.store import Store


def command(
    run: Annotated[
        str | None, typer.Argument(help="A run, or the beginning of its name; else the latest.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay until the run is over.")] = False,
    log: Annotated[bool, typer.Option("--log", help="The log instead of the numbers.")] = False,
    auto_resume: Annotated[
        bool, typer.Option("--auto-resume", help="With --follow: go on whenever the machine is taken away.")
    ] = False,
    lines: Annotated[int, typer.Option(min=0, help="How many lines of the log.")] = 4,
    json: Annotated[
        bool, typer.Option("--json", help="Print JSON on stdout, a line for each change.")
    ] = False,
) -> None:
    """Show how a run stands, or follow it live.

    Ctrl-C leaves; the run goes on. The exit code is the run's: 0 while all is well, 1 when it failed or was
    lost, 6 when the machine cannot be reached, 7 when it was interrupted, 9 when a limit ended it.

    Example: ec2emo monitor --follow
    """
    store = Store()
    again = persistence(store, follow=follow, asked=auto_resume)
    follower = Follower(store, store.find(run), log_lines=max(lines, 200))
    if log:
        _show_log(follower, lines=lines, follow=follow)
    elif follow:
        watch(follower, json=json, log_lines=lines, again=again)
    else:
        _once(follower, json=json)


def watch(follower: Follower, *, json: bool, log_lines: int, again: Persistence | None = None) -> None:
    """Follow until the run is over, `again` whenever its machine is taken away; then exit as the run did."""
    following: Follower | None = follower
    while following is not None:
        try:
            last = _stream(following) if json else view.follow(following.snapshots(), log_lines=log_lines)
        except KeyboardInterrupt:
            raise _left(following) from None
        finally:
            following.close()
        following = again.after(last) if again else None
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
    if verdict.state == "interrupted":
        raise Interrupted(
            f"{run.id} was interrupted: {verdict.reason}; '{next_step(snapshot)}' goes on", run=run.id
        )
    if verdict.state == "capped":
        raise CapReached(
            f"{run.id} was ended: {verdict.reason}; '{next_step(snapshot)}' goes on under new limits",
            run=run.id,
        )
    if verdict.state == "unreachable":
        raise ContactLost(f"{run.id} is out of reach, and may well go on: {verdict.reason}", run=run.id)
