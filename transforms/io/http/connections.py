"""Connections of http that can't be held for ever, and turns at a host."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

HEAD_TIMEOUT_S = 30.0


class HostSemaphores:
    """A gate for each host that lets ``width`` threads through at once. A host that nobody asks takes no memory."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.inside: Counter[str] = Counter()
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def through(self, host: str) -> Iterator[float]:
        """Wait for one's turn, which ends with the block; how many seconds that took."""
        came = time.monotonic()
        with self._changed:
            self._changed.wait_for(lambda: self.inside[host] < self.width)
            self.inside[host] += 1
        try:
            yield time.monotonic() - came
        finally:
            with self._changed:
                self.inside[host] -= 1
                if not self.inside[host]:
                    del self.inside[host]
                self._changed.notify_all()


@contextlib.contextmanager
def close_after(seconds: float, wire: Callable[[], socket.socket | None]) -> Iterator[None]:
    """Shut a connection that is still in use after so many seconds: a peer may send a byte now and then, for ever."""

    def cut() -> None:
        sock = wire()
        if sock is not None:
            with contextlib.suppress(OSError):
                # That of an encrypted socket would wait for its peer.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    timer = threading.Timer(max(0.0, seconds), cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class _DeadlineConnection(HTTPConnection):
    """A connection whose handshake, and the head of whose answer, takes so long and no longer."""

    wire: socket.socket | None = None

    def connect(self) -> None:
        with close_after(HEAD_TIMEOUT_S, lambda: self.sock):
            super().connect()
        # Kept, as http.client forgets it where it ends with the answer.
        self.wire = self.sock

    def getresponse(self) -> Any:
        with close_after(HEAD_TIMEOUT_S, lambda: self.wire):
            return super().getresponse()


class _TlsDeadlineConnection(_DeadlineConnection, HTTPSConnection):
    pass


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _DeadlineConnection


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TlsDeadlineConnection


def with_deadlines(manager: urllib3.PoolManager) -> urllib3.PoolManager:
    """The manager, with connections that can't be held for ever."""
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
    return manager
