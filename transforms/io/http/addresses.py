"""Where http may go: the addresses of a host, refused where they lie inside somebody's network."""

from __future__ import annotations

import socket
from collections.abc import Callable
from ipaddress import ip_address

from ....models.tasks import Fault
from ....models.urls import is_public, parse_ip
from ..retry import FetchError, forbidden

Resolve = Callable[[str, int], list[str]]


def look_up(host: str, port: int) -> list[str]:
    """The addresses of a host, those first that the system prefers.

    Raises:
        FetchError: it has none, or the name server did not answer.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        passes = isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN
        raise FetchError(
            Fault("NameResolutionError", f"host {host} has no address: {error}", retryable=passes)
        ) from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def addresses_of(host: str, port: int, allow_private: bool, resolve: Resolve = look_up) -> list[str]:
    """Addresses that may be connected to: all that the host has.

    Raises:
        FetchError: it has none, or one of them is not public and that is not allowed.
    """
    known = parse_ip(host)
    addresses = [str(known)] if known is not None else resolve(host, port)
    for address in addresses:
        if not (allow_private or is_public(ip_address(address.partition("%")[0]))):
            raise not_allowed(host)
    if not addresses:
        raise FetchError(Fault("NameResolutionError", f"host {host} has no address"))
    return addresses


def not_allowed(host: str) -> FetchError:
    """The refusal. It does not tell the address: rows may be read by whoever wrote the URLs."""
    return forbidden(f"host {host} lies in a private or reserved network; --allow-private-addresses lets it in")
