"""Resolve a host to IP addresses, and refuse hosts in private networks (protection against SSRF)."""

from __future__ import annotations

import socket
from collections.abc import Callable
from ipaddress import ip_address

from ....models.tasks import Fault
from ....models.web.urls import is_public, parse_ip
from ..retry import FetchError, permission_denied

# Called with host and port, returns the host's IP addresses.
Resolver = Callable[[str, int], list[str]]


def resolve_host(host: str, port: int) -> list[str]:
    """Return the IP addresses of a host, each once, in the order that the system prefers.

    Raises:
        FetchError: if the host has no address, or the name server did not answer. Only the latter is retryable.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        retryable = isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN
        message = f"host {host} has no address: {error}; check the name"
        raise FetchError(Fault("NameResolutionError", message, retryable=retryable)) from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def allowed_addresses(host: str, port: int, allow_private: bool, resolve: Resolver = resolve_host) -> list[str]:
    """Return all IP addresses of a host, after the check that each may be connected to.

    Raises:
        FetchError: if the host has no address, or if one of them is not public and ``allow_private`` is False.
    """
    literal = parse_ip(host)
    addresses = [str(literal)] if literal is not None else resolve(host, port)
    for address in addresses:
        if not (allow_private or is_public(ip_address(address.partition("%")[0]))):
            raise private_address_error(host)
    if not addresses:
        raise FetchError(Fault("NameResolutionError", f"host {host} has no address: check the name"))
    return addresses


def private_address_error(host: str) -> FetchError:
    """Return the error for a host that is not public. It hides the address: the author of the URLs may read the row."""
    return permission_denied(
        f"host {host} is in a private or reserved network: allow it with --allow-private-addresses"
    )
