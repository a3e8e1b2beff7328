"""One server on loopback for all hosted APIs: a proxy that answers calls to their real names itself."""

from __future__ import annotations

import contextlib
import json
import socketserver
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from .authority import make_authority
from .cloudapi import CloudApi
from .falapi import FalApi
from .faults import Fault, Respond


class Exchange(BaseHTTPRequestHandler):
    """One connection: CONNECT, then TLS, then requests."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    host = ""
    # Otherwise a client that sends nothing would keep a thread for ever.
    timeout = 60
    server: Server

    def do_CONNECT(self) -> None:
        self.host = self.path.rpartition(":")[0]
        if self.server.unreachable.get(self.host, 0) > 0:
            self.server.unreachable[self.host] -= 1
            self.send_error(502)
            return
        self.send_response(200)
        self.end_headers()
        # http.server closes the connection of an HTTP/1.0 client, and some clients speak HTTP/1.0 to a proxy.
        self.close_connection = False
        try:
            self.connection = self.server.context.wrap_socket(self.connection, server_side=True)
        except (OSError, ssl.SSLError):
            self.close_connection = True
            return
        self.rfile = self.connection.makefile("rb", -1)
        self.wfile = socketserver._SocketWriter(self.connection)

    def do_GET(self) -> None:
        self.handle_call()

    do_POST = do_PUT = do_GET

    def handle_call(self) -> None:
        split = urlsplit(self.path)
        self.route, self.query = split.path, parse_qs(split.query)
        api = self.server.api_of(self.host)
        operation = api.operation(self.command, self.host, self.route, self.query)
        self.server.calls.append((operation, self.host, self.server.now()))
        self.server.keys.setdefault(self.host, set()).add(
            self.headers.get("Authorization") or self.headers.get("X-Moondream-Auth") or ""
        )
        faults = [fault for fault in self.server.faults if not fault.before or fault.at == operation]
        for fault in faults:
            if fault.before and fault.where is None and fault.matches(operation, self):
                self.read_body()
                response = fault.act(self, None)
                if response:
                    self.send(response)
                return
        self.body = self.read_body()
        response = api.answer(operation, self)
        for fault in faults:
            if (not fault.before or fault.where) and fault.matches(operation, self):
                response = fault.act(self, response)
                if response is None:
                    return
                break
        self.send(response)

    def read_body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def send(self, response: Respond, cut: int | None = None) -> None:
        status, body, headers = response
        content = body.encode() if isinstance(body, str) else body
        with contextlib.suppress(OSError):
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:cut])
            self.wfile.flush()

    def disconnect(self) -> None:
        """Close the connection without an answer."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            # The file object holds the socket open, which would prevent the reset.
            self.rfile.close()
            self.connection.close()

    def finish(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().finish()
        with contextlib.suppress(OSError):
            self.connection.close()

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """The server. ``faults``: the faults to inject. ``fal`` and ``cloud``: the APIs and what they recorded."""

    daemon_threads = True
    # A client whose connection finds the queue full tries again after a second.
    request_queue_size = 128

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.authority, self.context = make_authority(folder)
        self.faults: list[Fault] = []
        self.unreachable: dict[str, int] = {}
        self.calls: list[tuple[str, str, float]] = []
        self.keys: dict[str, set[str]] = {}
        self.over = threading.Event()
        self.now: Any = lambda: 0.0
        self.fal, self.cloud = FalApi(), CloudApi()

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a process that calls this server: the proxy, its certificate and the API keys."""
        proxy = f"http://127.0.0.1:{self.server_port}"
        return {
            "HTTPS_PROXY": proxy,
            "https_proxy": proxy,
            # Beam's workers connect to their runner without the proxy.
            "NO_PROXY": "localhost,127.0.0.1,::1",
            "no_proxy": "localhost,127.0.0.1,::1",
            "SSL_CERT_FILE": str(self.authority),
            "FAL_KEY": self.fal.key,
            "FAL_HOME_DIR": str(self.authority.parent / "no-fal-home"),
            "MOONDREAM_API_KEY": self.cloud.key,
        }

    def api_of(self, host: str) -> Any:
        return self.cloud if host in ("api.moondream.ai", "storage.example.com") else self.fal

    def count(self, operation: str) -> int:
        """Return the number of calls of an operation."""
        return sum(name == operation for name, _, _ in self.calls)

    def times(self, operation: str) -> list[float]:
        """Return the times of the calls of an operation, in seconds of ``now``."""
        return [time for name, _, time in self.calls if name == operation]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a closed connection; print any other error."""
        import sys

        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Run a server during the block."""
    server = Server(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


def as_json(value: Any, status: int = 200, **headers: str) -> Respond:
    """Return an answer with this value as JSON."""
    return status, json.dumps(value), {name.replace("_", "-"): value for name, value in headers.items()}
