"""`ec2emo doctor`."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from orchestrator import bundle, providers, remote, settings, view
from orchestrator.connect import open_shell
from orchestrator.errors import Ec2emoError
from orchestrator.providers import Wish
from orchestrator.store import Store

Finding = tuple[str, str, str, str]  # what, ok | warn | fail, found, what to do
CLOCK_TOLERANCE = 300.0
LITTLE_ROOM = 5_000_000_000


def command(
    on: Annotated[
        str | None, typer.Option(help="Also look at this place; else at that of ec2emo.toml.")
    ] = None,
    identity: Annotated[Path | None, typer.Option(help="The private key for SSH.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Look for what could stand in the way, here and there.

    Example: ec2emo doctor --on ssh://ubuntu@gpu.example.org

    Example: ec2emo doctor --on ec2
    """
    findings = list(_all(on, str(identity) if identity else None))
    if json:
        for what, level, found, todo in findings:
            view.json_line({"check": what, "level": level, "found": found, "do": todo})
    else:
        view.doctor_table(findings)
    if any(level == "fail" for _, level, _, _ in findings):
        raise typer.Exit(2)


def _all(on: str | None, key: str | None) -> Iterator[Finding]:
    yield ("python", "ok", sys.version.split()[0], "")
    yield _home()
    train = remote.trains_here()
    yield (
        "train extra",
        "ok" if train else "warn",
        "installed" if train else "not installed here",
        "" if train else "only '--on local' needs it, and makes an environment of its own without it",
    )
    for program, needed in (
        ("tmux", "'ec2emo ssh' on local runs"),
        ("ssh", "'ec2emo ssh' on other machines"),
    ):
        there = shutil.which(program)
        yield (program, "ok" if there else "warn", there or "not found", "" if there else f"for {needed}")
    try:
        here = settings.read()
    except Ec2emoError as e:
        yield ("settings", "fail", str(e), "mend the file")
        return
    yield (
        "settings",
        "ok" if here.path else "warn",
        str(here.path or "no ec2emo.toml"),
        "" if here.path else "'ec2emo init' writes one",
    )
    where = on or here.on or "local"
    try:
        wish = providers.wish_for(where, key or here.identity)
    except Ec2emoError as e:
        yield (where, "fail", str(e), "see the sentence beside")
        return
    renter = providers.renter(wish.provider)
    yield from renter.checks(wish, here.ec2) if renter else _place(wish)


def _home() -> Finding:
    root = Store().root
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = root / ".doctor"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as e:
        return ("home", "fail", f"{root}: {e.strerror}", "set EC2EMO_HOME to a folder you may write to")
    return ("home", "ok", str(root), "")


def _place(wish: Wish) -> Iterator[Finding]:
    """The machine itself, as a deploy would find it."""
    where = wish.where
    try:
        machine = providers.load(wish.provider).acquire(wish, None)
        code = bundle.make()
        began = time.monotonic()
        with open_shell(machine) as shell:
            facts = remote.probe(shell, machine, code)
    except Ec2emoError as e:
        yield (where, "fail", str(e), "see the sentence beside")
        return
    seconds = time.monotonic() - began
    yield (where, "ok", f"{facts.user}@{facts.host}, {facts.system}, answers in {seconds:.2f} s", "")
    yield (
        "python there",
        "ok" if facts.python3 else "fail",
        "python3" if facts.python3 else "no python3",
        "" if facts.python3 else "install Python 3.11 or later there",
    )
    ready = facts.env or (machine.provider == "local" and remote.trains_here())
    yield (
        "environment there",
        "ok" if ready else "warn",
        "ready" if ready else "not made yet",
        "" if ready else "the first deploy makes it, which takes minutes",
    )
    yield (
        "tmux there",
        "ok" if facts.tmux else "warn",
        "yes" if facts.tmux else "no",
        "" if facts.tmux else "runs outlive you without it too; with it 'ec2emo ssh' attaches",
    )
    yield (
        "GPUs there",
        "ok" if facts.gpus else "warn",
        str(facts.gpus),
        "" if facts.gpus else "training on CPU",
    )
    room = f"{facts.free_bytes / 1e9:.1f} GB free in {facts.root}"
    yield ("disk there", "ok" if facts.free_bytes > LITTLE_ROOM else "warn", room, "")
    skew = abs(facts.now - time.time())
    level = "ok" if skew < CLOCK_TOLERANCE else "warn"
    yield ("clock there", level, f"{skew:.0f} s apart", "" if level == "ok" else "set the clock there")
