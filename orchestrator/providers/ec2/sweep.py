"""What nobody needs any more: found by its tags, told, and removed when that is said.

What has a living run, or is being made by somebody right now, is never touched; nor is a machine that was
only adopted. A machine no record here knows of is written down again, from its tags, while its time lasts.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator import pins
from orchestrator.errors import BadRequest
from orchestrator.lease import Lease
from orchestrator.machine import Terms
from orchestrator.providers.ec2 import (
    api,
    clock,
    fleet,
    image,
    instances,
    keys,
    network,
    provision,
    schedule,
    setup,
    tags,
    template,
)
from orchestrator.providers.ec2.api import Aws
from orchestrator.providers.ec2.book import Book
from orchestrator.providers.ec2.fleet import Say
from orchestrator.store import Store

Act = Literal["keep", "remove", "write down"]
Machine = tuple[str, str, str]  # run, uid, the how-many-th machine of the run
GRACE = 1800.0  # seconds past its time after which a machine nobody knows of is removed


@dataclass(frozen=True)
class Finding:
    """One thing of ours in EC2: what to do about it and why."""

    kind: str
    id: str
    run: str | None
    act: Act
    why: str


class Sweep:
    """One look at one region. What is begun here is locked, so nobody starts it again meanwhile."""

    def __init__(self, store: Store, aws: Aws, say: Say) -> None:
        self.store, self.aws, self.say = store, aws, say
        self.findings: list[Finding] = []
        self._books: dict[str, Book] = {}
        self._busy: set[str] = set()
        self._kept: set[Machine] = set()
        self._bodies: dict[str, dict[str, Any]] = {}

    def look(self, held: contextlib.ExitStack) -> list[Finding]:
        """Everything of ours, machines first; `held` keeps the locks of the runs it is about."""
        self._settle_leases(held)
        self._await_the_new()
        for instance in instances.ours(self.aws, self.aws.owner):
            self._judge_machine(instance)
        self._judge_rest()
        return self.findings

    def act(self) -> None:
        """Do what the findings say: machines first, because the rest hangs on them."""
        wanted = [f for f in self.findings if f.act != "keep"]
        gone = {f.id for f in wanted if f.kind == "machine" and f.act == "remove"}
        for finding in wanted:
            if finding.act == "write down":
                self._write_down(self._bodies[finding.id])
            elif finding.kind == "machine":
                self.say(f"terminating {finding.id}")
                body = self._bodies[finding.id]
                instances.terminate(self.aws, finding.id, born=instances.launched(body))
                pins.forget(finding.id)
        for finding in wanted:
            if finding.kind == "machine" and finding.act == "remove":
                instances.await_state(self.aws, finding.id, "terminated")
        ways: dict[str, Callable[[Aws, str], object]] = {
            "template": template.remove,
            "group": network.remove,
            "disk": _remove_disk,
            "key": _remove_key,
            "schedule": schedule.disarm,
        }
        for kind, remove in ways.items():
            for finding in wanted:
                if finding.kind == kind:
                    self.say(f"removing the {kind} {finding.id}")
                    if remove(self.aws, finding.id) is not False:  # a group that is still held
                        gone.add(finding.id)
        for book in self._books.values():
            self._close(book, gone)

    def _settle_leases(self, held: contextlib.ExitStack) -> None:
        """What the records here leave open is learnt first; a run somebody works on stays as it is."""
        for lease in self.store.leases():
            if lease.region != self.aws.region or lease.owner != self.aws.owner:
                continue
            try:
                held.enter_context(self.store.holding(lease.run))
            except BadRequest:
                self._busy.add(lease.run)
                continue
            current = self.store.lease(lease.run)
            assert current is not None
            book = self._books[lease.run] = Book(self.store, current)
            if current.ended is None and current.open_call:
                fleet.close_unheard(book, self.aws, self.say)

    def _await_the_new(self) -> None:
        """A machine that was made a moment ago may not be listed yet, which is not being gone."""
        for lease in [book.lease for book in self._books.values()]:
            if lease.ended is not None or lease.instance is None or not lease.made:
                continue
            young = instances.VISIBLE_WITHIN - (clock.now() - (lease.launched or 0.0))
            for _ in clock.every(2.0, within=young) if young > 0 else ():
                if instances.describe(self.aws, lease.instance) is not None:
                    break

    def _judge_machine(self, instance: dict[str, Any]) -> None:
        instance_id, tagged = str(instance["InstanceId"]), tags.read(instance)
        self._bodies[instance_id] = instance
        act, why = self._verdict(instance_id, tagged)
        run = tagged.get(tags.RUN)
        if act != "remove":
            self._kept.add(_machine(tagged))
        if instances.state(instance) == "shutting-down":
            act, why = "keep", "it is ending"
        self.findings.append(Finding("machine", instance_id, run, act, why))

    def _verdict(self, instance_id: str, tagged: Mapping[str, str]) -> tuple[Act, str]:
        run, uid, number = _machine(tagged)
        if run in self._busy:
            return "keep", "another ec2emo is at work on it"
        if tags.ADOPTED in tagged:
            return "keep", "it was there before ec2emo"
        book = self._books.get(run)
        if book is None or book.lease.uid != uid:
            until = clock.parse_iso(tagged.get(tags.UNTIL, ""))
            if until is not None and clock.now() > until + GRACE:
                return "remove", "no run here knows it, and its time was over"
            return "write down", "no run here knows it"
        lease = book.lease
        if lease.instance != instance_id or str(lease.number) != number:
            return "remove", f"{run} has another machine"
        if lease.ended is not None:
            return "remove", f"{run} gave it back ({lease.why_ended})"
        if lease.reached is None or not self._launched(run):
            return "remove", f"the start of {run} was broken off before anything trained"
        return "keep", f"{run} is on it"

    def _launched(self, run: str) -> bool:
        """Whether anything was ever asked to train; a record that cannot be read speaks for the run."""
        try:
            return bool(self.store.load(run).attempts)
        except BadRequest:
            return True

    def _judge_rest(self) -> None:
        """What was made around machines goes when no machine needs it."""
        for kind, things, key, needed in (
            (
                "template",
                _tagged(self.aws, "describe_launch_templates", "LaunchTemplates"),
                "LaunchTemplateId",
                False,
            ),
            ("group", _tagged(self.aws, "describe_security_groups", "SecurityGroups"), "GroupId", True),
            ("disk", _loose_disks(self.aws), "VolumeId", False),
        ):
            for thing in things:
                tagged = tags.read(thing)
                run = tagged.get(tags.RUN)
                act, why = self._needed(tagged, with_machine=needed)
                self.findings.append(Finding(kind, str(thing[key]), run, act, why))
        for machine in self._schedules():
            there = machine in self._bodies
            why = "it ends a machine that is there" if there else "the machine it would end is gone"
            self.findings.append(Finding("schedule", machine, None, "keep" if there else "remove", why))
        alone = not self._kept and not self._busy
        for pair in _key_pairs(self.aws):
            act = "remove" if alone else "keep"
            why = "nothing of yours runs here" if alone else "machines know it"
            self.findings.append(Finding("key", str(pair["KeyName"]), None, act, why))

    def _schedules(self) -> list[str]:
        """The machines that have one; another person's in this account may be among them."""
        if not any(book.lease.ender for book in self._books.values()) and setup.found(self.aws) is None:
            return []
        ours = {book.lease.instance for book in self._books.values()} | set(self._bodies)
        return [machine for machine in schedule.machines(self.aws) if machine in ours]

    def _needed(self, tagged: Mapping[str, str], *, with_machine: bool) -> tuple[Act, str]:
        run = tagged.get(tags.RUN, "")
        if run in self._busy:
            return "keep", "another ec2emo is at work with it"
        if with_machine and _machine(tagged) in self._kept:
            return "keep", f"the machine of {run} is behind it"
        return "remove", "no machine needs it"

    def _close(self, book: Book, gone: set[str]) -> None:
        """The record says what was done: a lease without a machine is at its end."""
        lease = book.lease
        if lease.ended is None and not self._still_there(lease, gone):
            book.end("removed by 'ec2emo gc'" if lease.instance in gone else "no machine came, or it ended")
        if book.lease.ended is not None and book.lease.made:
            if lease.template in gone:
                book.keep(template=None)
            if lease.group in gone:
                book.keep(group=None)
            provision.undo(book, self.aws, patient=False)

    def _still_there(self, lease: Lease, removed: set[str]) -> bool:
        if lease.instance is None or lease.instance in removed:
            return False
        return lease.instance in self._bodies or not lease.made

    def _write_down(self, instance: dict[str, Any]) -> None:
        """The lease of a machine that no record here knows of, from its tags and what EC2 says."""
        tagged = tags.read(instance)
        run, uid, number = _machine(tagged)
        if not run or self.store.lease(run) is not None:
            self.say(f"{instance['InstanceId']} is of a run called {run!r} that this home has another of")
            return
        groups = [str(g["GroupId"]) for g in instance.get("SecurityGroups") or ()]
        lease = Lease(
            run=run,
            uid=uid,
            number=int(number) if number.isdigit() else 1,
            provider="ec2",
            region=self.aws.region,
            owner=self.aws.owner,
            asked=instances.launched(instance) or clock.now(),
            terms=Terms(region=self.aws.region),
            until=clock.parse_iso(tagged.get(tags.UNTIL, "")),
            group=groups[0] if groups else None,
            instance=str(instance["InstanceId"]),
            instance_type=str(instance["InstanceType"]),
            zone=(instance.get("Placement") or {}).get("AvailabilityZone"),
            market="spot" if instance.get("InstanceLifecycle") == "spot" else "on-demand",
            launched=instances.launched(instance),
            image=instance.get("ImageId"),
            user=image.user_of(self.aws, str(instance.get("ImageId", ""))),
            reached=clock.now(),
        )
        self.store.keep_lease(lease)


def collect(store: Store, region: str | None, say: Say, *, remove: bool) -> list[dict[str, Any]]:
    """Look at a region, and with `remove` do what was found. Rows: region, kind, id, run, act, why."""
    with contextlib.ExitStack() as held:
        sweep = Sweep(store, api.connected(region), say)
        found = sweep.look(held)
        if remove:
            sweep.act()
    return [{"region": sweep.aws.region, **dataclasses.asdict(f)} for f in found]


def _machine(tagged: Mapping[str, str]) -> Machine:
    return tagged.get(tags.RUN, ""), tagged.get(tags.UID, ""), tagged.get(tags.ATTEMPT, "")


def _tagged(aws: Aws, operation: str, key: str) -> Iterator[dict[str, Any]]:
    yield from aws.all("ec2", operation, key, Filters=tags.filters(aws.owner))


def _loose_disks(aws: Aws) -> Iterator[dict[str, Any]]:
    """Volumes of ours that no machine has."""
    free = [{"Name": "status", "Values": ["available"]}]
    yield from aws.all("ec2", "describe_volumes", "Volumes", Filters=[*tags.filters(aws.owner), *free])


def _key_pairs(aws: Aws) -> list[dict[str, Any]]:
    answer = aws.ask("ec2", "describe_key_pairs", Filters=tags.filters(aws.owner))
    ours = keys.own_name(aws.owner)
    return [p for p in answer["KeyPairs"] if p["KeyName"] == ours or ours is None]


def _remove_disk(aws: Aws, volume_id: str) -> None:
    with contextlib.suppress(BadRequest):  # gone meanwhile
        aws.ask("ec2", "delete_volume", VolumeId=volume_id)


def _remove_key(aws: Aws, name: str) -> None:
    aws.ask("ec2", "delete_key_pair", KeyName=name)
