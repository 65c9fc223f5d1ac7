"""The way to a machine: jump hosts, keys, host keys, ciphers, and a sentence for each way it can fail.

Fabric reads `~/.ssh/config` (aliases, jump hosts, proxy commands); its acceptance of unknown host keys is
replaced by refusal, on jump hosts too. Facts behind the settings: paramiko leaves Nagle's algorithm on, which
costs every command a 40 ms pause, and prefers AES-CTR with HMAC, at half the speed of AES-GCM.
"""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import os
import shlex
import socket
import stat
import subprocess
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import fabric
import paramiko

from orchestrator import pins
from orchestrator.errors import ContactLost, Refused
from orchestrator.machine import Machine, tunnel

CONNECT_TIMEOUT = 15.0
DEAD_AFTER_MS = 30_000  # sent data without an acknowledgement for so long: the link is gone
CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "aes128-ctr",
    "aes192-ctr",
    "aes256-ctr",
)
MACS = (
    "hmac-sha2-256-etm@openssh.com",
    "hmac-sha2-512-etm@openssh.com",
    "hmac-sha2-256",
    "hmac-sha2-512",
)
SYSTEM_KNOWN_HOSTS = "/etc/ssh/ssh_known_hosts"
HOST_KEY = "HostKey"  # the code of a refusal because a pinned machine showed another key
DEFAULT_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")


@dataclass(frozen=True)
class Hop:
    """One connection on the way, and the keys it does without because others can read them.

    `pinned` are the host keys of a rented machine, written down before the first contact; `through` is the
    program that is the line to it, where no port is open.
    """

    name: str
    connection: Any
    unsafe: list[Path]
    pinned: Sequence[str] = ()
    through: subprocess.Popen[bytes] | None = None


def connect(machine: Machine, patience: float = CONNECT_TIMEOUT) -> list[Hop]:
    """Open all of it: the jump hosts of `~/.ssh/config`, then the machine. Raises Refused, ContactLost.

    `patience` is how many seconds the nearest host has to accept a connection.
    """
    assert machine.host is not None
    try:
        pinned = pins.read(machine.id)
        target = _hop(machine.name, machine.host, machine.user, machine.port, machine.key, pinned)
        way = [*_jumps(target.connection), target]
        if machine.via:
            way = [_tunnelled(target, tunnel(machine))]
    except (paramiko.SSHException, KeyError, ValueError) as e:
        raise Refused(f"~/.ssh/config cannot be used for {machine.name} ({words(e)}): mend it") from e
    for before, hop in pairwise([None, *way]):
        assert hop is not None
        if before:
            hop.connection.gateway = before.connection
        try:
            if patience < CONNECT_TIMEOUT and not hop.connection.gateway and not hop.through:
                # Ours, for paramiko gives the exchange of keys no longer than the connection.
                address = hop.connection.host, hop.connection.port
                hop.connection.connect_kwargs["sock"] = socket.create_connection(address, patience)
            hop.connection.open()
        except (OSError, EOFError, paramiko.SSHException) as e:
            try:
                _explain(hop, e)
            finally:
                close(way)
    return way


def close(way: Sequence[Hop]) -> None:
    """Let go of the machine, then of what lies on the way."""
    for hop in reversed(way):
        transport = hop.connection.client.get_transport()
        proxy = hop.through or getattr(getattr(transport, "sock", None), "process", None)
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):  # the line may be dead
            hop.connection.close()
        if proxy:  # paramiko signals a proxy command, from its thread too, and never waits for its end
            if transport is not None:
                transport.join(CONNECT_TIMEOUT)
            proxy.kill()
            with proxy:
                pass


def _hop(
    name: str,
    host: str,
    user: str | None = None,
    port: int | None = None,
    key: str | None = None,
    pinned: Sequence[str] = (),
) -> Hop:
    """Not yet open. Offers safe keys alone, refuses unknown host keys, forwards no agent."""
    connection = fabric.Connection(
        host,
        user=user,
        port=port,
        gateway=False,
        connect_timeout=CONNECT_TIMEOUT,
        forward_agent=False,
        connect_kwargs={
            "look_for_keys": False,
            "transport_factory": _transport_for(pinned) if pinned else _transport,
            "banner_timeout": CONNECT_TIMEOUT,
            "auth_timeout": CONNECT_TIMEOUT,
        },
    )
    configured = [Path(p).expanduser() for p in connection.ssh_config.get("identityfile", [])]
    keys, unsafe = _keys(key, configured)
    connection.connect_kwargs["key_filename"] = [str(k) for k in keys]
    if pinned:  # what another machine showed at this address, or under this name, says nothing
        connection.client.set_missing_host_key_policy(_Pinned(pinned))
        return Hop(name, connection, unsafe, pinned)
    connection.client.set_missing_host_key_policy(_Reject())
    known = connection.ssh_config.get("userknownhostsfile", "~/.ssh/known_hosts").split()
    for path in (*known, SYSTEM_KNOWN_HOSTS):
        with contextlib.suppress(OSError):
            connection.client.load_system_host_keys(str(Path(path).expanduser()))
    return Hop(name, connection, unsafe)


def _tunnelled(hop: Hop, argv: Sequence[str]) -> Hop:
    """The hop with a program for its line.

    Over a socket, which tells paramiko of its end at once; its own proxy commands are asked again and again
    until the time is over. Raises ContactLost when the program cannot be started.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        line = theirs.fileno()
        try:
            program = subprocess.Popen(argv, stdin=line, stdout=line, stderr=subprocess.PIPE)
        except OSError as e:
            ours.close()
            raise ContactLost(
                f"cannot reach {hop.name} ({argv[0]}: {words(e)}): install {argv[0]} and repeat the command"
            ) from e
    hop.connection.gateway = None
    hop.connection.connect_kwargs["sock"] = ours
    return dataclasses.replace(hop, through=program)


def _jumps(connection: Any, seen: tuple[str, ...] = ()) -> list[Hop]:
    """The hosts to pass through, the nearest first. Left to itself fabric opens them with settings of its
    own, which accept any host key. A proxy command has no host key, and is left to fabric.
    """
    named = connection.ssh_config.get("proxyjump") or "none"
    if named == "none":
        connection.gateway = connection.ssh_config.get("proxycommand")
        return []
    first, *rest = [_hop(f"the jump host {name}", name) for name in named.split(",")]
    seen = (*seen, connection.original_host)
    if first.connection.original_host in seen:
        return []  # as ssh does: `Host *` names a jump host for the jump host too
    return [*_jumps(first.connection, seen), first, *rest]


class _UnknownHost(paramiko.SSHException):  # type: ignore[misc]
    def __init__(self, key: Any) -> None:
        super().__init__("unknown host key")
        self.key = key


class _Reject(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]
    def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:
        raise _UnknownHost(key)


class _Transport(paramiko.Transport):  # type: ignore[misc]
    """Remembers whether the other side said goodbye, which tells a refusal from a line that was cut."""

    said_goodbye = False

    def _parse_disconnect(self, message: Any) -> None:
        self.said_goodbye = True
        super()._parse_disconnect(message)


class _Pinned(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]
    """One of the keys that were written down, or no contact at all."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = [paramiko.PKey.from_type_string(k.split()[0], b64decode(k.split()[1])) for k in keys]

    def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:
        if key not in self._keys:
            raise paramiko.BadHostKeyException(hostname, key, self._keys[-1])


def _transport_for(keys: Sequence[str]) -> Any:
    """Only keys of the kinds that are pinned are asked for: another kind could not be compared."""

    def made(sock: Any, **options: Any) -> Any:
        transport = _transport(sock, **options)
        transport.get_security_options().key_types = tuple(dict.fromkeys(k.split()[0] for k in keys))
        return transport

    return made


def _transport(sock: Any, **options: Any) -> Any:
    with contextlib.suppress(OSError, AttributeError):  # a proxy command is no socket
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, "TCP_USER_TIMEOUT", 18), DEAD_AFTER_MS)
    transport = _Transport(sock, **options)
    security = transport.get_security_options()
    security.ciphers = CIPHERS
    security.digests = MACS
    return transport


def _keys(named: str | None, configured: list[Path]) -> tuple[list[Path], list[Path]]:
    """The key files to offer, and those left out because others may read them.

    Raises Refused when the key that was named is missing or readable by others.
    """
    unsafe: list[Path] = []
    if named is None:
        return _usable(configured or [Path.home() / ".ssh" / name for name in DEFAULT_KEYS], unsafe), unsafe
    key = Path(named).expanduser()
    if not key.is_file():
        raise Refused(f"there is no key file {key}: name another with --identity")
    if not _usable([key], unsafe):
        raise Refused(f"others can read the key {key}: 'chmod 600 {shlex.quote(str(key))}' and try again")
    return [key, *_usable([p for p in configured if p != key], unsafe)], unsafe


def _usable(candidates: list[Path], unsafe: list[Path]) -> list[Path]:
    usable: list[Path] = []
    for key in candidates:
        with contextlib.suppress(OSError):
            readable_by_others = key.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
            (unsafe if readable_by_others else usable).append(key)
    return usable


def _explain(hop: Hop, error: Exception) -> NoReturn:
    """One sentence for each way a connection can fail."""
    name, connection = hop.name, hop.connection
    host, port = connection.host, connection.port
    entry = shlex.quote(host if port == 22 else f"[{host}]:{port}")
    user = connection.user or getpass.getuser()
    by_hand = f"ssh -p {port} {user}@{host}"
    if isinstance(error, _UnknownHost):
        raise Refused(
            f"the host key of {name} is not known ({error.key.get_name()} {_fingerprint(error.key)}): "
            f"compare it with what the machine's owner or console says, then '{by_hand}' once and accept it"
        ) from error
    if isinstance(error, paramiko.BadHostKeyException) and hop.pinned:
        raise Refused(
            f"{name} does not show the host key it was given: {_fingerprint(error.key)} in place of "
            f"{_fingerprint(error.expected_key)}; somebody may be between you and it, so nothing was sent",
            code=HOST_KEY,
        ) from error
    if isinstance(error, paramiko.BadHostKeyException):
        raise Refused(
            f"the host key of {name} has changed, from {_fingerprint(error.expected_key)} to "
            f"{_fingerprint(error.key)}: somebody may be listening in; if the machine was made anew, "
            f"'ssh-keygen -R {entry}', then '{by_hand}' once and compare the key"
        ) from error
    if isinstance(error, paramiko.PasswordRequiredException):
        raise Refused(f"the key for {name} has a passphrase: 'ssh-add' it to an agent first") from error
    if isinstance(error, paramiko.ssh_exception.IncompatiblePeer):
        raise Refused(
            f"{name} offers no encryption that ec2emo trusts ({words(error)}): upgrade its sshd"
        ) from error
    transport = connection.client.get_transport()
    alive = transport is not None and (transport.is_active() or transport.said_goodbye)
    met = alive and transport.initial_kex_done
    refused = alive and isinstance(error, paramiko.AuthenticationException)
    if refused or (met and not isinstance(error, (OSError, EOFError))):
        names = ", ".join(map(str, hop.unsafe))
        left_out = f"; left out, because others can read them: {names}" if hop.unsafe else ""
        raise Refused(
            f"{name} does not accept {user} with your keys ({words(error)}){left_out}: try '{by_hand}', name "
            f"the user in --on and the key with --identity"
        ) from error
    if hop.through:
        by_hand = shlex.join(map(str, hop.through.args))  # type: ignore[arg-type]
    raise ContactLost(
        f"cannot reach {name} ({_last_words(hop) or words(error)}): check that it is on, and try '{by_hand}'"
    ) from error


def _last_words(hop: Hop) -> str:
    """What the program that was the line has said, when that is why there is none any more."""
    if hop.through is None or hop.through.stderr is None:
        return ""
    with contextlib.suppress(subprocess.TimeoutExpired):
        hop.through.wait(1.0)
        os.set_blocking(hop.through.stderr.fileno(), False)  # a child of its own may hold it open
        said = (hop.through.stderr.read() or b"").decode("utf-8", "replace").strip().splitlines()
        return said[-1][:300] if said else ""
    return ""


def _fingerprint(key: Any) -> str:
    return str(key.fingerprint)


def words(error: BaseException) -> str:
    """What an error says, in a few words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
