"""Any host you reach by SSH: `ssh://[user@]host[:port]`, or a name from `~/.ssh/config`."""

from __future__ import annotations

import re
from pathlib import Path

from orchestrator.errors import BadRequest
from orchestrator.machine import Machine
from orchestrator.providers import Errand, Wish

HELP = "'ssh://user@host:port' or a Host of ~/.ssh/config for a machine of yours"
HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
ADDRESS = re.compile(
    rf"ssh://(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]*\$?)@)?"
    rf"(?:(?P<host>{HOST.pattern})|\[(?P<ipv6>[0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.-]+)?)\])"
    rf"(?::(?P<port>[0-9]{{1,5}}))?/?"
)


def claim(where: str, key: str | None) -> Wish | None:
    """Ours are ssh:// addresses and the plain hosts named in the user's ssh configuration."""
    if where.startswith("ssh://"):
        _parts(where)
        return Wish("attached", where, key)
    return Wish("attached", where, key) if where in _hosts_in_config() else None


def acquire(wish: Wish, errand: Errand | None) -> Machine:
    """The host as it was named; whether it answers shows when it is spoken to."""
    key = str(Path(wish.key).expanduser().absolute()) if wish.key else None
    if not wish.where.startswith("ssh://"):
        return Machine("attached", host=wish.where, key=key)
    user, host, port = _parts(wish.where)
    return Machine("attached", host=host, user=user, port=port, key=key)


def _parts(where: str) -> tuple[str | None, str, int | None]:
    """User, host and port; the host's letters stay as they are, for it may be an alias."""
    match = ADDRESS.fullmatch(where)
    port = int(match["port"]) if match and match["port"] else None
    if not match or (port is not None and not 0 < port < 65536):
        raise BadRequest(f"--on {where!r:.100} is not of the form ssh://user@host:port")
    return match["user"], match["host"] or match["ipv6"], port


def _hosts_in_config() -> set[str]:
    try:
        lines = (Path.home() / ".ssh" / "config").read_text(errors="replace").splitlines()
    except OSError:
        return set()
    words = [line.replace("=", " ").split() for line in lines]
    named = {name for first, *names in filter(None, words) if first.lower() == "host" for name in names}
    return {name for name in named if HOST.fullmatch(name)}
