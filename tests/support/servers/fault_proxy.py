"""A reverse proxy on loopback in front of a real server, which makes some requests fail."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# Called with method, path and the number of earlier requests with both. Returns the fault: None, an HTTP status to
# respond with, RESET (close the connection), HALF (send half of the body), SLOW (send the body in pauses), or bytes: a
# response of status 200 with this body, whatever range is asked for.
Rule = Callable[[str, str, int], "int | str | bytes | None"]
RESET, HALF, SLOW = "reset", "half", "slow"
HOP_BY_HOP_HEADERS = {"connection", "keep-alive", "transfer-encoding", "content-length", "proxy-connection"}


def no_faults(method: str, path: str, before: int) -> None:
    return None


class Proxy(ThreadingHTTPServer):
    """A proxy for the server at ``port``, with the fault that ``rule`` returns for each request.

    ``bodies`` returns content type and body of an error response with a status. Recorded are method and path of all
    requests in ``asked`` and of those with a fault in ``wrong``, and the bytes of all bodies, ``sent``.
    """

    daemon_threads = True

    def __init__(self, port: int, bodies: Callable[[int], tuple[str, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.port, self.bodies, self.lock = port, bodies, threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Stop all faults, and forget the recorded requests."""
        self.rule: Rule = no_faults
        self.asked: list[tuple[str, str]] = []
        self.wrong: list[tuple[str, str]] = []
        self.sent = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def forward(self) -> None:
        content = self.body()
        with self.server.lock:
            before = self.server.asked.count((self.command, self.path))
            self.server.asked.append((self.command, self.path))
        fault = self.server.rule(self.command, self.path, before)
        if fault is not None:
            with self.server.lock:
                self.server.wrong.append((self.command, self.path))
        if fault == RESET:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif isinstance(fault, int):
            kind, text = self.server.bodies(fault)
            self.send(fault, [("Content-Type", kind)], text)
        elif isinstance(fault, bytes):
            headers = [(name, value) for name, value in self.ask(content)[1] if name.lower() != "content-range"]
            self.send(200, headers, fault)
        else:
            self.send(*self.ask(content), fault=fault)

    def body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            content = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def ask(self, content: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP_HEADERS}
        if content or self.command in ("PUT", "POST"):
            headers["Content-Length"] = str(len(content))
        with contextlib.closing(connection):
            connection.request(self.command, self.path, content, headers)
            response = connection.getresponse()
            kept = [(name, value) for name, value in response.getheaders() if name.lower() not in HOP_BY_HOP_HEADERS]
            if self.command == "HEAD" and (length := response.getheader("Content-Length")):
                kept.append(("Content-Length", length))
            return response.status, kept, response.read()

    def send(self, status: int, headers: list[tuple[str, str]], content: bytes, fault: str | int | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if self.command != "HEAD" and status not in (204, 304):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        with self.server.lock:
            self.server.sent += len(content)
        with contextlib.suppress(OSError):
            if fault == HALF:
                self.close_connection = True
                self.wfile.write(content[: len(content) // 2])
            elif fault == SLOW:
                for start in range(0, len(content), 1 + len(content) // 5):
                    time.sleep(0.05)
                    self.wfile.write(content[start : start + 1 + len(content) // 5])
            else:
                self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = forward


@contextlib.contextmanager
def fault_proxy(port: int, bodies: Callable[[int], tuple[str, bytes]]) -> Iterator[Proxy]:
    """Run a proxy in front of a port on loopback within this block."""
    proxy = Proxy(port, bodies)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()
