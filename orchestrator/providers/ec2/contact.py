"""The first contact with a machine we made: with the host key it was given, which it then replaces.

The key in the user data can be read by whoever may read user data, so the machine makes a new one, whose
public half comes home over the verified line. Each step can be repeated: until the new key has been seen in
use, both are accepted.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from orchestrator import pins
from orchestrator.errors import ContactLost, Refused, RunFailed
from orchestrator.machine import Machine
from orchestrator.providers.ec2 import clock
from orchestrator.shell import Shell

if TYPE_CHECKING:
    from orchestrator.ssh import SSHShell

BOOT_PATIENCE = 300.0  # seconds from running to the first answer on port 22
SETTLED_WITHIN = (
    90.0  # seconds for which sshd may still show its own key, or not know ours, at the first boot
)
ASK_EVERY = 1.0
ROTATED_WITHIN = 30.0

AS_ROOT = 'if [ "$(id -u)" = 0 ]; then exec sh -s -- "$@"; else exec sudo -n sh -s -- "$@"; fi'
ROTATE = rb"""
set -eu
umask 077
key=/etc/ssh/ssh_host_ed25519_key
case $1 in
make)
    if [ ! -f "$key.next" ]; then
        rm -f "$key.making" "$key.making.pub"
        ssh-keygen -q -t ed25519 -N '' -C '' -f "$key.making"
        mv -f "$key.making.pub" "$key.next.pub"
        mv -f "$key.making" "$key.next"
    fi
    cat "$key.next.pub"
    ;;
take)
    if [ -f "$key.next" ]; then
        cp -f "$key.next.pub" "$key.pub"
        chmod 644 "$key.pub"
        mv -f "$key.next" "$key"
    fi
    # As cloud-init prints keys; AWS shows the console to the account alone.
    (printf -- '-----BEGIN SSH HOST KEY KEYS-----\n%s\n-----END SSH HOST KEY KEYS-----\n' \
        "$(cat "$key.pub")" >/dev/console) 2>/dev/null || :
    systemctl restart ssh || systemctl restart sshd || service ssh restart
    ;;
esac
"""

Look = Callable[[], None]


def reach(machine: Machine, look: Look, *, within: float | None = None) -> SSHShell:
    """A shell on a machine that is booting. `look` is called now and then, to raise when it is gone.

    Raises ContactLost when it does not answer in time, which says nothing of how it is, and Refused when it
    goes on showing another host key, or knows nothing of our key.
    """
    from orchestrator.ssh import SSHShell

    within = BOOT_PATIENCE if within is None else within
    refused_since: float | None = None
    last: ContactLost | Refused | None = None
    for spent in clock.every(ASK_EVERY, within=within):
        if int(spent) % 10 == 9:
            look()
        try:
            return SSHShell(machine)
        except ContactLost as e:
            last = e
        except Refused as e:
            last = e
            refused_since = clock.now() if refused_since is None else refused_since
            if clock.now() - refused_since > SETTLED_WITHIN:
                break
    look()
    if isinstance(last, Refused):
        raise last
    raise ContactLost(
        f"{machine.name} runs, but nothing has answered on {machine.host}, port {machine.port or 22}, for "
        f"{within:.0f} s ({last}); it goes on costing: repeat the command, see its console with 'aws ec2 "
        f"get-console-output --latest --instance-id {machine.id}', or end it with 'ec2emo machines terminate "
        f"{machine.id}'"
    )


def rotate(machine: Machine, shell: SSHShell, look: Look) -> SSHShell:
    """Have the machine make a host key of its own; the shell that is returned has seen it in use."""
    assert machine.id is not None
    new = as_root(shell, ROTATE, "make").split()
    if new[:1] != ["ssh-ed25519"] or len(new) < 2:
        raise RunFailed(f"{machine.name} made no host key of its own: {' '.join(new)!r:.120}")
    key = " ".join(new[:2])
    before = pins.read(machine.id)
    pins.write(machine.id, *before, key)
    with contextlib.suppress(ContactLost):  # the answer may be lost with the restart
        as_root(shell, ROTATE, "take")
    shell.close()
    probe = dataclasses.replace(machine)
    pins.write(machine.id, key)
    try:
        return reach(probe, look, within=ROTATED_WITHIN)
    except BaseException:
        pins.write(machine.id, *before, key)
        raise


def as_root(shell: Shell, script: bytes, *argv: str) -> str:
    """What a script prints that was run as root. Raises RunFailed."""
    done = shell.run(["sh", "-c", AS_ROOT, "as_root", *argv], stdin=script)
    if done.code != 0:
        raise RunFailed(f"the machine did not do as told ({done.last_error}): look with 'ec2emo ssh'")
    return done.out.decode("utf-8", "replace")
