"""HTTP connections with deadlines, and a limit on connections per host."""

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

# The longest handshake, and the longest wait for the complete headers of a response.
HEAD_TIMEOUT_S = 30.0


class HostSemaphores:
    """A semaphore for each host, which ``max_per_host`` threads may hold. ``in_use`` holds busy hosts only."""

    def __init__(self, max_per_host: int) -> None:
        self.max_per_host = max_per_host
        self.in_use: Counter[str] = Counter()
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def slot(self, host: str) -> Iterator[float]:
        """Wait for the host's semaphore, without a limit, and hold it in this block; yield the seconds waited."""
        started = time.monotonic()
        with self._changed:
            self._changed.wait_for(lambda: self.in_use[host] < self.max_per_host)
            self.in_use[host] += 1
        try:
            yield time.monotonic() - started
        finally:
            with self._changed:
                self.in_use[host] -= 1
                if not self.in_use[host]:
                    del self.in_use[host]
                self._changed.notify_all()


@contextlib.contextmanager
def close_after(timeout_s: float, get_socket: Callable[[], socket.socket | None]) -> Iterator[None]:
    """Shut down the socket that ``get_socket()`` returns if this block takes longer than ``timeout_s`` seconds.

    The timeout of a socket is not enough: a server that sends a byte now and then never exceeds it.
    """

    def shut_down() -> None:
        sock = get_socket()
        if sock is not None:
            with contextlib.suppress(OSError):
                # SSLSocket.shutdown would wait for the server.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    timer = threading.Timer(max(0.0, timeout_s), shut_down)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class _DeadlineConnection(HTTPConnection):
    """A connection that is closed if the handshake or the headers take longer than ``HEAD_TIMEOUT_S``."""

    open_socket: socket.socket | None = None

    def connect(self) -> None:
        with close_after(HEAD_TIMEOUT_S, lambda: self.sock):
            super().connect()
        # http.client drops its reference to the socket while the body of a last response is still read.
        self.open_socket = self.sock

    def getresponse(self) -> Any:
        with close_after(HEAD_TIMEOUT_S, lambda: self.open_socket):
            return super().getresponse()


class _TlsDeadlineConnection(_DeadlineConnection, HTTPSConnection):
    pass


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _DeadlineConnection


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TlsDeadlineConnection


def with_deadlines(manager: urllib3.PoolManager) -> urllib3.PoolManager:
    """Return ``manager``, changed to use connections that close if they take longer than ``HEAD_TIMEOUT_S``."""
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
    return manager
