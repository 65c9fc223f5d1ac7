"""moto's server: the parts of AWS that it simulates well, in a process of its own behind ours."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from botocore.config import Config

from tests.cloud.wire import Answer, Request, session
from tests.conftest import eventually, free_port

ACCOUNT = "123456789012"
ENDS_WITH_US = ["setpriv", "--pdeathsig", "KILL", "--"]
HOP = ("connection", "expect", "transfer-encoding")  # headers that are of one connection
SETTINGS = {
    "MOTO_EC2_LOAD_DEFAULT_AMIS": "false",  # ours are in amis.py
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
                [*ENDS_WITH_US, sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
                stdout=said,
                stderr=said,
                env={**os.environ, **SETTINGS},
                cwd="/",
                start_new_session=True,
            )

    def ready(self) -> None:
        eventually(self._answers)

    def reset(self) -> None:
        answer = self.send(Request("POST", "/moto-api/reset", {}, b"", ("", 0)))
        assert answer.status == 200, answer.body

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def send(self, request: Request) -> Answer:
        """One request as it came."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        headers = {k: v for k, v in request.headers.items() if k.lower() not in HOP}
        try:
            connection.request(request.method, request.target, request.body, headers)
            answer = connection.getresponse()
            return Answer(answer.status, answer.getheaders(), answer.read())
        finally:
            connection.close()

    def client(self, service: str, region: str) -> Any:
        """boto3's own client, for what the cloud asks moto behind the scenes."""
        with self._lock:
            key = (service, region)
            if key not in self._clients:
                self._clients[key] = session().client(
                    service,
                    region_name=region,
                    endpoint_url=self.url,
                    config=Config(retries={"total_max_attempts": 1}, max_pool_connections=32),
                )
            return self._clients[key]

    def _answers(self) -> bool:
        assert self.process.poll() is None, "moto's server does not start"
        try:
            return self.send(Request("GET", "/moto-api/data.json", {}, b"", ("", 0))).status == 200
        except OSError:
            return False
