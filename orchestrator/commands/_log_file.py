"""`ec2emo monitor --log-file`: a log of any Keras program."""

from __future__ import annotations

import typer

from orchestrator import providers, settings, view
from orchestrator.errors import ContactLost, RunFailed
from orchestrator.logfile import LogFollower, LogSnapshot, answer
from orchestrator.progress import Snapshot
from orchestrator.published import TICKING


def monitor(
    path: str, on: str | None, identity: str | None, *, follow: bool, log: bool, lines: int, json: bool
) -> Snapshot:
    """Show it once or follow it; answers what was seen last."""
    found = settings.read()
    where, key = on or found.on or "local", identity or found.identity
    wish = providers.wish_for(where, key)
    machine = providers.load(wish.provider).acquire(wish, None)
    follower = LogFollower(machine, path, where, log_lines=max(lines, 200))
    try:
        return _log(follower, follow, lines) if log else _numbers(follower, follow, lines, json)
    except KeyboardInterrupt:
        view.say(f"left {path}, which is written on: '{follower.command('running')}' comes back")
        raise typer.Exit(130) from None
    finally:
        follower.close()


def _numbers(follower: LogFollower, follow: bool, lines: int, json: bool) -> Snapshot:
    if json:
        return _stream(follower) if follow else _printed(follower.once())
    if follow:
        return view.follow(follower.snapshots(), log_lines=lines)
    snapshot = follower.once()
    view.show(snapshot, log_lines=lines)
    view.fits_table(answer(snapshot)["fits"])
    return snapshot


def _printed(snapshot: LogSnapshot) -> LogSnapshot:
    view.json_line(answer(snapshot))
    return snapshot


def _stream(follower: LogFollower) -> Snapshot:
    shown = None
    for snapshot in follower.snapshots():
        now = {k: v for k, v in answer(snapshot).items() if k not in TICKING}
        if now != shown:
            _printed(snapshot)
            shown = now
    return snapshot


def _log(follower: LogFollower, follow: bool, lines: int) -> Snapshot:
    shown: int | None = None
    for snapshot in follower.snapshots() if follow else [follower.once()]:
        wanted = lines if shown is None else snapshot.log_count - shown
        for line in snapshot.log[max(0, len(snapshot.log) - wanted) :] if wanted > 0 else ():
            view.data(view.plain(line.rpartition("\r")[2] or line))
        shown = snapshot.log_count
    return snapshot


def exit_as(snapshot: Snapshot) -> None:
    """Exit as the program did."""
    name, verdict = snapshot.run.id, snapshot.verdict
    if verdict.state in ("failed", "lost"):
        how = "failed" if verdict.state == "failed" else "was lost"
        raise RunFailed(f"the program of {name} {how}: {verdict.error}; '{snapshot.next}' shows more")
    if verdict.state == "unreachable":
        where = snapshot.run.where
        raise ContactLost(f"{where} is out of reach, and the program may well go on: {verdict.reason}")
