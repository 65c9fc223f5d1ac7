"""SIGKILL before and after every write and every effect in EC2, and every answer lost: nothing leaks.

The story that is killed: a run is written down, a machine is launched for it, seen running, and terminated
with all that was made around it, where `ec2emo setup` was run with the schedule outside of it, too. Then, in
another process, either `gc` finds out and removes, or the same command is typed again. `gc` is killed itself,
and the first contact, which is the only one for which machines boot here.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from orchestrator import pins
from orchestrator.connect import open_shell
from orchestrator.errors import Ec2emoError
from orchestrator.providers.ec2 import api, clock, lifecycle, provision, setup, sweep
from orchestrator.store import Store
from tests.crashes import crash_points, dies
from tests.orchestrator.ec2.conftest import errand, user_data

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud

# Of the cloud's seconds in one of ours. Not more: its time goes on while it works on a request, and what
# takes it a second on a busy machine must stay within the minute that a request may be under way.
SPEED = 50.0
EVERY_FILE = 9  # by default every so many of the writes
EVERY_CALL = 5
EVERY_LOSS = 4
EVERY_SWEEP = 20
EVERY_CONTACT = 16


@pytest.fixture(autouse=True)
def fast(cloud: Cloud, at_home: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time runs alike here, in the cloud, and in the processes that are killed."""
    cloud.boots = False
    cloud.clock.speed = SPEED
    monkeypatch.setattr(clock, "sleep", lambda seconds: time.sleep(seconds / SPEED))
    cloud.visibility_delay = 30.0


@pytest.fixture
def backed(cloud: Cloud, fast: None) -> None:
    """`ec2emo setup` was run, so every machine has a schedule."""
    setup.install(api.connected(None), quiet)


@pytest.fixture
def booting(cloud: Cloud, fast: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What boots does so in its own time."""
    cloud.boots = True
    cloud.clock.speed = 1.0
    cloud.visibility_delay = 0.0
    monkeypatch.setattr(clock, "sleep", lambda seconds: time.sleep(min(seconds, 0.1)))


def quiet(sentence: str) -> None:
    """Nobody is told."""


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

    def __init__(self, cloud: Cloud, store: Store, again: Callable[[Cloud, Store, str], None]) -> None:
        self.cloud, self.store, self.again, self.points = cloud, store, again, 0

    def after(self, name: str) -> None:
        """Recover in one of two ways, in turn, and look for what is left."""
        self.points += 1
        self.cloud.faults.kill, self.cloud.faults.lose = None, set()
        if self.points % 2 and name in self.store.ids() and self._open(name):
            self.again(self.cloud, self.store, name)
            lifecycle.terminate(self.store, name, None)
        sweep.collect(self.store, None, quiet, remove=True)
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


def stands(cloud: Cloud, store: Store, name: str) -> None:
    """The same command again has one machine."""
    with provision.standing(errand(store, name=name)) as (book, _, _):
        assert [i.id for i in cloud.living()] == [book.lease.instance]


def answers(cloud: Cloud, store: Store, name: str) -> None:
    """The same command again reaches the one machine, by the key that it has now and by no other."""
    machine = provision.provide(errand(store, name=name))
    (instance,) = cloud.living()
    (pinned,) = pins.read(machine.id)
    assert (instance.machine.root / "etc/ssh/ssh_host_ed25519_key.pub").read_text().startswith(pinned)
    assert pinned.split()[1] not in user_data(cloud, instance.id)
    with open_shell(machine) as shell:
        assert shell.run(["id", "-un"]).out == b"ubuntu\n"
    assert not list((store.runs / name).glob(".host-key*"))


def left(cloud: Cloud) -> list[str]:
    """Everything of ours there is in the cloud."""
    ec2 = cloud.moto.client("ec2", cloud.region)
    groups = [
        g["GroupId"] for g in ec2.describe_security_groups()["SecurityGroups"] if g["GroupName"] != "default"
    ]
    templates = [t["LaunchTemplateName"] for t in ec2.describe_launch_templates()["LaunchTemplates"]]
    disks = [v["VolumeId"] for v in ec2.describe_volumes()["Volumes"]]
    keys = [k["KeyName"] for k in ec2.describe_key_pairs()["KeyPairs"]]
    schedules = [
        s["Name"] for s in cloud.moto.client("scheduler", cloud.region).list_schedules()["Schedules"]
    ]
    return [i.id for i in cloud.living()] + groups + templates + disks + keys + schedules


def _tags(instance: object) -> dict[str, str]:
    specs = instance.launch.request["TagSpecifications"]  # type: ignore[attr-defined]
    return {t["Key"]: t["Value"] for s in specs if s["ResourceType"] == "instance" for t in s["Tags"]}


def by_writes(cloud: Cloud, every: int) -> Iterator[str]:
    """Killed right before a change of the file system here."""
    yield from _by_changes("file", lambda name: None, lambda name: story(name)(), first=2, every=every)


def by_calls(cloud: Cloud, every: int) -> Iterator[str]:
    """Killed right before or right after the effect of a call that changes something."""
    for number in range(every, 10_000, every):
        name = f"call-{number}"
        cloud.kill_at(number)
        if not dies(story(name)):
            return
        yield name


def numbers(cloud: Cloud, told: Callable[[], None], calls: str) -> list[int]:
    """The points of a story, as `kill_at` counts them, that are before or after a call of that name."""
    cloud.kill_at(0)
    assert not dies(told)
    return [point.number for point in cloud.points if point.call.startswith(calls)]


def by_schedules(cloud: Cloud) -> Iterator[str]:
    """Killed right after the schedule of a machine was made, and right after it was taken away."""
    for number in numbers(cloud, story("unharmed"), "scheduler:")[1::2]:
        name = f"schedule-{number}"
        cloud.kill_at(number)
        assert dies(story(name))
        yield name


def broken_off(cloud: Cloud) -> Callable[[str], None]:
    """What leaves all that a start makes: it is killed before the first of it goes, which is the template.

    Runs of before are forgotten: `gc` looks at every one, and would have more to do each time.
    """
    last = numbers(cloud, story("unharmed"), "ec2:DeleteLaunchTemplate")[0]

    def started(name: str) -> None:
        shutil.rmtree(Store().runs)
        cloud.kill_at(last)
        assert dies(story(name))
        cloud.faults.kill = None

    return started


def sweeping() -> None:
    """`gc`, on a connection of its own."""
    api.connected.cache_clear()
    sweep.collect(Store(), None, quiet, remove=True)


def by_sweeps(cloud: Cloud, every: int) -> Iterator[str]:
    """`gc` is killed: right before or after the effect of a call, then right before a write."""
    started = broken_off(cloud)
    for number in range((every + 1) // 2, 10_000, every):
        name = f"swept-{number}"
        started(name)
        cloud.kill_at(number)
        if not dies(sweeping):
            break
        yield name
    yield from _by_changes("closed", started, lambda name: sweeping(), first=(every + 1) // 2, every=every)


def by_contacts(store: Store, every: int) -> Iterator[str]:
    """Killed right before a write of the first contact, which stands between any two things that it does to
    the machine.
    """

    def started(name: str) -> None:
        with provision.standing(errand(store, name=name)):
            pass

    def reached(name: str) -> None:
        api.connected.cache_clear()
        provision.provide(errand(Store(), name=name))

    yield from _by_changes("contact", started, reached, first=(every + 1) // 2, every=every)


def _by_changes(
    kind: str, prepare: Callable[[str], None], act: Callable[[str], None], *, first: int, every: int
) -> Iterator[str]:
    """The name of what was prepared and then killed, right before a change of the file system here."""
    names = (f"{kind}-{n}" for n in range(10_000))
    current = ""

    def prepared() -> None:
        nonlocal current
        current = next(names)
        prepare(current)

    for _ in crash_points(prepared, lambda: act(current), first=first, every=every):
        yield current


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


def run(
    cloud: Cloud, store: Store, points: Iterator[str], again: Callable[[Cloud, Store, str], None] = stands
) -> int:
    cloud.faults.kill, cloud.faults.lose = None, set()
    matrix = Matrix(cloud, store, again)
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


def test_a_kill_right_after_a_schedule_is_made_or_taken_away_leaves_nothing(
    cloud: Cloud, at_home: Store, backed: None
) -> None:
    assert run(cloud, at_home, by_schedules(cloud)) == 2


def test_gc_killed_at_some_points_finishes_when_it_runs_again(
    cloud: Cloud, at_home: Store, backed: None
) -> None:
    assert run(cloud, at_home, by_sweeps(cloud, EVERY_SWEEP)) >= 2


def test_a_kill_at_some_points_of_the_first_contact_leaves_a_machine_that_can_be_reached(
    cloud: Cloud, at_home: Store, booting: None
) -> None:
    assert run(cloud, at_home, by_contacts(at_home, EVERY_CONTACT), answers) >= 2


@pytest.mark.slow
def test_gc_killed_at_any_point_finishes_when_it_runs_again(
    cloud: Cloud, at_home: Store, backed: None
) -> None:
    count = run(cloud, at_home, by_sweeps(cloud, 1))
    print(f"gc: {count} points, nothing left")
    assert count >= 20


@pytest.mark.slow
def test_a_kill_at_any_point_of_the_first_contact_leaves_a_machine_that_can_be_reached(
    cloud: Cloud, at_home: Store, booting: None
) -> None:
    count = run(cloud, at_home, by_contacts(at_home, 1), answers)
    print(f"first contact: {count} points, every machine reached or removed")
    assert count >= 20


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["writes", "calls", "answers"])
def test_a_kill_at_any_point_leaves_nothing_where_schedules_stand_behind(
    cloud: Cloud, at_home: Store, backed: None, kind: str
) -> None:
    points, least = {"writes": (by_writes, 60), "calls": (by_calls, 20), "answers": (by_answers, 20)}[kind]
    count = run(cloud, at_home, points(cloud, 1))
    print(f"{kind}, with schedules: {count} points, nothing left")
    assert count >= least


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
