"""One machine for one run, from the wish to the first contact: always by going on from what the lease says.

There is no other way through: a fresh start is a lease in which nothing has happened yet.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from orchestrator import pins
from orchestrator.errors import BadRequest, Ec2emoError, OutcomeUnknown, RunFailed
from orchestrator.lease import Lease
from orchestrator.machine import Machine, Terms
from orchestrator.providers import Errand
from orchestrator.providers.ec2 import (
    api,
    clock,
    console,
    contact,
    fleet,
    instances,
    keys,
    limits,
    network,
    offer,
    outcome,
    prices,
    schedule,
    setup,
    template,
    userdata,
)
from orchestrator.providers.ec2.api import Aws
from orchestrator.providers.ec2.book import Book
from orchestrator.providers.ec2.fleet import Say
from orchestrator.providers.ec2.offer import Offer
from orchestrator.providers.ec2.outcome import Failure
from orchestrator.run import Run
from orchestrator.store import Store


def provide(errand: Errand) -> Machine:
    """A machine that answers, for the run. Raises every Ec2emoError; nothing is left that is not recorded."""
    with standing(errand) as (book, aws, instance):
        machine = machine_of(book.lease, instance)
        if book.lease.reached is None:
            _first_contact(book, aws, machine, errand.say)
        else:
            _check_host_key(book, aws)
            if book.lease.group and book.lease.made:
                network.admit(aws, book.lease.group, network.sources(aws, book.lease.terms))
        return machine


@contextlib.contextmanager
def standing(errand: Errand) -> Iterator[tuple[Book, Aws, dict[str, Any]]]:
    """The run's machine as EC2 sees it, running and priced; the run's lease is ours for the block."""
    run, store, say = errand.run, errand.store, errand.say
    with store.holding(run.id):
        lease = store.lease(run.id)
        terms = run.terms or Terms()
        aws = api.connected(lease.region if lease and lease.ended is None else terms.region)
        if lease is not None and lease.ended is None and lease.instance and _gone(store, aws, lease):
            lease = store.lease(run.id)
        if lease is None or lease.ended is not None:
            _refuse_empty_hands(run, lease)
            lease = new_lease(aws, run, terms, number=lease.number + 1 if lease else 1)
        book = Book(store, lease)
        find_or_launch(book, aws, say)
        limits.end_from_outside(book.lease, aws)
        instance = _running(book, aws, say)
        if book.lease.template:
            template.remove(aws, book.lease.template)
            book.keep(template=None)
        if book.lease.usd_per_hour is None:
            _price(book, aws)
        yield book, aws, instance


def roll_back(store: Store, run_id: str, say: Say) -> None:
    """Undo a start that was called off before anything trained. What cannot be undone now is recorded."""
    with store.holding(run_id):
        lease = store.lease(run_id)
        if lease is None or lease.ended is not None or not lease.made:
            return
        aws, book = api.connected(lease.region), Book(store, lease)
        if lease.open_call:
            say(
                f"whether EC2 has started a machine for {run_id} is not known: 'ec2emo gc' finds out, and "
                f"'ec2emo resume {run_id}' goes on with it"
            )
            return
        if lease.instance:
            say(f"terminating {lease.instance}, on which nothing trained")
            instances.terminate(aws, lease.instance, born=lease.launched)
        book.end("called off before the start")
        undo(book, aws, patient=False)


def undo(book: Book, aws: Aws, *, patient: bool = True) -> bool:
    """Remove what was made around a machine that is gone or never came; False while its group is held."""
    lease = book.lease
    if lease.template:
        template.remove(aws, lease.template)
        lease = book.keep(template=None)
    if lease.instance and lease.ender:
        schedule.disarm(aws, lease.instance)
        lease = book.keep(ender=None)
    if lease.group:
        if not network.remove(aws, lease.group, within=network.HELD_FOR if patient else 0.0):
            return False
        lease = book.keep(group=None)
    if lease.instance:
        pins.forget(lease.instance)
    keys.forget_host_key(book.store, lease.run)
    return True


def machine_of(lease: Lease, instance: dict[str, Any]) -> Machine:
    """How the machine is reached now. Raises BadRequest when it has no address we could reach."""
    assert lease.instance is not None
    address = instance.get("PublicIpAddress")
    if lease.via:
        address = lease.instance
    if not address:
        raise BadRequest(
            f"{lease.instance} has no public address: reach it with --via eice or --via ssm, or name subnets "
            f"under [ec2] that give one",
            run=lease.run,
        )
    return Machine(
        "ec2",
        host=str(address),
        user=lease.user or "ubuntu",
        key=str(keys.user_key()),
        id=lease.instance,
        region=lease.region,
        via=lease.via,
        store=lease.store,
    )


def new_lease(aws: Aws, run: Run, terms: Terms, number: int) -> Lease:
    """One in which nothing has happened yet."""
    return Lease(
        run=run.id,
        uid=run.spec.uid,
        number=number,
        provider="ec2",
        region=aws.region,
        owner=terms.owner or aws.owner,
        asked=clock.now(),
        terms=terms,
    )


def _refuse_empty_hands(run: Run, lease: Lease | None) -> None:
    """A run that has begun cannot go on where nothing of it is."""
    if lease is not None and not lease.store and any(asked.number for asked in run.attempts):
        raise BadRequest(
            f"the machine of {run.id} has ended ({lease.why_ended}), and its checkpoints with it: deploy a "
            f"new run; after 'ec2emo setup' checkpoints are kept in S3 too",
            run=run.id,
        )


def _gone(store: Store, aws: Aws, lease: Lease) -> bool:
    """Whether the machine of a lease has ended without us; the lease then says why."""
    assert lease.instance is not None
    instance = instances.describe(aws, lease.instance)
    if instance is not None and instances.state(instance) not in instances.OVER:
        return False
    if instance is None and clock.now() - (lease.launched or 0.0) < instances.VISIBLE_WITHIN:
        return False  # made a moment ago, EC2 need not know it everywhere
    book = Book(store, lease)
    book.end(instances.reason(instance) if instance else "EC2 no longer knows it")
    undo(book, aws)
    return True


def find_or_launch(book: Book, aws: Aws, say: Say) -> None:
    """The lease names a machine: one that was asked for and not heard of, or a new one."""
    fleet.settle(book, aws, say)
    if book.lease.instance is None:
        launch(book, aws, say)


def launch(book: Book, aws: Aws, say: Say) -> None:
    """From nothing to a machine that is named in the lease."""
    say(f"looking at what {aws.region} offers")
    terms = book.lease.terms
    try:
        found = offer.look(aws, terms)
        minutes = offer.minutes(terms, found.worst)
        until = clock.now() + minutes * 60
        if found.guessed and terms.max_cost is not None:
            say(
                f"no price is known for {', '.join(found.guessed)}: --max-cost reckons with "
                f"${found.worst:.2f} an hour"
            )
        _refuse_another(book, aws)
        _back(book, aws, say)
        made = _prepare(book, aws, found, until)
        fleet.launch(book, aws, found, made, until, say)
    except OutcomeUnknown:
        raise  # a machine may be there: all stays as it is, and is recorded
    except Ec2emoError as e:
        if book.lease.instance is None and book.lease.open_call is None:
            with contextlib.suppress(OutcomeUnknown):
                undo(book, aws, patient=False)
                book.end(f"no machine came: {e.code or type(e).__name__}")
        raise


def _prepare(book: Book, aws: Aws, found: Offer, until: float) -> str:
    """What a launch needs beside the machine: key, group, template. Everything carries the run's tags."""
    lease = book.lease
    _, public = keys.host_key(book.store, lease.run)
    ours = keys.public_half(keys.user_key())
    book.keep(host_key=public, worst=found.worst, until=until, image=found.image.id, user=found.image.user)
    tagged = book.tags(until)
    key = keys.imported(aws, lease.owner, ours)
    group = lease.group or network.group(aws, book.name, found.vpc, tagged)
    book.keep(group=group)
    network.admit(aws, group, found.sources)
    if book.lease.template:
        return book.lease.template
    boot = limits.boot(book, usd_per_hour=found.worst, after="keep" if lease.after == "keep" else "terminate")
    data = template.body(
        image=found.image,
        disk_gb=offer.disk_size(lease.terms, found.image),
        key=key,
        group=group,
        user_data=userdata.render(boot),
        profile=lease.profile,
    )
    made = template.made(aws, book.name, data, tagged)
    book.keep(template=made)
    return made


def _back(book: Book, aws: Aws, say: Say) -> None:
    """What stands behind a machine where `ec2emo setup` has been run; else which guard is missing is said."""
    made = setup.found(aws)
    if made is None:
        say(setup.MISSING)
        book.keep(store=None, profile=None, ender=None)
    else:
        book.keep(store=made.store, profile=made.profile, ender=made.scheduler_role)


def _refuse_another(book: Book, aws: Aws) -> None:
    """One name, one run: another computer of this person may have one of the same name."""
    lease = book.lease
    for instance in instances.ours(aws, lease.owner, lease.run):
        if instances.tags_of(instance).get("ec2emo:uid") != lease.uid:
            raise BadRequest(
                f"another computer runs {lease.run} on {instance['InstanceId']} in {aws.region}: choose "
                f"another --name, or 'ec2emo machines terminate {instance['InstanceId']}'",
                run=lease.run,
            )


def _running(book: Book, aws: Aws, say: Say) -> dict[str, Any]:
    """The machine once it runs. Raises by the reason EC2 gives when it dies at birth."""
    lease = book.lease
    assert lease.instance is not None
    say(f"waiting for {lease.instance} ({lease.instance_type or 'machine'}) to run")
    asked_to_start = False
    for spent in clock.every(2.0, within=contact.BOOT_PATIENCE):
        instance = instances.describe(aws, lease.instance)
        if instance is None:
            if spent > instances.VISIBLE_WITHIN:
                break
            continue
        state = instances.state(instance)
        if state == "running" and (instance.get("PublicIpAddress") or lease.via or spent > 20):
            return _seen(book, instance)
        if state in instances.OVER:
            raise _died(book, aws, instance)
        if state == "stopped" and not asked_to_start:
            say(f"starting {lease.instance}")
            instances.start(aws, lease.instance)
            asked_to_start = True
    raise OutcomeUnknown(
        f"{lease.instance} does not come up, and EC2 does not say why: repeat the command, or 'ec2emo "
        f"machines terminate {lease.instance}'",
        run=lease.run,
    )


def _seen(book: Book, instance: dict[str, Any]) -> dict[str, Any]:
    """What EC2 knows better than the answer to our call."""
    book.keep(
        instance_type=instance.get("InstanceType"),
        zone=(instance.get("Placement") or {}).get("AvailabilityZone"),
        image=instance.get("ImageId") or book.lease.image,
        launched=instances.launched(instance) or book.lease.launched,
    )
    return instance


def _died(book: Book, aws: Aws, instance: dict[str, Any]) -> Ec2emoError:
    """The error for a machine that ended before it was of use; what was made around it is removed."""
    why = instances.reason(instance)
    code = str((instance.get("StateReason") or {}).get("Code", ""))
    book.end(why)
    undo(book, aws)
    if outcome.cause_of_code(code) in (outcome.Cause.WRONG, outcome.Cause.UNKNOWN):
        return RunFailed(
            f"{book.lease.instance} ended before it was of use ({why}): repeat the command, or name another "
            f"--instance-type",
            run=book.lease.run,
            code=code,
        )
    return outcome.error_for([Failure(code, why)], region=aws.region, market=book.lease.market)


def _price(book: Book, aws: Aws) -> None:
    lease = book.lease
    if lease.instance_type:
        price = prices.of(aws, lease.instance_type, lease.market or "on-demand", lease.zone)
        book.keep(usd_per_hour=price.usd, priced=f"{price.source}, {price.date}")


def _first_contact(book: Book, aws: Aws, machine: Machine, say: Say) -> None:
    """Verified from the first byte; the key in the user data is then replaced."""
    lease = book.lease
    assert lease.instance is not None and lease.host_key is not None

    def look() -> None:
        instance = instances.describe(aws, str(lease.instance))
        if instance is not None and instances.state(instance) in instances.OVER:
            raise _died(book, aws, instance)

    say(f"waiting for {lease.instance} to answer")
    if not pins.read(lease.instance):
        pins.write(lease.instance, lease.host_key)
    if lease.group:
        network.admit(aws, lease.group, network.sources(aws, lease.terms))
    shell = contact.reach(machine, look)
    try:
        shell = contact.rotate(machine, shell, look)
        limits.arm(book, aws, shell, machine)
        _check_host_key(book, aws)
        book.keep(reached=clock.now())
    finally:
        shell.close()
    keys.forget_host_key(book.store, lease.run)


def _check_host_key(book: Book, aws: Aws) -> None:
    """By its console, as often as there is an occasion until that has shown the key. Raises Refused."""
    lease = book.lease
    open_question = lease.made and lease.host_key is not None and lease.confirmed is None
    if open_question and console.confirm(aws, lease) == "confirmed":
        book.keep(confirmed=clock.now())
