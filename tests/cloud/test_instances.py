"""Instances that boot: what is in them, how they are reached, and how they end."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tests.cloud.cloud import Cloud
from tests.cloud.conftest import Account, code
from tests.conftest import eventually

HOST_KEYS = """#cloud-config
ssh_keys:
  ed25519_private: |
{private}
  ed25519_public: {public}
write_files:
  - path: /root/written
    content: aGVsbG8=
    encoding: b64
    permissions: "0600"
runcmd:
  - [sh, -c, "echo ran > /root/ran"]
"""


def test_user_data_runs_as_root_and_the_key_pair_lets_the_user_in(account: Account) -> None:
    instance = account.launch("#!/bin/sh\nid -un > /root/who\necho seen on the console\n")
    said = account.reached(instance, "cloud-init status --wait; id -un; pwd; sudo -n cat /root/who; hostname")
    hostname = f"ip-{instance.private_address.replace('.', '-')}"
    assert said.split("\n") == ["status: done", "ubuntu", "/home/ubuntu", "root", hostname, ""]
    console = account.ec2.get_console_output(InstanceId=instance.id, Latest=True)["Output"]
    assert "seen on the console" in console
    answered = account.known_hosts.read_text().split()[2]
    assert f"ssh-ed25519 {answered} " in console.partition("BEGIN SSH HOST KEY KEYS")[2]


def test_a_host_key_in_cloud_config_is_the_one_that_answers_first(account: Account) -> None:
    host_key = account.key.parent / "host"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(host_key)], check=True)
    private = "".join(f"    {line}\n" for line in host_key.read_text().splitlines())
    public = host_key.with_suffix(".pub").read_text().strip()
    instance = account.launch(HOST_KEYS.format(private=private.rstrip(), public=public))
    files = account.reached(instance, "cloud-init status --wait && sudo cat /root/written /root/ran")
    assert files == "status: done\nhelloran\n"
    assert account.known_hosts.read_text().split()[2] == public.split()[1]


def test_what_cloud_init_would_not_do_fails_aloud(account: Account) -> None:
    instance = account.launch("#cloud-config\npackages: [tmux]\n")
    assert account.ssh(instance, "true").returncode in (0, 255)
    status = 'cloud-init status --wait; echo "$?"; cat /run/cloud-init/result.json'
    said = account.reached(instance, status).splitlines()
    assert said[:2] == ["status: error", "1"]
    assert "packages" in json.loads(said[2])["v1"]["errors"][0]


def test_an_instance_is_alone_with_its_processes_and_files(account: Account, tmp_path: Path) -> None:
    instance = account.launch()
    looked = account.reached(
        instance, f"ps -e -o comm= | sort -u; ls {tmp_path} /root /home; cat /proc/sys/kernel/random/boot_id"
    )
    own = Path("/proc/sys/kernel/random/boot_id").read_text()
    assert "pytest" not in looked
    assert "ec2-user" in looked
    assert own not in looked


def test_the_firewall_lets_in_whom_the_group_admits_and_keeps_what_is_open(account: Account) -> None:
    cloud = account.cloud
    instance = account.launch()
    account.reached(instance)
    way = [
        "-o",
        f"ControlPath={account.key.parent}/line",
        "-o",
        "ControlMaster=auto",
        "-o",
        "ControlPersist=60",
    ]
    account.reached(instance, "true", *way)
    cloud.caller = "203.0.113.9"
    eventually(lambda: account.ssh(instance, "true", "-o", "ControlPath=none").returncode == 255)
    assert account.ssh(instance, "echo still here", *way).stdout == "still here\n"
    rule = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "203.0.113.0/24"}]}
    account.ec2.authorize_security_group_ingress(GroupId=account.group, IpPermissions=[rule])
    account.reached(instance, "true", "-o", "ControlPath=none")
    account.ssh(instance, "", *way, "-O", "exit")


def test_the_metadata_service_wants_a_token_first(account: Account) -> None:
    instance = account.launch()
    ask = """
    at=$AWS_EC2_METADATA_SERVICE_ENDPOINT/latest
    curl -s -o /dev/null -w '%{http_code} ' $at/meta-data/instance-id
    token=$(curl -s -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' $at/api/token)
    for path in instance-id placement/region tags/instance/ec2emo:owner spot/instance-action; do
        curl -s -f -H "X-aws-ec2-metadata-token: $token" $at/meta-data/$path || printf none
        printf ' '
    done
    """
    assert account.reached(instance, ask).split() == ["401", instance.id, "us-east-1", "me", "none"]


def test_a_shutdown_in_the_guest_comes_true_on_the_clouds_clock(account: Account) -> None:
    cloud = account.cloud
    instance = account.launch("#!/bin/sh\nshutdown -h +720\n")
    account.reached(instance, "cloud-init status --wait")
    assert "MODE=poweroff" in account.reached(instance, "cat /run/systemd/shutdown/scheduled")
    cloud.clock.advance(719 * 60)
    assert instance.state == "running"
    account.reached(instance, "sudo shutdown -c; sudo shutdown -h +30")
    cloud.clock.advance(29 * 60)
    assert instance.state == "running"
    cloud.clock.advance(2 * 60)
    eventually(lambda: instance.state == "terminated")
    told = account.described(instance)
    assert told["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"
    assert told["NetworkInterfaces"] == []
    assert [left.kind for left in cloud.leftovers("me")] == ["template", "group", "key"]


def test_nobody_but_root_shuts_down(account: Account) -> None:
    instance = account.launch()
    said = account.reached(instance, "shutdown -h now; echo $?; systemctl restart ssh; echo $?")
    assert said.split() == ["1", "4"]
    assert instance.shutdown is None


def test_a_frozen_guest_keeps_no_promise_of_its_own(account: Account) -> None:
    instance = account.launch("#!/bin/sh\nshutdown -h +10\n")
    account.reached(instance, "cloud-init status --wait")
    account.cloud.freeze(instance)
    account.cloud.clock.advance(3600)
    assert instance.state == "running"
    (status,) = account.ec2.describe_instance_status(InstanceIds=[instance.id])["InstanceStatuses"]
    assert status["InstanceStatus"]["Status"] == "impaired"
    account.ec2.terminate_instances(InstanceIds=[instance.id])
    eventually(lambda: instance.state == "terminated")


def test_stop_and_start_keep_the_disk_and_run_user_data_no_more(account: Account) -> None:
    unit = "[Service]\\nExecStart=/bin/sh -c 'echo up >>/root/log; exec sleep 1000'\\nRestart=always\\n"
    instance = account.launch(
        f'#!/bin/sh\necho once >>/root/log\nprintf "{unit}" >/etc/systemd/system/beat.service\n'
        "systemctl daemon-reload && systemctl enable --now beat.service\n"
    )
    account.reached(instance, "cloud-init status --wait && systemctl is-active beat")
    boot = "cat /proc/sys/kernel/random/boot_id"
    address, booted = instance.address, account.reached(instance, boot)
    account.ec2.stop_instances(InstanceIds=[instance.id])
    account.ec2.get_waiter("instance_stopped").wait(InstanceIds=[instance.id], WaiterConfig={"Delay": 1})
    told = account.described(instance)
    assert "PublicIpAddress" not in told
    assert told["StateTransitionReason"].startswith("User initiated (")
    account.ec2.start_instances(InstanceIds=[instance.id])
    account.running(instance.id)
    assert instance.address != address
    account.known_hosts.unlink()
    assert account.reached(instance, boot) != booted
    eventually(lambda: account.reached(instance, "sudo cat /root/log") == "once\nup\nup\n", 10)
    with pytest.raises(ClientError) as refused:
        account.ec2.start_instances(InstanceIds=["i-0123456789abcdef0"])
    assert code(refused) == "InvalidInstanceID.NotFound"


def test_a_reboot_keeps_address_disk_and_price_and_is_another_boot(account: Account) -> None:
    instance = account.launch()
    boot = "cat /proc/sys/kernel/random/boot_id"
    address, booted = instance.address, account.reached(instance, f"echo kept >~/file; {boot}")
    account.ec2.reboot_instances(InstanceIds=[instance.id])
    eventually(lambda: account.ssh(instance, boot).stdout not in ("", booted))
    assert account.reached(instance, "cat ~/file") == "kept\n"
    assert (instance.address, len(instance.paid)) == (address, 1)


def test_termination_asks_processes_to_end_and_leaves_none(account: Account) -> None:
    instance = account.launch()
    account.reached(instance, "setsid sh -c 'trap \"echo bye >/dev/console; exit\" TERM; sleep 1000 & wait' "
                    ">/dev/null 2>&1 </dev/null &")  # fmt: skip
    process = instance.machine.process
    assert process is not None
    account.ec2.terminate_instances(InstanceIds=[instance.id])
    eventually(lambda: instance.state == "terminated")
    assert process.poll() == 0, "everybody left when asked"
    assert not (instance.machine.folder / "disk").exists()


def test_a_spot_instance_gets_its_notice_and_is_taken_two_minutes_later(account: Account) -> None:
    cloud = account.cloud
    instance = account.launch(market="spot")
    look = (
        "t=$(curl -s -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "
        '$AWS_EC2_METADATA_SERVICE_ENDPOINT/latest/api/token); curl -s -f -H "X-aws-ec2-metadata-token: $t" '
        "$AWS_EC2_METADATA_SERVICE_ENDPOINT/latest/meta-data/"
    )
    cloud.rebalance(instance)
    cloud.notice(instance)
    assert json.loads(account.reached(instance, look + "spot/instance-action"))["action"] == "terminate"
    assert "noticeTime" in account.reached(instance, look + "events/recommendations/rebalance")
    (request,) = account.ec2.describe_spot_instance_requests()["SpotInstanceRequests"]
    assert request["Status"]["Code"] == "marked-for-termination"
    cloud.clock.advance(110)
    assert instance.state == "running"
    cloud.clock.advance(11)
    eventually(lambda: instance.state == "terminated")
    assert account.described(instance)["StateReason"]["Code"] == "Server.SpotInstanceTermination"
    (request,) = account.ec2.describe_spot_instance_requests()["SpotInstanceRequests"]
    assert request["Status"]["Code"] == "instance-terminated-no-capacity"


def test_somebody_else_at_its_address_shows_another_key(account: Account) -> None:
    instance = account.launch()
    account.reached(instance)
    known = account.known_hosts.read_text()
    account.cloud.impersonate(instance)
    eventually(lambda: account.ssh(instance, "true").returncode == 255)
    refused = account.ssh(instance, "true")
    eventually(
        lambda: (
            "HOST IDENTIFICATION HAS CHANGED" in account.ssh(instance, "true", "-o", "LogLevel=INFO").stderr
        )
    )
    assert refused.returncode == 255
    assert account.known_hosts.read_text() == known


def test_a_tunnel_needs_no_open_port(account: Account) -> None:
    """To the world: through SSM where the role lets the agent speak, through an endpoint from its group."""
    cloud, iam = account.cloud, account.cloud.client("iam")
    group = account.ec2.describe_security_groups(GroupIds=[account.group])["SecurityGroups"][0]
    account.ec2.revoke_security_group_ingress(GroupId=account.group, IpPermissions=group["IpPermissions"])
    iam.create_role(RoleName="machine", AssumeRolePolicyDocument="{}")
    iam.create_instance_profile(InstanceProfileName="profile")
    iam.add_role_to_instance_profile(InstanceProfileName="profile", RoleName="machine")
    account.template(IamInstanceProfile={"Name": "profile"})
    (made,) = account.fleet()["Instances"]
    instance = account.running(made["InstanceIds"][0])
    environment = " ".join(f"{k}={v}" for k, v in cloud.environment.items())
    program = f"ProxyCommand=env {environment} {cloud.programs}/aws"
    endpoint = ["-o", f"{program} ec2-instance-connect open-tunnel --instance-id {instance.id}"]
    session = "--document-name AWS-StartSSHSession --parameters portNumber=22"
    agent = ["-o", f"{program} ssm start-session --target {instance.id} {session}"]
    assert account.ssh(instance, "true").returncode == 255
    assert account.ssh(instance, "true", *endpoint).returncode == 255
    through = [{"GroupId": cloud.connections.group(cloud.region)}]
    way_in = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "UserIdGroupPairs": through}
    account.ec2.authorize_security_group_ingress(GroupId=account.group, IpPermissions=[way_in])
    assert account.reached(instance, "head -c 3000000 /dev/zero | wc -c", *endpoint) == "3000000\n"
    refused = account.ssh(instance, "true", *agent)
    assert refused.returncode == 255
    assert "TargetNotConnected" in refused.stderr
    speak = {"Effect": "Allow", "Action": "ssm:UpdateInstanceInformation", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [speak]})
    iam.put_role_policy(RoleName="machine", PolicyName="agent", PolicyDocument=policy)
    assert account.ssh(instance, "echo here", *agent).stdout == "here\n"
    assert {"ec2-instance-connect:OpenTunnel", "ssm:StartSession"} <= set(cloud.names())


def test_a_key_sent_by_instance_connect_is_good_for_a_minute(account: Account) -> None:
    cloud = account.cloud
    instance = account.launch()
    account.reached(instance)
    other = account.key.parent / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    way = ["-o", "IdentitiesOnly=yes", "-o", "IdentityFile=none"]
    account.key = other
    assert account.ssh(instance, "true", *way).returncode == 255
    cloud.client("ec2-instance-connect").send_ssh_public_key(
        InstanceId=instance.id,
        InstanceOSUser="ubuntu",
        SSHPublicKey=other.with_suffix(".pub").read_text(),
        AvailabilityZone="us-east-1a",
    )
    assert account.ssh(instance, "true", *way).returncode == 0
    cloud.clock.advance(61)
    assert account.ssh(instance, "true", *way).returncode == 255


def test_an_instance_may_die_before_it_runs_and_says_why(account: Account, cloud: Cloud) -> None:
    cloud.instances.stillborn = "Client.VolumeLimitExceeded: Volume limit exceeded"
    account.template()
    (made,) = account.fleet()["Instances"]
    instance = cloud.instances.all[made["InstanceIds"][0]]
    eventually(lambda: instance.state == "terminated")
    assert account.described(instance)["StateReason"] == {
        "Code": "Client.VolumeLimitExceeded",
        "Message": "Client.VolumeLimitExceeded: Volume limit exceeded",
    }
    assert cloud.bill().of(instance.id) < 0.001


def test_user_data_may_come_in_parts(account: Account) -> None:
    """MIME, compressed, with a hook that runs before anyone can log in."""
    import gzip
    from email.mime.multipart import MIMEMultipart
    from email.mime.text import MIMEText

    whole = MIMEMultipart()
    whole.attach(MIMEText("#cloud-boothook\ndate +%s%N > /root/hook\n", "cloud-boothook"))
    whole.attach(MIMEText("#cloud-config\nbootcmd: ['echo boot >> /root/log']\n", "cloud-config"))
    whole.attach(MIMEText("#!/bin/sh\necho script >> /root/log\n", "x-shellscript"))
    account.template(UserData=base64.b64encode(gzip.compress(whole.as_bytes())).decode())
    (made,) = account.fleet()["Instances"]
    instance = account.running(made["InstanceIds"][0])
    said = account.reached(
        instance, "cloud-init status --wait && sudo cat /root/log && sudo test -s /root/hook"
    )
    assert said == "status: done\nboot\nscript\n"
