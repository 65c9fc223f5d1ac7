"""`ec2emo ssh`."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from orchestrator import aliases, pins, view
from orchestrator.errors import BadRequest
from orchestrator.machine import Machine, tunnel
from orchestrator.store import Store


def command(
    run: Annotated[
        str | None, typer.Argument(help="A run, or the beginning of its name; else the latest.")
    ] = None,
    print_: Annotated[bool, typer.Option("--print", help="Print the command, and do not run it.")] = False,
    config: Annotated[
        bool, typer.Option("--config", help="Let 'ssh ec2emo-RUN', scp and editors find every run.")
    ] = False,
) -> None:
    """Attach to a run on its machine: tmux, or its log.

    Leave with Ctrl-B D (tmux) or Ctrl-C (log); the run goes on.

    --config adds one line to ~/.ssh/config, which includes a file of ec2emo's for each run. It asks first;
    without a terminal it only prints the line.

    Example: ec2emo ssh
    """
    store = Store()
    if config:
        _include(store)
        return
    chosen = store.find(run)
    if chosen.machine is None:
        raise BadRequest(f"{chosen.id} never reached a machine", run=chosen.id)
    argv = _argv(chosen.machine, f"ec2emo-{chosen.id}", f"{chosen.folder}/train.log")
    if print_:
        view.data(shlex.join(argv))
        return
    if not sys.stdin.isatty():
        raise BadRequest("'ec2emo ssh' needs a terminal; --print shows the command it would run")
    try:
        os.execvp(argv[0], argv)
    except FileNotFoundError as e:
        raise BadRequest(f"there is no {argv[0]} on this machine: install openssh-client") from e


def _include(store: Store) -> None:
    """The files of the runs there are, and the line that leads to them, now and of later ones."""
    readable, _ = store.all()
    named = [aliases.alias(run) for run in readable if aliases.write(store, run)]
    path, line = Path.home() / ".ssh" / "config", aliases.include(store)
    if aliases.is_included(store, path):
        view.say(f"{path} includes them already")
    elif not sys.stdin.isatty():
        view.data(line)
        view.say(f"put this line first in {path}")
    else:
        view.say(line)
        if not view.confirm(f"Put this line first in {path}?"):
            view.say("nothing was changed")
            return
        aliases.add(store, path)
        view.say(f"added; 'ssh {named[-1] if named else 'ec2emo-RUN'}' works from now on", level="good")


def _argv(machine: Machine, session: str, log: str) -> list[str]:
    script = 'tmux attach-session -t "=$1" 2>/dev/null || exec tail -n 50 -F "$2"'
    there = ["sh", "-c", script, "attach", session, log]
    if machine.host is None:
        return there
    argv = ["ssh", "-t", "-o", "ForwardAgent=no", "-o", "StrictHostKeyChecking=yes"]
    if machine.id and pins.read(machine.id):
        argv += ["-o", f"HostKeyAlias={machine.id}", "-o", f"UserKnownHostsFile={pins.path(machine.id)}"]
    if machine.via:
        argv += ["-o", f"ProxyCommand={shlex.join(tunnel(machine))}"]
    if machine.port:
        argv += ["-p", str(machine.port)]
    if machine.key:
        argv += ["-i", machine.key]
    target = f"{machine.user}@{machine.host}" if machine.user else machine.host
    return [*argv, "--", target, shlex.join(there)]
