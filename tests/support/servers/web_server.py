"""A real http server on loopback that behaves as badly as a test wants it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[["Visit"], None]


class Visit(BaseHTTPRequestHandler):
    """One request. The answers of a test are functions of it."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        self.server.answer(self)

    def reply(self, content: bytes = b"", status: int = 200, **headers: Any) -> None:
        """An answer with these headers; ``Content-Length`` is true unless it is given. None leaves it out."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **named}.items():
            if value is not None:
                self.send_header(name, str(value))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Answers with ``answer``, and keeps what it was asked: paths, and headers by names in lower case."""

    daemon_threads = True

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), Visit)
        self.answer, self.lock = answer, threading.Lock()
        self.asked: list[tuple[str, dict[str, str]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is what some tests are about."""


@contextlib.contextmanager
def serving(answer: Answer, context: Any = None) -> Iterator[Server]:
    """A server while the block runs; with a ``context`` of ssl it speaks https."""
    server = Server(answer)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
