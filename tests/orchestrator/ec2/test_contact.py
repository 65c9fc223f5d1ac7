"""The first contact with a machine that boots: verified from the first byte, or not made at all."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator import pins, providers
from orchestrator.connect import open_shell
from orchestrator.errors import ContactLost, Ec2emoError, Refused
from orchestrator.machine import Machine, Terms
from orchestrator.providers import Errand
from orchestrator.providers.ec2 import (
    api,
    attach,
    clock,
    console,
    contact,
    doctor,
    image,
    keys,
    provision,
    setup,
)
from orchestrator.ssh import SSHShell
from orchestrator.ssh.way import CONNECT_TIMEOUT
from orchestrator.store import Store
from tests.conftest import eventually
from tests.orchestrator.ec2.conftest import NEVER, TWO, errand, user_data

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud
    from tests.cloud.instances import Instance

POLICY = Path(__file__).parents[3] / "docs" / "aws-policy.json"


@pytest.fixture(autouse=True)
def booting_takes_its_time(at_home: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "now", time.time)
    monkeypatch.setattr(clock, "sleep", time.sleep)
    monkeypatch.setattr(contact, "BOOT_PATIENCE", 60.0)  # nothing boots for longer here


def logins(instance: Instance) -> int:
    return (instance.machine.root / "var/log/auth.log").read_text().count("Accepted")


def test_the_host_key_of_the_user_data_is_replaced_at_the_first_contact(cloud: Cloud, at_home: Store) -> None:
    machine = provision.provide(errand(at_home))
    (instance,) = cloud.living()
    assert (machine.id, machine.host, machine.user) == (instance.id, instance.address, "ubuntu")
    (pinned,) = pins.read(machine.id)
    assert pinned.split()[1] not in user_data(cloud, instance.id)
    assert pinned.split()[1] in (instance.machine.root / "etc/ssh/ssh_host_ed25519_key.pub").read_text()
    with open_shell(machine) as shell:
        assert shell.run(["id", "-un"]).out == b"ubuntu\n"
    lease = at_home.lease("a-run")
    assert lease is not None and lease.reached and lease.usd_per_hour == 0.526
    assert not list((at_home.runs / "a-run").glob(".host-key*"))
    assert provision.provide(errand(at_home)) == machine  # asked again, it is the same one
    assert len(cloud.living()) == 1

    cloud.impersonate(instance)

    def refused() -> bool:
        try:
            open_shell(machine).close()
        except Refused as e:
            return "does not show the host key it was given" in str(e)
        except ContactLost:
            pass  # sshd is just being started
        return False

    eventually(refused)  # until then the machine's own sshd may have answered once more
    before = logins(instance)
    assert refused()
    assert logins(instance) == before


def test_a_stranger_at_the_first_contact_is_sent_nothing(
    cloud: Cloud, at_home: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contact, "SETTLED_WITHIN", 2.0)
    monkeypatch.setattr(keys, "host_key", _of_another)
    with pytest.raises(Refused, match="does not show the host key it was given"):
        provision.provide(errand(at_home))
    (instance,) = cloud.living()
    assert logins(instance) == 0
    lease = at_home.lease("a-run")
    assert lease is not None and lease.reached is None and lease.instance == instance.id


def _of_another(store: Store, run_id: str) -> tuple[str, str]:
    """The private half that goes to the machine is not that of the public half that is pinned."""
    one, other = keys._generate(), keys._generate()
    return one.decode(), keys._public(other)


def said_of_the_key(instance: Instance) -> tuple[str, str]:
    """What doctor finds of the machine's host key: how bad it is, and in which words."""
    found = {what: (level, said + todo) for what, level, said, todo in doctor.checks(Terms())}
    return found[f"host key of {instance.id}"]


def test_the_console_confirms_the_host_key_whenever_it_comes(cloud: Cloud, at_home: Store) -> None:
    cloud.instances.delays.console = NEVER
    provision.provide(errand(at_home))
    (instance,) = cloud.living()
    lease = at_home.lease("a-run")
    assert lease is not None and lease.reached and lease.confirmed is None
    level, said = said_of_the_key(instance)
    assert level == "warn" and "shows no host key" in said

    cloud.instances.delays.console = 0.0
    assert said_of_the_key(instance) == ("ok", console.SENTENCES["confirmed"])
    provision.provide(errand(at_home))
    lease = at_home.lease("a-run")
    assert lease is not None and lease.confirmed
    cloud.instances.delays.console = NEVER  # as after a stop: what was confirmed stays so
    level, said = said_of_the_key(instance)
    assert level == "ok" and "its console showed it at" in said


def test_another_key_on_the_console_than_the_pinned_one_is_an_error(cloud: Cloud, at_home: Store) -> None:
    cloud.instances.delays.console = NEVER
    machine = provision.provide(errand(at_home))
    (instance,) = cloud.living()
    (true,) = pins.read(machine.id)
    other = " ".join(keys._public(keys._generate()).split()[:2])
    pins.write(instance.id, other)
    cloud.instances.delays.console = 0.0
    level, said = said_of_the_key(instance)
    assert level == "fail"
    assert console.fingerprint(true) in said and console.fingerprint(other) in said
    with pytest.raises(Refused, match=f"another machine may have.*machines terminate {instance.id}"):
        provision.provide(errand(at_home))


def test_who_answered_with_the_boot_key_in_its_place_is_not_confirmed(cloud: Cloud, at_home: Store) -> None:
    """The machine's own console then shows the key of its boot, and none that was made since."""
    with provision.standing(errand(at_home)) as (book, aws, _):
        (instance,) = cloud.living()
        eventually(lambda: b"END SSH HOST KEY KEYS" in instance.machine.console())
        assert book.lease.host_key and console.keys(aws, instance.id) == [[book.lease.host_key]]
        pins.write(instance.id, keys._public(keys._generate()))
        book.keep(reached=clock.now())
    level, said = said_of_the_key(instance)
    assert level == "warn" and "of its first boot" in said
    provision.provide(errand(at_home))
    lease = at_home.lease("a-run")
    assert lease is not None and lease.confirmed is None


def test_what_a_console_says_of_keys_is_judged_by_those_of_our_type() -> None:
    ours, boot, third = (f"ssh-ed25519 {letter * 68}" for letter in "ABC")
    sshd_made = f"ssh-rsa {'D' * 300}"
    assert console.judge([], [ours], boot) == "nothing"
    assert console.judge([[sshd_made]], [ours], boot) == "nothing"
    assert console.judge([[boot, sshd_made]], [ours], boot) == "boot key"
    assert console.judge([[ours], [boot]], [ours], boot) == "confirmed"  # cloud-init was late
    assert console.judge([[boot], [third]], [ours], boot) == "another"


@pytest.mark.parametrize("via", ["ssm", "eice"])
def test_a_tunnel_leads_to_a_machine_without_open_ports(
    cloud: Cloud, at_home: Store, monkeypatch: pytest.MonkeyPatch, via: str
) -> None:
    monkeypatch.setenv("PATH", f"{cloud.programs}:{os.environ['PATH']}")
    setup.install(api.connected(None), lambda sentence: None)
    cloud.enforce(json.loads(POLICY.read_text()))
    terms = Terms(via="ssm" if via == "ssm" else "eice", instance_types=TWO)
    machine = provision.provide(errand(at_home, terms))
    with open_shell(machine) as shell:
        assert shell.run(["echo", "here"]).out == b"here\n"
    opened = [
        (p["FromPort"], p["ToPort"], p.get("IpRanges"), p.get("UserIdGroupPairs"))
        for call in cloud.named("ec2:AuthorizeSecurityGroupIngress")
        for p in call.parameters["IpPermissions"]
    ]
    through = [{"GroupId": cloud.connections.group(cloud.region)}]  # of the endpoint, and nobody's address
    assert opened == ([] if via == "ssm" else [(22, 22, None, through)])


def test_what_the_tunnels_program_says_is_told_at_once(
    cloud: Cloud, at_home: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{cloud.programs}:{os.environ['PATH']}")
    for name, value in cloud.environment.items():
        monkeypatch.setenv(name, value)
    machine = Machine("ec2", host="i-1", user="ubuntu", id="i-1", region=cloud.region, via="ssm")
    began = time.monotonic()
    with pytest.raises(ContactLost, match=r"cannot reach i-1 \(.*TargetNotConnected.*aws ssm start-session"):
        SSHShell(machine)
    assert time.monotonic() - began < CONNECT_TIMEOUT
    monkeypatch.setenv("PATH", "/nothing")
    with pytest.raises(ContactLost, match="install aws"):
        SSHShell(machine)


def test_a_machine_that_was_there_is_known_by_what_its_console_says(
    cloud: Cloud, at_home: Store, tmp_path: Path
) -> None:
    foreign, key = _foreign(cloud, tmp_path)
    wish = providers.wish_for(foreign.id, str(key))
    work = _attached(at_home, foreign.id)
    eventually(lambda: b"SSH HOST KEY KEYS" in foreign.machine.console())
    machine = attach.attach(wish, work)
    assert machine.user == "ubuntu" and pins.read(foreign.id)
    with open_shell(machine) as shell:
        assert shell.run(["id", "-un"]).out == b"ubuntu\n"
    assert not {"ec2:CreateTags", "ec2:StopInstances", "ec2:TerminateInstances"} & set(cloud.names())
    assert at_home.lease(work.run.id) is None

    work = dataclasses.replace(work, run=dataclasses.replace(work.run, terms=Terms(adopt=True)))
    attach.attach(wish, work)
    tags = cloud.tags(foreign.id, cloud.region)
    assert (tags["ec2emo:run"], tags["ec2emo:adopted"]) == (work.run.id, "yes")
    lease = at_home.lease(work.run.id)
    assert lease is not None and not lease.made


def _foreign(cloud: Cloud, folder: Path) -> tuple[Instance, Path]:
    """Somebody's machine and the key to it, its port 22 open to us."""
    key = folder / "theirs"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    ec2 = cloud.client("ec2")
    ec2.import_key_pair(KeyName="theirs", PublicKeyMaterial=Path(f"{key}.pub").read_bytes())
    group = ec2.create_security_group(GroupName="theirs", Description="theirs")["GroupId"]
    ec2.authorize_security_group_ingress(
        GroupId=group, IpProtocol="tcp", FromPort=22, ToPort=22, CidrIp=f"{cloud.caller}/32"
    )
    made = ec2.run_instances(
        ImageId=image.find(api.connected(None), Terms()).id,
        InstanceType="g4dn.xlarge",
        MinCount=1,
        MaxCount=1,
        KeyName="theirs",
        SecurityGroupIds=[group],
    )
    instance = cloud.instances.all[made["Instances"][0]["InstanceId"]]
    eventually(lambda: instance.state == "running")
    return instance, key


def _attached(store: Store, where: str) -> Errand:
    work = errand(store, name="attached")
    return dataclasses.replace(work, run=dataclasses.replace(work.run, where=where, terms=Terms()))


def test_a_machine_that_never_answers_is_out_of_contact_and_stays_recorded(
    cloud: Cloud, at_home: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contact, "BOOT_PATIENCE", 4.0)
    terms = Terms(allow_from="203.0.113.0/24", instance_types=TWO)  # not where we are
    with pytest.raises(Ec2emoError, match="goes on costing") as lost:
        provision.provide(errand(at_home, terms))
    assert lost.value.exit_code == 6
    (instance,) = cloud.living()
    lease = at_home.lease("a-run")
    assert lease is not None and lease.instance == instance.id and lease.ended is None
