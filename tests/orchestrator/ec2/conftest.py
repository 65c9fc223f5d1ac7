"""A test cloud, and an ec2emo that believes it is AWS."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.conftest import Ec2emo

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cloud.cloud import Cloud


@pytest.fixture
def at_home(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The test's own process is the user's computer: its AWS is the test cloud, its home is empty."""
    from orchestrator.providers.ec2 import api

    for name, value in environment(cloud).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("EC2EMO_HOME", str(tmp_path / "home"))
    api.connected.cache_clear()
    yield tmp_path / "home"
    api.connected.cache_clear()


@pytest.fixture
def renting(cloud: Cloud, ec2emo: Ec2emo) -> Ec2emo:
    """The program as a user would start it, on the test cloud."""
    ec2emo.env.update(environment(cloud))
    return ec2emo


def environment(cloud: Cloud) -> dict[str, str]:
    """What ec2emo needs to know of the cloud."""
    return {**cloud.environment, "EC2EMO_ADDRESS_SERVICE": cloud.address_url}
