"""trainer/ and remote_env/ as one archive, named by the hash of what is in it."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import remote_env
import trainer

SENT = {".py", ".sh", ".lock"}  # nothing else leaves this machine with the code


@dataclass(frozen=True)
class Bundle:
    """The code that trains: `hash` names it, on the machine too."""

    hash: str
    archive: bytes
    files: dict[str, bytes]

    def lock_hash(self, name: str) -> str:
        """The name of the environment that a lock file describes; `bootstrap.sh` computes the same."""
        return hashlib.sha256(self.files[f"remote_env/{name}"]).hexdigest()[:16]


def make() -> Bundle:
    """Pack the code as it lies here now."""
    files = {}
    for package in (remote_env, trainer):
        folder = Path(str(package.__file__)).parent
        for path in sorted(folder.rglob("*")):
            if path.suffix in SENT and path.is_file():
                files[f"{folder.name}/{path.relative_to(folder).as_posix()}"] = path.read_bytes()
    listing = "".join(f"{hashlib.sha256(data).hexdigest()} {name}\n" for name, data in files.items())
    return Bundle(hashlib.sha256(listing.encode()).hexdigest()[:16], _tar(files), files)


def _tar(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            member.mode = 0o755 if name.endswith(".sh") else 0o644
            tar.addfile(member, io.BytesIO(data))
    return gzip.compress(packed.getvalue(), compresslevel=6, mtime=0)
