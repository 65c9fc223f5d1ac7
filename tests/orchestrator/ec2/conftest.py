"""A test cloud, and an ec2emo that believes it is AWS."""

from __future__ import annotations

import base64
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator.machine import Terms
from orchestrator.providers import Errand
from orchestrator.run import Run
from orchestrator.store import Store
from tests.conftest import Ec2emo
from trainer import contract

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud

NEVER = 1e9  # seconds
TWO = ("g4dn.xlarge", "g5.xlarge")  # types; the whole ladder only takes longer


@pytest.fixture
def at_home(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The test's own process is the user's computer: its AWS is the test cloud, its time the cloud's."""
    from orchestrator.providers.ec2 import api, clock

    for name, value in environment(cloud).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("EC2EMO_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(clock, "now", cloud.clock.now)
    monkeypatch.setattr(clock, "sleep", cloud.clock.advance)
    api.connected.cache_clear()
    yield Store()
    api.connected.cache_clear()


@pytest.fixture
def renting(cloud: Cloud, ec2emo: Ec2emo) -> Ec2emo:
    """The program as a user would start it, on the test cloud."""
    ec2emo.env.update(environment(cloud))
    return ec2emo


def environment(cloud: Cloud) -> dict[str, str]:
    """What ec2emo needs to know of the cloud."""
    return {**cloud.environment, "EC2EMO_ADDRESS_SERVICE": cloud.address_url}


def user_data(cloud: Cloud, instance_id: str) -> str:
    """What the machine was told at its launch."""
    ec2 = cloud.client("ec2")
    told = ec2.describe_instance_attribute(InstanceId=instance_id, Attribute="userData")
    return base64.b64decode(told["UserData"]["Value"]).decode()


def errand(store: Store, terms: Terms | None = None, name: str = "a-run") -> Errand:
    """A run that is written down and wants a machine."""
    terms = terms or Terms()
    terms = terms if terms.instance_types else dataclasses.replace(terms, instance_types=TWO)
    spec = contract.Spec(
        run=name, recipe="v9_attention", data="", fingerprint="", epochs=1, batch_size=8, uid=f"uid-of-{name}"
    )
    run = Run(name, spec, where="ec2", data="demo", created=time.time(), terms=terms)
    if name not in store.ids():
        store.create(run)
    return Errand(run, store, lambda sentence: None)
