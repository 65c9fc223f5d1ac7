"""The metadata service of one instance, version 2: a token first, then what it may know of itself."""

from __future__ import annotations

import json
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tests.cloud.moto import ACCOUNT

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud
    from tests.cloud.instances import Instance

LATEST = "/latest/"


class Imds:
    """An HTTP server on the instance's own address. `requests` keeps what was asked."""

    def __init__(self, instance: Instance, cloud: Cloud) -> None:
        self.instance = instance
        self.cloud = cloud
        self.requests: list[str] = []
        self._tokens: dict[str, float] = {}
        imds = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._tell(*imds.get(self.path, self.headers.get("X-aws-ec2-metadata-token")))

            def do_PUT(self) -> None:
                self._tell(*imds.put(self.path, self.headers.get("X-aws-ec2-metadata-token-ttl-seconds")))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self._tell(*imds.post(self.path, json.loads(body)))

            def _tell(self, status: int, text: str) -> None:
                body = text.encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/plain")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((instance.address, 80), Handler)
        self._server.daemon_threads = True
        self.url = f"http://{instance.address}"
        threading.Thread(target=self._server.serve_forever, args=[0.02], daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def put(self, path: str, ttl: str | None) -> tuple[int, str]:
        if path != "/latest/api/token":
            return 404, ""
        if not (ttl or "").isdigit() or not 1 <= int(ttl or 0) <= 21600:
            return 400, "a token lives for 1 to 21600 seconds"
        token = uuid.uuid4().hex
        self._tokens[token] = self.cloud.clock.now() + int(ttl or 0)
        return 200, token

    def get(self, path: str, token: str | None) -> tuple[int, str]:
        path = urlsplit(path).path
        self.requests.append(path)
        if token is None and self.instance.launch.metadata_options.get("HttpTokens") == "required":
            return 401, "Unauthorized"
        if token is not None and self._tokens.get(token, 0) < self.cloud.clock.now():
            return 401, "Unauthorized"
        if self.instance.launch.metadata_options.get("HttpEndpoint") == "disabled":
            return 403, "Forbidden"
        told = self._facts().get(path.rstrip("/"))
        return (404, "Not Found") if told is None else (200, told)

    def post(self, path: str, wish: dict[str, Any]) -> tuple[int, str]:
        """The one thing that is not of AWS: the guest's `shutdown` tells the cloud's clock."""
        if path != "/test-cloud/shutdown":
            return 404, ""
        due = self.cloud.instances.guest_shutdown(self.instance, wish["action"], wish["minutes"])
        return 200, json.dumps({"due": due})

    def _facts(self) -> dict[str, str | None]:
        instance, meta = self.instance, LATEST + "meta-data"
        facts: dict[str, str | None] = {
            f"{meta}/instance-id": instance.id,
            f"{meta}/instance-type": instance.pool.type,
            f"{meta}/instance-life-cycle": instance.pool.market,
            f"{meta}/ami-id": instance.launch.image,
            f"{meta}/placement/availability-zone": instance.pool.zone,
            f"{meta}/placement/region": instance.region,
            f"{meta}/public-ipv4": instance.address if instance.launch.public else None,
            f"{meta}/local-ipv4": instance.private_address,
            f"{meta}/local-hostname": f"ip-{instance.private_address.replace('.', '-')}.ec2.internal",
            f"{meta}/spot/instance-action": instance.interruption and json.dumps(instance.interruption),
            f"{meta}/spot/termination-time": instance.interruption and instance.interruption["time"],
            f"{meta}/events/recommendations/rebalance": instance.rebalance
            and json.dumps({"noticeTime": instance.rebalance}),
            f"{LATEST}dynamic/instance-identity/document": json.dumps(
                {
                    "instanceId": instance.id,
                    "region": instance.region,
                    "availabilityZone": instance.pool.zone,
                    "instanceType": instance.pool.type,
                    "imageId": instance.launch.image,
                    "accountId": ACCOUNT,
                    "privateIp": instance.private_address,
                }
            ),
        }
        if instance.launch.metadata_options.get("InstanceMetadataTags") == "enabled":
            tags = self.cloud.tags(instance.id, instance.region)
            facts[f"{meta}/tags/instance"] = "\n".join(tags)
            facts |= {f"{meta}/tags/instance/{key}": value for key, value in tags.items()}
        if instance.launch.profile:
            role, credentials = self.cloud.role_credentials(instance)
            folder = f"{meta}/iam/security-credentials"
            facts |= {folder: role, f"{folder}/{role}": json.dumps(credentials)}
        return facts
