"""A vision server on loopback, in one of the dialects of dialects.py, with faults."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from typing import Any

from support.hosted.faults import Fault
from support.hosted.server import Exchange

from .dialects import DIALECTS, Dialect


class ChatExchange(Exchange):
    """One connection. A fault of the operation "chat" or "models" strikes before or after the dialect answers."""

    server: ChatServer

    def handle_call(self) -> None:
        operation = "chat" if self.command == "POST" else "models"
        self.body = self.read_body()
        if operation == "models":
            self.answer(operation)
            return
        with self.server.lock:
            self.server.in_flight += 1
            self.server.max_in_flight = max(self.server.max_in_flight, self.server.in_flight)
        try:
            self.answer(operation)
        finally:
            with self.server.lock:
                self.server.in_flight -= 1

    def answer(self, operation: str) -> None:
        dialect, faults = self.server.dialect, self.server.faults
        early = next((fault for fault in faults if fault.before and fault.matches(operation, self)), None)
        if early is not None:
            if response := early.act(self, None):
                self.send(response)
            return
        if operation == "chat":
            assert self.path == "/v1/chat/completions", self.path
            self.keys_seen()
            response = dialect.chat(json.loads(self.body), self.headers)
        else:
            response = dialect.get(self.path)
        late = next((fault for fault in faults if not fault.before and fault.matches(operation, self)), None)
        if late is not None:
            response = late.act(self, response)
        if response is not None:
            self.send(response)

    def keys_seen(self) -> None:
        self.server.keys.add(self.headers.get("Authorization"))


class ChatServer(ThreadingHTTPServer):
    """The server. ``max_in_flight``: the most questions that were in work at one time."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, dialect: Dialect, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), ChatExchange)
        self.dialect, self.faults = dialect, list[Fault]()
        self.keys: set[str | None] = set()
        self.in_flight = self.max_in_flight = 0
        self.lock, self.over = threading.Lock(), threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a closed connection; print any other error."""
        import sys

        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


@contextlib.contextmanager
def chat_server(kind: str = "vllm", port: int = 0, **options: Any) -> Iterator[ChatServer]:
    """Run a server of a kind in ``DIALECTS`` within this block. ``options``: fields of its dialect."""
    server = ChatServer(DIALECTS[kind](**options), port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
