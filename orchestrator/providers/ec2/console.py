"""What a machine says of its host keys on its console, which AWS shows to the account alone: another way to
learn them than the line that they verify.

cloud-init prints them once, at the end of a machine's first boot, after the user data have run; of a machine
we made that is the key we gave it. At the first contact it makes another and prints that too
(`contact.ROTATE`), so the pinned key is confirmed by it, and by nothing less: whoever had the boot key and
answered in the machine's place could not print there. Types other than ed25519 say nothing, since sshd may
have made them by itself. A console may be minutes late, and a machine that was stopped begins a new one.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from typing import Literal

from orchestrator import pins
from orchestrator.errors import Ec2emoError, Refused
from orchestrator.lease import Lease
from orchestrator.providers.ec2.api import Aws

BLOCK = re.compile(r"-----BEGIN SSH HOST KEY KEYS-----\s*(.*?)\s*-----END SSH HOST KEY KEYS-----", re.DOTALL)
KEY = re.compile(r"(ssh-ed25519|ecdsa-sha2-nistp256|ssh-rsa) ([A-Za-z0-9+/=]{60,2000})")

Answer = Literal["confirmed", "boot key", "nothing", "another"]
SENTENCES: dict[Answer, str] = {
    "confirmed": "its console shows the key that is pinned",
    "boot key": "its console shows the key of its first boot, and not yet the one made at the first contact",
    "nothing": "its console shows no host key: not yet, or no longer, as after a stop",
}


def keys(aws: Aws, instance_id: str) -> list[list[str]]:
    """The host keys it shows, one list for each time they were printed, the latest last; none is no error."""
    for latest in ({"Latest": True}, {}):
        try:
            said = aws.ask("ec2", "get_console_output", InstanceId=instance_id, **latest).get("Output") or ""
        except Ec2emoError:
            continue  # only some types have the latest output
        if shown := printed(_text(said)):
            return shown
    return []


def printed(text: str) -> list[list[str]]:
    """The blocks of keys in a console's text. Pure."""
    blocks = ([" ".join(key) for key in KEY.findall(block)] for block in BLOCK.findall(text))
    return [block for block in blocks if block]


def judge(shown: Sequence[Sequence[str]], pinned: Sequence[str], boot: str | None) -> Answer:
    """What a console says of the key that is pinned, and of the one given at the boot. Pure."""
    seen = set(_of_our_type(shown))
    if seen & set(pinned):
        return "confirmed"
    if not seen:
        return "nothing"
    return "boot key" if seen == {boot} else "another"


def _of_our_type(shown: Sequence[Sequence[str]]) -> list[str]:
    return [key for block in shown for key in block if key.startswith("ssh-ed25519 ")]


def confirm(aws: Aws, lease: Lease) -> Answer:
    """Ask the console of a machine we made, once, waiting for nothing.

    Raises Refused when it shows a key that is neither the pinned one nor that of the boot.
    """
    assert lease.instance is not None
    shown, pinned = keys(aws, lease.instance), pins.read(lease.instance)
    answer = judge(shown, pinned, lease.host_key)
    if answer == "another":
        raise Refused(
            f"{lease.instance} has the host key {fingerprint(_of_our_type(shown)[-1])} by its console, and "
            f"{' or '.join(map(fingerprint, pinned)) or 'none'} is pinned for it: another machine may have "
            f"answered in its place, or its keys were made anew; nothing more is sent to it: 'ec2emo "
            f"machines terminate {lease.instance}', then deploy again",
            run=lease.run,
        )
    return answer


def fingerprint(key: str) -> str:
    """As `ssh-keygen -l` prints it."""
    digest = hashlib.sha256(base64.b64decode(key.split()[1])).digest()
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def _text(said: str) -> str:
    """boto3 decodes the console's base64 by itself; a console that is none stays as it is."""
    if "SSH HOST KEY" in said:
        return said
    try:
        return base64.b64decode(said, validate=True).decode("utf-8", "replace")
    except ValueError:
        return said
