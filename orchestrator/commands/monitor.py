"""`ec2emo monitor`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated

import typer

from orchestrator import view
from orchestrator.commands import _log_file
from orchestrator.commands._again import Persistence, persistence
from orchestrator.errors import BadRequest, CapReached, ContactLost, Ec2emoError, Interrupted, RunFailed
from orchestrator.follow import Follower
from orchestrator.notify import Notice
from orchestrator.progress import Snapshot, next_step
from orchestrator.published import TICKING, answer, failure
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
    notify: Annotated[
        bool, typer.Option("--notify", help="When it is over: a bell, and what $EC2EMO_NOTIFY says.")
    ] = False,
    notify_with: Annotated[
        str | None,
        typer.Option(help="When it is over: a bell, and this command, or a POST to this https:// address."),
    ] = None,
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
    lost, 6 when the machine cannot be reached, 7 when it was interrupted, 9 when a limit ended it.

    A command is told by EC2EMO_RUN, EC2EMO_STATE, EC2EMO_BEST and others, and gets the JSON as its input.

    With --log-file it is any Keras program's console log that is read, on whatever place --on names, and
    each fit in it is told.

    Example: ec2emo monitor --follow
    """
    notice = Notice.wanted(notify, notify_with, follow=follow)
    if log_file is not None and run is not None:
        raise BadRequest(f"name either a run or --log-file {log_file}, not both")
    if log_file is None and (on or identity):
        raise BadRequest("--on and --identity say where a --log-file lies; a run knows where it is")
    with _failing_in_json() if json else contextlib.nullcontext():
        if log_file is not None:
            last = _log_file.monitor(log_file, on, identity, follow=follow, log=log, lines=lines, json=json)
        else:
            last = _seen(run, follow=follow, log=log, lines=lines, json=json, auto_resume=auto_resume)
    if notice:
        notice.give(last)
    (_exit_as if log_file is None else _log_file.exit_as)(last)


def _seen(run: str | None, *, follow: bool, log: bool, lines: int, json: bool, auto_resume: bool) -> Snapshot:
    """Show the run as it was asked for; answers what was seen last."""
    store = Store()
    again = persistence(store, follow=follow, asked=auto_resume)
    follower = Follower(store, store.find(run), log_lines=max(lines, 200))
    if log:
        return _show_log(follower, lines=lines, follow=follow)
    if follow:
        return _watch(follower, json=json, log_lines=lines, again=again)
    return _once(follower, json=json, log_lines=lines)


@contextlib.contextmanager
def _failing_in_json() -> Iterator[None]:
    """Who reads objects gets one also where there is nothing but an error."""
    try:
        yield
    except Ec2emoError as e:
        view.json_line(failure(e))
        raise


def watch(follower: Follower, *, json: bool, log_lines: int, again: Persistence | None = None) -> None:
    """Follow until the run is over, `again` whenever its machine is taken away; then exit as the run did."""
    _exit_as(_watch(follower, json=json, log_lines=log_lines, again=again))


def _watch(follower: Follower, *, json: bool, log_lines: int, again: Persistence | None) -> Snapshot:
    following: Follower | None = follower
    while following is not None:
        try:
            last = _stream(following) if json else view.follow(following.snapshots(), log_lines=log_lines)
        except KeyboardInterrupt:
            raise _left(following) from None
        finally:
            following.close()
        following = again.after(last) if again else None
    return last


def _once(follower: Follower, *, json: bool, log_lines: int) -> Snapshot:
    try:
        snapshot = follower.once()
    finally:
        follower.close()
    if json:
        view.json_line(answer(snapshot))
    else:
        view.show(snapshot, log_lines=log_lines)
    return snapshot


def _stream(follower: Follower) -> Snapshot:
    shown = None
    for snapshot in follower.snapshots():
        body = answer(snapshot)
        now = {k: v for k, v in body.items() if k not in TICKING}
        if now != shown:
            view.json_line(body)
            shown = now
    return snapshot


def _show_log(follower: Follower, *, lines: int, follow: bool) -> Snapshot:
    """The last lines, and with `follow` each new one once."""
    shown: int | None = None
    away = empty = False
    try:
        for snapshot in follower.snapshots() if follow else [follower.once()]:
            if away != (snapshot.silence is not None):
                away = not away
                view.say(f"contact lost: {snapshot.verdict.reason}" if away else "contact is back")
            if not (snapshot.log_count or empty):
                empty = True
                view.say(f"no bytes yet: the log of {follower.run.id} is empty")
            wanted = lines if shown is None else snapshot.log_count - shown
            for line in snapshot.log[max(0, len(snapshot.log) - wanted) :] if wanted > 0 else ():
                view.data(view.plain(line.rpartition("\r")[2] or line))  # of a progress bar, its last state
            shown = snapshot.log_count
    except KeyboardInterrupt:
        raise _left(follower) from None
    finally:
        follower.close()
    return snapshot


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
