"""Keys: the user's own for logging in, and the first host key of each machine we make.

Both are ed25519 and made here. A private key is 0600 from its first byte, whatever the umask says.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from orchestrator.errors import BadRequest, Ec2emoError, Refused
from orchestrator.providers.ec2 import tags
from orchestrator.providers.ec2.api import Aws
from orchestrator.store import Store, home
from trainer import contract

USER_KEY = "id_ed25519"


def user_key() -> Path:
    """The private key this user logs in with on machines ec2emo made; made once.

    Raises Refused when others can read it, BadRequest when it cannot be written.
    """
    path = home() / "keys" / USER_KEY
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            _write_private(path, _generate(), replace=False)
        mode = path.lstat()
    except OSError as e:
        raise BadRequest(
            f"cannot keep a key in {path} ({e.strerror}): set EC2EMO_HOME to another folder"
        ) from e
    if not stat.S_ISREG(mode.st_mode) or mode.st_uid != os.getuid() or mode.st_mode & 0o077:
        raise Refused(
            f"{path} is not yours alone: 'chmod 600 {path}', or move it away to have a new one made"
        )
    return path


def public_half(private: Path) -> str:
    """`ssh-ed25519 AAAA…`, as it stands in authorized_keys."""
    try:
        return _public(private.read_bytes())
    except OSError as e:
        raise Refused(f"cannot read the key {private}: {e.strerror}") from e


def host_key(store: Store, run_id: str) -> tuple[str, str]:
    """The private and the public half of the key a machine shows first; made once for each machine.

    It lies in the run's folder until the machine has made one of its own.
    """
    path = _host_key_path(store, run_id)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_private(path, _generate(), replace=False)
    private = path.read_bytes()
    return private.decode(), _public(private)


def forget_host_key(store: Store, run_id: str) -> None:
    """It has done its service."""
    _host_key_path(store, run_id).unlink(missing_ok=True)


def imported(aws: Aws, owner: str, public: str) -> str:
    """The name under which EC2 knows the public key; imported where it does not."""
    name = key_name(owner, public)
    try:
        aws.ask(
            "ec2",
            "import_key_pair",
            KeyName=name,
            PublicKeyMaterial=public.encode(),
            TagSpecifications=tags.specification(["key-pair"], {tags.OWNER: owner, "Name": name}),
        )
    except Ec2emoError as e:
        if e.code != "InvalidKeyPair.Duplicate":
            raise
    return name


def own_name(owner: str) -> str | None:
    """The name of this computer's key in EC2; None while there is no key here."""
    path = home() / "keys" / USER_KEY
    return key_name(owner, public_half(path)) if path.exists() else None


def key_name(owner: str, public: str) -> str:
    """Of its content, so that two computers of one person have two."""
    import hashlib

    return f"ec2emo-{owner[:60]}-{hashlib.sha256(public.encode()).hexdigest()[:12]}"


def _host_key_path(store: Store, run_id: str) -> Path:
    return store.dir(run_id).root / ".host-key"


def _generate() -> bytes:
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )


def _public(private: bytes) -> str:
    try:
        key = serialization.load_ssh_private_key(private, password=None)
    except (ValueError, TypeError) as e:
        raise Refused("a key of ec2emo's own is damaged: move it away to have a new one made") from e
    encoded = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return encoded.decode()


def _write_private(path: Path, data: bytes, *, replace: bool) -> None:
    """Whole or not there, and never readable by others; of two at once the first stays."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(fd, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        if replace:
            aside.replace(path)
        else:
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    contract.sync_folder(path.parent)
