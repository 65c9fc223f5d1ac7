"""The fixture `cloud`: an empty account for each test, before one moto for all of them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # what is imported here is imported for every test
    from tests.cloud.cloud import Cloud
    from tests.cloud.image import Image
    from tests.cloud.moto import Moto


def cannot_boot() -> str:
    """Why no instance can boot on this machine; empty when one can."""
    if os.geteuid() != 0:
        return "instances of the test cloud need root"
    for program in ("unshare", "setpriv", "sshd"):
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") is None:
            return f"instances of the test cloud need {program}"
    tried = subprocess.run(
        ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "true"], capture_output=True, check=False
    )
    return "" if tried.returncode == 0 else "this machine gives no namespaces to the test cloud"


@pytest.fixture(scope="session")
def cloud_moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moto]:
    from tests.cloud.moto import Moto

    server = Moto(tmp_path_factory.mktemp("moto") / "log")
    server.ready()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def cloud_image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    if why := cannot_boot():
        pytest.skip(why)
    from tests.cloud.image import Image

    return Image(tmp_path_factory.mktemp("image"))


@pytest.fixture
def cloud(cloud_moto: Moto, cloud_image: Image, tmp_path: Path) -> Iterator[Cloud]:
    from tests.cloud.cloud import Cloud

    cloud_moto.reset()
    made = Cloud(cloud_moto, cloud_image, tmp_path / "cloud")
    yield made
    made.close()
