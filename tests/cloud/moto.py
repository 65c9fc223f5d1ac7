"""moto's server: the parts of AWS that it simulates well, in a process of its own behind ours."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from tests.conftest import eventually, free_port

ACCOUNT = "123456789012"
CREDENTIALS = {"aws_access_key_id": "AKIAIOSFODNN7EXAMPLE", "aws_secret_access_key": "not-a-secret"}
CHECKS = {
    "MOTO_ENABLE_KEYPAIR_VALIDATION": "true",
    "MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION": "true",
}


class Moto:
    """One server for a whole session of tests; `reset` empties it."""

    def __init__(self, log: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._clients: dict[tuple[str, str], Any] = {}
        self._lock = threading.Lock()
        with log.open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
                stdout=said,
                stderr=said,
                env={**os.environ, **CHECKS},
                cwd="/",
                start_new_session=True,
            )

    def ready(self) -> None:
        eventually(self._answers)

    def reset(self) -> None:
        status, _, body = self.send("POST", "/moto-api/reset", {}, b"")
        assert status == 200, body

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def send(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """One request as it came; status, headers and body of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, target, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def client(self, service: str, region: str) -> Any:
        """boto3's own client, for what the cloud asks moto behind the scenes."""
        with self._lock:
            key = (service, region)
            if key not in self._clients:
                self._clients[key] = boto3.session.Session(**CREDENTIALS).client(
                    service,
                    region_name=region,
                    endpoint_url=self.url,
                    config=Config(retries={"total_max_attempts": 1}, max_pool_connections=32),
                )
            return self._clients[key]

    def _answers(self) -> bool:
        assert self.process.poll() is None, "moto's server does not start"
        try:
            return self.send("GET", "/moto-api/data.json", {}, b"")[0] == 200
        except OSError:
            return False
