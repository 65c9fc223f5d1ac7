"""The cloud's door: HTTP on 127.0.0.1, where `AWS_ENDPOINT_URL` leads."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import traceback
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from tests.cloud.faults import Cut
from tests.cloud.wire import Answer, Request

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud


class Handler(BaseHTTPRequestHandler):
    """One connection; every request on it is the cloud's to answer, or to leave without an answer."""

    protocol_version = "HTTP/1.1"
    cloud: Cloud

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, Cut):
            self.close_connection = True

    def _answer(self) -> None:
        request = Request(
            self.command, self.path, dict(self.headers.items()), self._body(), self.client_address
        )
        try:
            self._send(self.cloud.answer(request))
        except Cut:
            self.connection.shutdown(socket.SHUT_RDWR)
            raise

    def do_CONNECT(self) -> None:
        """A session's line to an instance, for as long as both ends like."""
        self.send_response_only(200)
        self.end_headers()
        self.cloud.connections.join(self.path.rpartition("/")[2], self.connection)
        self.close_connection = True

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = _answer  # noqa: N815

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        if len(body) < length:
            raise ConnectionError("the caller died while it asked")
        return body

    def _send(self, answer: Answer) -> None:
        self.send_response_only(answer.status)
        names = {name.lower() for name, _ in answer.headers}
        for name, value in answer.headers:
            if name.lower() not in ("connection", "transfer-encoding", "date", "server"):
                self.send_header(name, value)
        self.send_header("Date", formatdate(self.cloud.clock.now(), usegmt=True))
        if "content-length" not in names:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """A thread for each connection."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self._open: set[socket.socket] = set()
        handler = type("CloudHandler", (Handler,), {"cloud": cloud})
        super().__init__(("127.0.0.1", 0), handler)
        self.port = self.server_address[1]
        threading.Thread(target=self.serve_forever, args=[0.05], name="cloud", daemon=True).start()

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that the client has closed is no news; anything else fails the test that is on."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            self.cloud.errors.append(traceback.format_exc())

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def close(self) -> None:
        """The door and every connection through it."""
        self.shutdown()
        self.server_close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
