"""SIGKILL before and after every write and every effect in EC2, and every answer lost: nothing leaks.

The story that is killed: a run is written down, a machine is launched for it, seen running, and terminated
with all that was made around it. Then, in another process, either `gc` finds out and removes, or the same
command is typed again. Machines do not boot here; that they can be lost does not depend on it.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from orchestrator.errors import Ec2emoError
from orchestrator.providers.ec2 import api, clock, lifecycle, provision, sweep
from orchestrator.store import Store
from tests.crashes import crash_points, dies
from tests.orchestrator.ec2.conftest import errand

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud

# Of the cloud's seconds in one of ours. Not more: its time goes on while it works on a request, and what
# takes it a second on a busy machine must stay within the minute that a request may be under way.
SPEED = 50.0
EVERY_FILE = 9  # by default every so many of the writes
EVERY_CALL = 5
EVERY_LOSS = 4


@pytest.fixture(autouse=True)
def fast(cloud: Cloud, at_home: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time runs alike here, in the cloud, and in the processes that are killed."""
    cloud.boots = False
    cloud.clock.speed = SPEED
    monkeypatch.setattr(clock, "sleep", lambda seconds: time.sleep(seconds / SPEED))
    cloud.visibility_delay = 30.0


def story(name: str) -> Callable[[], None]:
    """From the wish to the end, on a connection of its own."""

    def told() -> None:
        api.connected.cache_clear()  # a socket that two processes share carries two conversations
        store = Store()
        with provision.standing(errand(store, name=name)):
            pass
        lifecycle.terminate(store, name, None)

    return told


class Matrix:
    """What every point is followed by, and what must then hold."""

    def __init__(self, cloud: Cloud, store: Store) -> None:
        self.cloud, self.store, self.points = cloud, store, 0

    def after(self, name: str) -> None:
        """Recover in one of two ways, in turn, and look for what is left."""
        self.points += 1
        self.cloud.faults.kill, self.cloud.faults.lose = None, set()
        if self.points % 2 and name in self.store.ids() and self._open(name):
            with provision.standing(errand(self.store, name=name)) as (book, _, _):
                assert [i.id for i in self.cloud.living()] == [book.lease.instance]
            lifecycle.terminate(self.store, name, None)
        sweep.collect(self.store, None, lambda sentence: None, remove=True)
        assert left(self.cloud) == []
        born = Counter(
            (tags["ec2emo:run"], tags["ec2emo:attempt"])
            for tags in (_tags(i) for i in self.cloud.instances.all.values())
        )
        assert max(born.values(), default=1) == 1, f"two machines for one attempt: {born}"
        lease = self.store.lease(name)
        assert lease is None or lease.ended is not None

    def _open(self, name: str) -> bool:
        lease = self.store.lease(name)
        return lease is not None and lease.ended is None


def left(cloud: Cloud) -> list[str]:
    """Everything of ours there is in the cloud."""
    ec2 = cloud.moto.client("ec2", cloud.region)
    groups = [
        g["GroupId"] for g in ec2.describe_security_groups()["SecurityGroups"] if g["GroupName"] != "default"
    ]
    templates = [t["LaunchTemplateName"] for t in ec2.describe_launch_templates()["LaunchTemplates"]]
    disks = [v["VolumeId"] for v in ec2.describe_volumes()["Volumes"]]
    keys = [k["KeyName"] for k in ec2.describe_key_pairs()["KeyPairs"]]
    return [i.id for i in cloud.living()] + groups + templates + disks + keys


def _tags(instance: object) -> dict[str, str]:
    specs = instance.launch.request["TagSpecifications"]  # type: ignore[attr-defined]
    return {t["Key"]: t["Value"] for s in specs if s["ResourceType"] == "instance" for t in s["Tags"]}


def by_writes(cloud: Cloud, every: int) -> Iterator[str]:
    """Killed right before a change of the file system here."""
    names = iter(f"file-{n}" for n in range(10_000))
    current = ""

    def prepare() -> None:
        nonlocal current
        current = next(names)

    for _ in crash_points(prepare, lambda: story(current)(), first=2, every=every):
        yield current


def by_calls(cloud: Cloud, every: int) -> Iterator[str]:
    """Killed right before or right after the effect of a call that changes something."""
    for number in range(every, 10_000, every):
        name = f"call-{number}"
        cloud.kill_at(number)
        if not dies(story(name)):
            return
        yield name


def by_answers(cloud: Cloud, every: int) -> Iterator[str]:
    """The answer to such a call is lost, and again when it is asked for anew; nobody dies."""
    for number in range(1, 10_000, every):
        name = f"lost-{number}"
        cloud.lose_reply_at(*range(number, number + 2))

        def told(name: str = name) -> None:
            with contextlib.suppress(Ec2emoError):
                story(name)()

        assert not dies(told)
        if len(cloud.faults.points) < number:
            return
        yield name


def run(cloud: Cloud, store: Store, points: Iterator[str]) -> int:
    cloud.faults.kill, cloud.faults.lose = None, set()
    matrix = Matrix(cloud, store)
    for name in points:
        matrix.after(name)
    return matrix.points


def test_a_kill_at_some_points_leaves_nothing_unaccounted_for(cloud: Cloud, at_home: Store) -> None:
    killed: set[tuple[str, str]] = set()

    def noted() -> Iterator[str]:
        for name in by_calls(cloud, EVERY_CALL):
            killed.add((cloud.points[-1].when, cloud.points[-1].call))
            yield name

    assert run(cloud, at_home, noted()) >= 3
    assert ("after", "ec2:CreateFleet") in killed, "the most dangerous moment of all is not among them"
    assert run(cloud, at_home, by_answers(cloud, EVERY_LOSS)) >= 3
    assert run(cloud, at_home, by_writes(cloud, EVERY_FILE)) >= 6


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["writes", "calls", "answers"])
@pytest.mark.parametrize("delay", [0.0, 30.0, 60.0])
def test_a_kill_at_any_point_leaves_nothing_unaccounted_for(
    cloud: Cloud, at_home: Store, delay: float, kind: str
) -> None:
    cloud.visibility_delay = delay
    points, least = {"writes": (by_writes, 60), "calls": (by_calls, 16), "answers": (by_answers, 16)}[kind]
    count = run(cloud, at_home, points(cloud, 1))
    print(f"{kind}, visible after {delay:.0f} s: {count} points, nothing left")
    assert count >= least
