"""For every test: no network but loopback, and the quick ones first."""

from __future__ import annotations

import socket
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any

import pytest

CONNECTS = {"socket.connect", "socket.sendto", "socket.sendmsg"}
LOOKUPS = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}


def is_local(host: str | bytes | None) -> bool:
    """Whether a host means this machine: loopback, or no host at all."""
    name = host.decode() if isinstance(host, bytes) else host
    if not name or name == "localhost":
        return True
    try:
        address = ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def refuse_the_network(event: str, args: tuple[Any, ...]) -> None:
    """Raise where a socket leaves this machine, or a name is looked up to that end."""
    if event in CONNECTS:
        sock, address = args
        local = sock.family not in (socket.AF_INET, socket.AF_INET6) or address is None or is_local(address[0])
        target = address
    elif event in LOOKUPS:
        target, local = args[0], is_local(args[0])
    else:
        return
    if not local:
        raise RuntimeError(f"{event} to {target!r}: tests may only reach loopback")


# An interpreter-wide hook, as it also sees what C code and threads of libraries open. It holds until the process ends.
sys.addaudithook(refuse_the_network)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the quick tests before the slow ones, in one run with one closing line."""
    items.sort(key=lambda item: "slow" in item.keywords)


@pytest.fixture
def memory_peak() -> Iterator[Callable[[], int]]:
    """Return a function: the peak of Python's memory in bytes, above that held at its last call or the start."""
    tracemalloc.start()
    held = 0

    def grown() -> int:
        nonlocal held
        before, (held, peak) = held, tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        return peak - before

    yield grown
    tracemalloc.stop()
