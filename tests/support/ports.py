"""Ports on loopback: one that is free for a server, and one that refuses connections."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Iterator

# Linux gives other ports to clients, and to servers that ask for any. One of these would be taken, now and then,
# between the moment that it is found free and the moment that the server listens.
PORTS = range(20_000, 32_000)


def free_port() -> int:
    """Return a port that no server listens on."""
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError(f"100 ports of {PORTS} are taken")


@contextlib.contextmanager
def refusing_port() -> Iterator[int]:
    """Yield a port that refuses connections, and that nobody else gets within this block."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        yield int(silent.getsockname()[1])
