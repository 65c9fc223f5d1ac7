"""The AWS CLI, as far as ec2emo calls it: the two commands whose input and output are a line to port 22."""

from __future__ import annotations

import argparse
import socket
import sys
import threading
import urllib.request
from urllib.parse import urlsplit

import boto3


def main() -> None:
    parser = argparse.ArgumentParser(prog="aws")
    parser.add_argument("command", nargs=2)
    for option in (
        "target",
        "instance-id",
        "document-name",
        "parameters",
        "region",
        "profile",
        "remote-port",
    ):
        parser.add_argument(f"--{option}")
    asked = parser.parse_args()
    session = boto3.session.Session(profile_name=asked.profile, region_name=asked.region)
    if asked.command == ["ssm", "start-session"]:
        assert asked.document_name == "AWS-StartSSHSession", asked.document_name
        assert asked.parameters == "portNumber=22", asked.parameters
        url = urlsplit(
            session.client("ssm").start_session(
                Target=asked.target,
                DocumentName=asked.document_name,
                Parameters={"portNumber": ["22"]},
            )["StreamUrl"]
        )
    elif asked.command == ["ec2-instance-connect", "open-tunnel"]:
        url = urlsplit(tunnel(session, asked.instance_id))
    else:
        parser.error(f"the test cloud's aws does not know {asked.command}")
    line = socket.create_connection((url.hostname, url.port))
    line.sendall(f"CONNECT {url.path} HTTP/1.1\r\n\r\n".encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += line.recv(1)
    threading.Thread(target=send, args=[line], daemon=True).start()
    while data := line.recv(65536):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def tunnel(session: boto3.session.Session, instance: str) -> str:
    """As the CLI does: find the endpoint, then ask it, which only it knows how to, for a line."""
    ec2 = session.client("ec2")
    ec2.describe_instances(InstanceIds=[instance])
    if not ec2.describe_instance_connect_endpoints()["InstanceConnectEndpoints"]:
        sys.exit("There are no available instance connect endpoints.")
    url: str = ec2.meta.endpoint_url
    key = session.get_credentials().access_key
    ask = f"{url}/open-tunnel?instanceId={instance}&key={key}&region={ec2.meta.region_name}"
    with urllib.request.urlopen(ask) as answer:
        return f"{url}/session/{answer.read().decode()}"


def send(line: socket.socket) -> None:
    while data := sys.stdin.buffer.read1(65536):
        line.sendall(data)
    line.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    main()
