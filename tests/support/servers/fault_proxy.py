"""A reverse proxy on loopback that stands in front of a real server and lets some requests go wrong."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# Given method, path and how often this path was asked before: None, a status, or one of the words below.
Rule = Callable[[str, str, int], "int | str | None"]
RESET, HALF, SLOW = "reset", "half", "slow"
HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "proxy-connection"}


def no_faults(method: str, path: str, before: int) -> None:
    return None


class Proxy(ThreadingHTTPServer):
    """Stands in front of ``port``. ``rule`` says what goes wrong; ``asked`` is what came, ``wrong`` what did, ``sent``
    how many bytes of bodies went back."""

    daemon_threads = True

    def __init__(self, port: int, bodies: Callable[[int], tuple[str, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), Visit)
        self.port, self.bodies, self.lock = port, bodies, threading.Lock()
        self.reset()

    def reset(self) -> None:
        self.rule: Rule = no_faults
        self.asked: list[tuple[str, str]] = []
        self.wrong: list[tuple[str, str]] = []
        self.sent = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients hang up, which is not this server's business."""


class Visit(BaseHTTPRequestHandler):
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
        else:
            self.send(*self.ask(content), trouble=fault)

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
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
        if content or self.command in ("PUT", "POST"):
            headers["Content-Length"] = str(len(content))
        with contextlib.closing(connection):
            connection.request(self.command, self.path, content, headers)
            answer = connection.getresponse()
            kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP]
            if self.command == "HEAD" and (length := answer.getheader("Content-Length")):
                kept.append(("Content-Length", length))
            return answer.status, kept, answer.read()

    def send(
        self, status: int, headers: list[tuple[str, str]], content: bytes, trouble: str | int | None = None
    ) -> None:
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
            if trouble == HALF:
                self.close_connection = True
                self.wfile.write(content[: len(content) // 2])
            elif trouble == SLOW:
                for start in range(0, len(content), 1 + len(content) // 5):
                    time.sleep(0.05)
                    self.wfile.write(content[start : start + 1 + len(content) // 5])
            else:
                self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = forward


@contextlib.contextmanager
def standing_before(port: int, bodies: Callable[[int], tuple[str, bytes]]) -> Iterator[Proxy]:
    """A proxy in front of a port of this machine, while the block runs."""
    proxy = Proxy(port, bodies)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()
