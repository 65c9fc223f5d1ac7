"""What a machine does at its first boot, before anybody can reach it: a small sh script, run once as root.

It arms the machine's end before all else, takes the host key we know, lets us in, and starts the guard. It
fetches nothing: the code comes later, over the verified line. Its only secret is the temporary host key.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from typing import Literal

from orchestrator import bundle

MOST_BYTES = 16384  # what EC2 takes, before base64
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/@:+=-]*")
KEY_LINE = re.compile(r"(ssh|ecdsa)-[a-z0-9-]+ [A-Za-z0-9+/=]+( [A-Za-z0-9._@-]*)?")
PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]+-----\n[A-Za-z0-9+/=\n]+-----END [A-Z ]+-----\n?")

SCRIPT = """\
#!/bin/sh
# The first boot of a machine for the ec2emo run @RUN@: as root, once.
shutdown -h +@MINUTES@
set -u
umask 077

# The host key that is known at home; it is replaced at the first contact.
rm -f /etc/ssh/ssh_host_*
cat >/etc/ssh/ssh_host_ed25519_key <<'EC2EMO_EOF'
@HOST_KEY@
EC2EMO_EOF
echo '@HOST_KEY_PUBLIC@' >/etc/ssh/ssh_host_ed25519_key.pub
chmod 644 /etc/ssh/ssh_host_ed25519_key.pub
systemctl restart ssh || systemctl restart sshd || service ssh restart

user=@USER@
home=$(getent passwd "$user" | cut -d: -f6)
group=$(id -gn "$user")
mkdir -p "$home/.ssh"
echo '@AUTHORIZED_KEY@' >>"$home/.ssh/authorized_keys"
chown "$user:$group" "$home/.ssh" "$home/.ssh/authorized_keys"

umask 022
root=$home/.ec2emo
mkdir -p "$root/guard"
chown "$user:$group" "$root"
cat >"$root/guard/guard.json" <<'EC2EMO_EOF'
@CONFIG@
EC2EMO_EOF
cat >"$root/guard/guard.py" <<'EC2EMO_EOF'
@GUARD@
EC2EMO_EOF
if [ -d /run/systemd/system ]; then
    cat >/etc/systemd/system/ec2emo-guard.service <<EC2EMO_EOF
[Unit]
Description=ends this machine when its work is done, or its limit is reached
[Service]
ExecStart=$(command -v python3) -IS $root/guard/guard.py $root
Restart=always
RestartSec=5
[Install]
WantedBy=multi-user.target
EC2EMO_EOF
    systemctl daemon-reload
    systemctl enable --now ec2emo-guard.service
else
    setsid python3 -IS "$root/guard/guard.py" "$root" </dev/null >>"$root/guard/guard.log" 2>&1 &
fi
"""


@dataclass(frozen=True)
class Boot:
    """What the first boot is told. Money is US dollars.

    `ttl_minutes` is the longest the machine may be up; `max_cost_usd` may be reached earlier, at
    `usd_per_hour`, which for an unknown price is the worst known one. `after` is what a shutdown does to the
    machine, as it was launched: terminate or stop; keep means that only a limit ends it. `bucket` and
    `prefix` say where runs are mirrored, `region` where that is.
    """

    run: str
    owner: str
    host_key_private: str
    host_key_public: str
    authorized_key: str
    user: str
    ttl_minutes: int
    after: Literal["terminate", "stop", "keep"]
    idle_minutes: int
    max_cost_usd: float | None
    usd_per_hour: float | None
    region: str
    bucket: str | None
    prefix: str | None

    def __post_init__(self) -> None:
        """Raises ValueError for what must never reach a root shell, and for a cap without a price."""
        for name in ("run", "user", "region", "bucket", "prefix"):
            value = getattr(self, name)
            if value is not None and not PLAIN.fullmatch(value):
                raise ValueError(f"{name} {value!r:.80} is not fit for a script")
        for name in ("host_key_public", "authorized_key"):
            if not KEY_LINE.fullmatch(getattr(self, name)):
                raise ValueError(f"{name} is not one line of an OpenSSH public key")
        if not PRIVATE_KEY.fullmatch(self.host_key_private):
            raise ValueError("host_key_private is not an OpenSSH private key")
        if self.max_cost_usd is not None and not self.usd_per_hour:
            raise ValueError("a cap on cost needs a price: take the worst known one")

    @property
    def minutes(self) -> int:
        """The longest the machine may be up, by both limits."""
        if self.max_cost_usd is None or not self.usd_per_hour:
            return max(1, self.ttl_minutes)
        return max(1, min(self.ttl_minutes, int(self.max_cost_usd / self.usd_per_hour * 60)))


def render(boot: Boot) -> str:
    """The script, at most 16 KiB. Raises ValueError when it is longer."""
    filled = {
        "RUN": boot.run,
        "MINUTES": str(boot.minutes),
        "HOST_KEY": boot.host_key_private.strip(),
        "HOST_KEY_PUBLIC": boot.host_key_public,
        "USER": boot.user,
        "AUTHORIZED_KEY": boot.authorized_key,
        "CONFIG": limits(boot).decode().strip(),
        "GUARD": bundle.make().files["remote_env/guard.py"].decode().strip(),
    }
    script = re.sub("@([A-Z_]+)@", lambda match: filled[match[1]], SCRIPT)
    if len(script.encode()) > MOST_BYTES:
        raise ValueError(f"user data of {len(script.encode())} bytes, and EC2 takes {MOST_BYTES}")
    return script


def limits(boot: Boot, since: float | None = None) -> bytes:
    """What guard.json says. Root may put it in place of the one there to grant new limits, which then count
    from `since`, seconds since 1970; without it they count from the latest boot.
    """
    kept = {f.name for f in dataclasses.fields(Boot)} - {
        "host_key_private",
        "host_key_public",
        "authorized_key",
    }
    body = {name: getattr(boot, name) for name in sorted(kept)}
    return json.dumps({**body, "since": since}, indent=2).encode() + b"\n"
