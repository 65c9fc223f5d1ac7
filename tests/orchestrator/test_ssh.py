"""Which machines are spoken to, with which keys, and what is said when it cannot be: against a real sshd."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.connect import Ahead, open_shell
from orchestrator.errors import ContactLost, Ec2emoError, Refused
from orchestrator.machine import Machine
from orchestrator.shell import Shell
from orchestrator.ssh import SSHShell, way
from orchestrator.ssh.way import CONNECT_TIMEOUT
from tests.conftest import Box, Ec2emo, eventually, free_port
from tests.links import link
from tests.orchestrator.followed import through

SOON = 10.0  # seconds; less than any timeout of a connection that is open


@pytest.fixture(autouse=True)
def no_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


def ssh_dir(box: Box) -> Path:
    return box.client_home / ".ssh"


def configure(box: Box, text: str) -> None:
    (ssh_dir(box) / "config").write_text(text)


def reconfigure(box: Box, *lines: str) -> None:
    """Start the sshd again with more in its configuration; what comes first counts."""
    box.stop()
    path = box.folder / "sshd_config"
    path.write_text("\n".join(lines) + "\n" + path.read_text())
    box.start()


def new_key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


def fingerprint(public: Path) -> str:
    said = subprocess.run(["ssh-keygen", "-lf", str(public)], capture_output=True, text=True, check=True)
    return said.stdout.split()[1]


def refused(machine: Machine, kind: type[Ec2emoError] = Refused) -> str:
    """The sentence with which a machine is not spoken to."""
    with pytest.raises(kind) as raised:
        open_shell(machine)
    sentence = str(raised.value)
    assert "\n" not in sentence
    assert "Traceback" not in sentence
    return sentence


def sessions(box: Box) -> int:
    """How many were let in."""
    return (box.folder / "sshd.log").read_text().count("Accepted publickey")


# Host keys


def test_an_unknown_host_key_is_refused_with_its_fingerprint_and_the_way_out(own_box: Box) -> None:
    known = ssh_dir(own_box) / "known_hosts"
    known.write_text("")
    sentence = refused(own_box.machine)
    assert "is not known" in sentence
    assert fingerprint(own_box.folder / "host_key.pub") in sentence
    assert f"'ssh -p {own_box.port} root@127.0.0.1' once and accept it" in sentence
    assert sessions(own_box) == 0
    assert known.read_text() == ""


def test_without_a_known_hosts_file_nothing_is_known(own_box: Box) -> None:
    (ssh_dir(own_box) / "known_hosts").unlink()
    assert "is not known" in refused(own_box.machine)
    assert not (ssh_dir(own_box) / "known_hosts").exists()


def test_a_changed_host_key_is_refused_with_both_fingerprints_and_the_safe_way_out(
    own_box: Box, tmp_path: Path
) -> None:
    other = new_key(tmp_path / "other")
    known = ssh_dir(own_box) / "known_hosts"
    known.write_text(f"[127.0.0.1]:{own_box.port} {(tmp_path / 'other.pub').read_text()}")
    before = known.read_text()
    sentence = refused(own_box.machine)
    assert "has changed" in sentence
    old, new = fingerprint(other.with_suffix(".pub")), fingerprint(own_box.folder / "host_key.pub")
    assert sentence.index(old) < sentence.index(new)
    assert f"'ssh-keygen -R '[127.0.0.1]:{own_box.port}''" in sentence
    assert sessions(own_box) == 0
    assert known.read_text() == before


@pytest.mark.parametrize("setting", ["StrictHostKeyChecking no", "StrictHostKeyChecking accept-new"])
def test_no_setting_of_the_user_makes_an_unknown_key_known(own_box: Box, setting: str) -> None:
    (ssh_dir(own_box) / "known_hosts").write_text("")
    configure(own_box, f"Host *\n  {setting}\n  UserKnownHostsFile /dev/null\n")
    assert "is not known" in refused(own_box.machine)
    assert sessions(own_box) == 0


def test_hashed_names_in_known_hosts_are_understood(own_box: Box) -> None:
    known = ssh_dir(own_box) / "known_hosts"
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(known)], check=True, capture_output=True)
    assert "127.0.0.1" not in known.read_text()
    with open_shell(own_box.machine) as shell:
        assert shell.run(["echo", "hi"]).out == b"hi\n"


def test_of_several_host_keys_the_known_one_is_asked_for(own_box: Box) -> None:
    rsa = own_box.folder / "rsa"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", str(rsa)], check=True)
    reconfigure(own_box, f"HostKey {rsa}")
    public = " ".join((own_box.folder / "rsa.pub").read_text().split()[:2])
    (ssh_dir(own_box) / "known_hosts").write_text(f"[127.0.0.1]:{own_box.port} {public}\n")
    open_shell(own_box.machine).close()


# Jump hosts


def jump(box: Box, known: str = "~/.ssh/known_hosts") -> Machine:
    """A machine behind another; both are this box."""
    configure(
        box,
        f"Host behind\n  HostName 127.0.0.1\n  Port {box.port}\n  User root\n  ProxyJump gate\n"
        f"Host gate\n  HostName 127.0.0.1\n  Port {box.port}\n  User root\n  UserKnownHostsFile {known}\n",
    )
    return Machine("attached", host="behind")


def test_a_machine_behind_a_jump_host_is_reached_by_way_of_it(own_box: Box) -> None:
    with open_shell(jump(own_box)) as shell:
        assert shell.run(["echo", "hi"]).out == b"hi\n"
        assert shell.read("/etc/hostname", 0)
        assert sessions(own_box) == 2


def test_a_jump_hosts_unknown_key_is_refused_and_named(own_box: Box) -> None:
    """Fabric opens jump hosts by itself, and accepts whatever they show."""
    sentence = refused(jump(own_box, known="/dev/null"))
    assert "the host key of the jump host gate is not known" in sentence
    assert sessions(own_box) == 0


def test_a_jump_host_has_no_easier_ciphers(own_box: Box) -> None:
    machine = jump(own_box)
    reconfigure(own_box, "Ciphers aes256-cbc")
    assert "the jump host gate offers no encryption that ec2emo trusts" in refused(machine)


def test_a_key_that_others_can_read_is_not_shown_to_a_jump_host(own_box: Box) -> None:
    machine = jump(own_box)
    (ssh_dir(own_box) / "id_ed25519").chmod(0o644)
    sentence = refused(machine)
    assert "the jump host gate does not accept root" in sentence
    assert "id_ed25519" in sentence


def test_a_jump_host_for_all_hosts_is_not_its_own(own_box: Box) -> None:
    machine = jump(own_box)
    config = ssh_dir(own_box) / "config"
    config.write_text(config.read_text().replace("  ProxyJump gate\n", "") + "Host *\n  ProxyJump gate\n")
    with open_shell(machine) as shell:
        assert shell.run(["true"]).code == 0
    assert sessions(own_box) == 2


def test_no_jump_is_no_jump(own_box: Box) -> None:
    machine = jump(own_box)
    config = ssh_dir(own_box) / "config"
    config.write_text(config.read_text().replace("ProxyJump gate", "ProxyJump none"))
    open_shell(machine).close()
    assert sessions(own_box) == 1


def test_two_jumps_in_a_row_and_one_of_the_first_ones_own(own_box: Box) -> None:
    hosts = "".join(
        f"Host {name}\n  HostName 127.0.0.1\n  Port {own_box.port}\n  User root\n{more}"
        for name, more in (
            ("far", "  ProxyJump one,two\n"),
            ("one", "  ProxyJump zero\n"),
            ("two", ""),
            ("zero", ""),
        )
    )
    configure(own_box, hosts)
    with open_shell(Machine("attached", host="far")) as shell:
        assert shell.run(["true"]).code == 0
    assert sessions(own_box) == 4


def test_when_the_way_ends_every_connection_on_it_does(own_box: Box) -> None:
    shell = open_shell(jump(own_box))
    shell.run(["true"])
    shell.close()
    assert own_box.process is not None
    children = ["pgrep", "-P", str(own_box.process.pid)]
    eventually(lambda: not subprocess.run(children, capture_output=True, check=False).stdout, SOON)


def test_a_proxy_command_is_used(own_box: Box, tmp_path: Path) -> None:
    if not shutil.which("python3"):
        pytest.skip("needs a program to pass bytes on")
    pipe = tmp_path / "pipe.py"
    pipe.write_text(
        "import os, socket, sys, threading\n"
        "s = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
        "def up():\n"
        "    while data := os.read(0, 65536): s.sendall(data)\n"
        "threading.Thread(target=up, daemon=True).start()\n"
        "while data := s.recv(65536): os.write(1, data)\n"
    )
    configure(
        own_box,
        f"Host proxied\n  HostName 127.0.0.1\n  Port {own_box.port}\n  User root\n"
        f"  ProxyCommand python3 {pipe} %h %p\n",
    )
    children = ["pgrep", "-P", str(os.getpid()), "-f", str(pipe)]
    with open_shell(Machine("attached", host="proxied")) as shell:
        assert shell.run(["echo", "hi"]).out == b"hi\n"
        assert subprocess.run(children, capture_output=True, check=False).stdout
    assert not subprocess.run(children, capture_output=True, check=False).stdout


# The configuration


def test_alias_port_user_key_and_known_hosts_come_from_the_configuration(
    own_box: Box, tmp_path: Path
) -> None:
    key = new_key(tmp_path / "a key")
    with (own_box.folder / "authorized_keys").open("a") as f:
        f.write((tmp_path / "a key.pub").read_text())
    (ssh_dir(own_box) / "id_ed25519").unlink()
    (ssh_dir(own_box) / "known_hosts").rename(tmp_path / "known")
    configure(
        own_box,
        f"Host MyBox\n  HostName 127.0.0.1\n  Port {own_box.port}\n  User root\n"
        f'  IdentityFile "{key}"\n  UserKnownHostsFile {tmp_path}/nothing {tmp_path}/known\n',
    )
    with open_shell(Machine("attached", host="MyBox")) as shell:
        assert shell.run(["sh", "-c", "echo $HOME"]).out.decode().strip() == str(own_box.home)


def test_a_configuration_that_cannot_be_read_is_a_sentence(own_box: Box) -> None:
    configure(own_box, "Host x\n  Port twenty-two\nthis is nothing\n")
    machine = Machine("attached", host="x")
    assert "~/.ssh/config cannot be used" in refused(machine)


# Keys


def test_a_named_key_that_others_can_read_is_refused_with_what_to_type(own_box: Box) -> None:
    key = ssh_dir(own_box) / "id_ed25519"
    key.chmod(0o640)
    machine = Machine("attached", host="127.0.0.1", user="root", port=own_box.port, key=str(key))
    assert f"others can read the key {key}: 'chmod 600 {key}'" in refused(machine)
    assert sessions(own_box) == 0
    key.chmod(0o600)
    open_shell(machine).close()


def test_a_link_to_a_key_is_as_good_as_the_key(own_box: Box, tmp_path: Path) -> None:
    key = ssh_dir(own_box) / "id_ed25519"
    (tmp_path / "link").symlink_to(key)
    machine = Machine(
        "attached", host="127.0.0.1", user="root", port=own_box.port, key=str(tmp_path / "link")
    )
    open_shell(machine).close()
    key.chmod(0o604)
    assert "others can read the key" in refused(machine)


def test_a_key_of_the_home_folder_that_others_can_read_is_left_out_and_named(own_box: Box) -> None:
    key = ssh_dir(own_box) / "id_ed25519"
    key.chmod(0o644)
    sentence = refused(own_box.machine)
    assert "does not accept root with your keys" in sentence
    assert f"left out, because others can read them: {key}" in sentence


def test_a_key_that_is_not_there_is_named(own_box: Box) -> None:
    machine = Machine("attached", host="127.0.0.1", port=own_box.port, key="/no/such/key")
    assert refused(machine) == "there is no key file /no/such/key: name another with --identity"


def test_a_key_that_is_not_accepted_is_a_sentence(own_box: Box, tmp_path: Path) -> None:
    key = new_key(tmp_path / "other")
    (ssh_dir(own_box) / "id_ed25519").unlink()
    machine = Machine("attached", host="127.0.0.1", user="root", port=own_box.port, key=str(key))
    assert "does not accept root with your keys" in refused(machine)


def test_a_user_that_is_not_there_is_a_sentence(own_box: Box) -> None:
    machine = Machine("attached", host="127.0.0.1", user="nobody-at-all", port=own_box.port)
    assert "does not accept nobody-at-all" in refused(machine)


def test_a_key_with_a_passphrase_says_ssh_add(own_box: Box) -> None:
    key = ssh_dir(own_box) / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-f", str(key)], check=True)
    assert "has a passphrase: 'ssh-add' it" in refused(own_box.machine)


def test_what_is_no_key_at_all_is_a_sentence(own_box: Box) -> None:
    key = ssh_dir(own_box) / "id_ed25519"
    key.write_text("not a key")
    machine = Machine("attached", host="127.0.0.1", user="root", port=own_box.port, key=str(key))
    assert "does not accept root with your keys (not a valid" in refused(machine)


@pytest.fixture
def agent(own_box: Box, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A running agent that holds the key; the file itself is gone."""
    place = own_box.folder / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(place)], stdout=subprocess.DEVNULL)
    eventually(place.exists)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(place))
    key = ssh_dir(own_box) / "id_ed25519"
    subprocess.run(["ssh-add", "-q", str(key)], check=True)
    key.unlink()
    yield place
    process.kill()
    process.wait()


def test_a_key_in_an_agent_opens_the_door_and_the_agent_stays_at_home(own_box: Box, agent: Path) -> None:
    configure(own_box, "Host *\n  ForwardAgent yes\n")
    shell: Any = open_shell(own_box.machine)
    with shell:
        there = shell.run(["env"]).out.decode()
        assert not any(hop.connection.forward_agent for hop in shell._way)
    assert "SSH_CONNECTION" in there
    assert "SSH_AUTH_SOCK" not in there


# Ciphers


def test_the_cipher_is_aes_gcm_and_small_commands_wait_for_nothing(own_box: Box) -> None:
    shell: Any = open_shell(own_box.machine)
    with shell:
        transport = shell._transport
        assert transport.local_cipher == transport.remote_cipher == "aes128-gcm@openssh.com"
        assert transport.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert transport.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == way.DEAD_AFTER_MS
        assert transport.packetizer._Packetizer__keepalive_interval > 0


@pytest.mark.parametrize("ciphers", ["aes128-cbc,aes256-cbc", "chacha20-poly1305@openssh.com"])
def test_a_server_without_a_cipher_we_trust_is_refused(own_box: Box, ciphers: str) -> None:
    reconfigure(own_box, f"Ciphers {ciphers}")
    assert "offers no encryption that ec2emo trusts" in refused(own_box.machine)
    assert sessions(own_box) == 0


@pytest.mark.parametrize(
    "lines", [["Ciphers aes256-ctr", "MACs hmac-sha2-256"], ["Ciphers aes256-gcm@openssh.com"]]
)
def test_a_server_with_a_plain_good_cipher_is_spoken_to(own_box: Box, lines: list[str]) -> None:
    reconfigure(own_box, *lines)
    open_shell(own_box.machine).close()


def test_a_server_with_weak_digests_alone_is_refused(own_box: Box) -> None:
    reconfigure(own_box, "Ciphers aes256-ctr", "MACs hmac-sha1")
    assert "offers no encryption that ec2emo trusts" in refused(own_box.machine)


# A machine that does not answer


def test_a_closed_port_is_a_sentence_at_once(own_box: Box) -> None:
    own_box.stop()
    began = time.monotonic()
    sentence = refused(own_box.machine, ContactLost)
    assert f"cannot reach {own_box.machine.name}" in sentence
    assert "check that it is on" in sentence
    assert time.monotonic() - began < SOON


def test_a_name_that_nobody_has_is_a_sentence(own_box: Box) -> None:
    assert "cannot reach" in refused(Machine("attached", host="no-such-host.invalid"), ContactLost)


@contextlib.contextmanager
def listening(answer: bytes = b"") -> Iterator[int]:
    """A server that takes connections, says this, and then nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = []

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    connection.sendall(answer)
                    taken.append(connection)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        for connection in taken:
            connection.close()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-nothing\r\n"])
def test_a_server_that_says_nothing_sensible_is_given_up(
    own_box: Box, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    monkeypatch.setattr(way, "CONNECT_TIMEOUT", 1.0)
    began = time.monotonic()
    with listening(answer) as port:
        sentence = refused(Machine("attached", host="127.0.0.1", user="root", port=port), ContactLost)
    assert "cannot reach" in sentence
    assert time.monotonic() - began < SOON


def killed_under(box: Box, shell: Shell, act: Callable[[Shell], object]) -> None:
    """The machine's sshd dies while `act` is under way."""
    death = threading.Timer(0.3, box.stop)
    death.start()
    began = time.monotonic()
    with pytest.raises(ContactLost, match=r"lost contact with ssh://.*goes on: repeat the command"):
        act(shell)
    assert time.monotonic() - began < SOON
    death.join()


ACTS: dict[str, Callable[[Shell], object]] = {
    "waiting for a command": lambda s: s.run(["sleep", "600"], timeout=None),
    "a command that talks": lambda s: s.run(
        ["sh", "-c", "while :; do echo x; sleep 0.01; done"], timeout=None
    ),
    "feeding a command": lambda s: s.run(
        ["sleep", "600"], stdin=iter(lambda: b"x" * 65536, b""), timeout=None
    ),
    "getting a file": lambda s: s.get("/dev/zero", 0, io.BytesIO()),
    "reading again and again": lambda s: [s.read("/etc/hostname", 0) for _ in iter(int, 1)],
    "command after command": lambda s: [s.run(["true"]) for _ in iter(int, 1)],
}


@pytest.mark.parametrize("act", ACTS)
def test_a_machine_that_dies_in_the_middle_is_contact_lost_within_seconds(own_box: Box, act: str) -> None:
    with open_shell(own_box.machine) as shell:
        killed_under(own_box, shell, ACTS[act])
        with pytest.raises(ContactLost):
            shell.run(["true"])
        with pytest.raises(ContactLost):
            shell.read("/etc/hostname", 0)
    own_box.start()
    with open_shell(own_box.machine) as again:
        assert again.run(["true"]).code == 0


def test_a_command_that_gives_no_sign_is_given_up(own_box: Box) -> None:
    with open_shell(own_box.machine) as shell:
        with pytest.raises(ContactLost, match="no sign for 1 s"):
            shell.run(["sleep", "600"], timeout=1)
        assert shell.run(["echo", "hi"]).out == b"hi\n"


def test_a_command_that_gives_signs_may_last(own_box: Box) -> None:
    with open_shell(own_box.machine) as shell:
        script = "for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.15; done"
        assert shell.run(["sh", "-c", script], timeout=0.8).out.split() == [b"%d" % i for i in range(1, 9)]


def test_a_command_that_is_killed_there_is_no_answer(own_box: Box) -> None:
    with open_shell(own_box.machine) as shell:
        with pytest.raises(ContactLost, match="without an exit code"):
            shell.run(["sh", "-c", "kill -9 $PPID"])
        assert shell.run(["true"]).code == 0


def test_no_answer_is_ever_cut_short(own_box: Box) -> None:
    """The end of a command and its last words come together: what came first is read first."""
    with open_shell(own_box.machine) as shell:
        for n in range(60):
            data = b"x" * (997 * n)
            answer = shell.run(["cat"], stdin=data)
            assert (answer.code, len(answer.out)) == (0, len(data))


def test_a_stream_may_be_left_in_full_flow_again_and_again(own_box: Box) -> None:
    class Enough(Exception):
        pass

    class Cup:
        def write(self, data: bytes) -> None:
            raise Enough

    with SSHShell(own_box.machine) as shell:
        for _ in range(150):
            with pytest.raises(Enough):
                shell.get("/dev/zero", 0, Cup())
        assert shell.run(["echo", "here"]).out == b"here\n"


def test_a_second_machine_is_another_connection(own_box: Box) -> None:
    with open_shell(own_box.machine) as one, open_shell(own_box.machine) as two:
        assert isinstance(one, SSHShell)
        one.close()
        assert two.run(["true"]).code == 0


def test_the_port_of_the_configuration_is_not_asked_for_when_one_is_named(own_box: Box) -> None:
    configure(own_box, f"Host 127.0.0.1\n  Port {free_port()}\n  User nobody\n")
    open_shell(own_box.machine).close()
    assert os.environ["HOME"] == str(own_box.client_home)


# Ahead


def test_a_shell_that_was_begun_earlier_is_one_connection(box: Box) -> None:
    with link(box.port) as wire:
        opening = Ahead(through(box, wire))
        eventually(lambda: wire.opened)
        with opening.shell() as shell:
            assert shell.run(["echo", "there"]).out == b"there\n"
        assert wire.opened == 1


def test_what_stands_in_the_way_of_it_is_said_when_it_is_asked_for(box: Box) -> None:
    opening = Ahead(dataclasses.replace(box.machine, port=free_port()))
    with pytest.raises(ContactLost, match="cannot reach"):
        opening.shell()


def test_data_are_refused_without_waiting_for_a_host_that_does_not_answer(ec2emo: Ec2emo, box: Box) -> None:
    ec2emo.env["HOME"] = str(box.client_home)
    (ec2emo.cwd / "features").mkdir()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        where = f"ssh://root@127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        said = ec2emo("deploy", "v9_attention", "--on", where, "--data", "features", code=2).err
    assert "holds no clip" in said
    assert time.monotonic() - began < CONNECT_TIMEOUT
