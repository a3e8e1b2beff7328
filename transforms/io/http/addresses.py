"""Where http may go: the addresses of a host, refused where they lie inside somebody's network."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from ....models.tasks import Fault
from ..retry import FetchError, permission_denied

IpAddress = IPv4Address | IPv6Address
Resolver = Callable[[str, int], list[str]]

# Public, or not known to be anything else, to some versions of Python: metadata of Oracle's cloud and the like, relays,
# a host's own door to Azure, documentation.
NOT_PUBLIC_NETWORKS = tuple(map(ip_network, ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "3fff::/20")))
GLOBAL_UNICAST = IPv6Network("2000::/3")
NAT64 = IPv6Network("64:ff9b::/96")
# 2130706433, 0x7f.1, 0177.0.0.1: what C libraries, and so browsers and Python, take for 127.0.0.1.
_NUMERIC_HOST = re.compile(r"(0[xX][0-9a-fA-F]*|[0-9]+)(\.(0[xX][0-9a-fA-F]*|[0-9]+)){0,3}\.?")


def resolve_host(host: str, port: int) -> list[str]:
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


def parse_ip(host: str) -> IpAddress | None:
    """The address that a host is, in any of the ways to write one; None for a name."""
    bare = host.strip("[]").partition("%")[0]
    try:
        return ip_address(bare)
    except ValueError:
        pass
    if _NUMERIC_HOST.fullmatch(host):
        try:
            return IPv4Address(socket.inet_aton(host.rstrip(".")))
        except OSError:
            return None
    return None


def is_public(address: IpAddress) -> bool:
    """Whether everybody on the internet means the same machine by it."""
    if isinstance(address, IPv6Address):
        # Addresses of IPv4 that are written as ones of IPv6.
        inner = address.ipv4_mapped or address.sixtofour
        if address in NAT64:
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if address not in GLOBAL_UNICAST:
            return False
    elsewhere = (
        address.is_multicast or address.is_reserved or any(address in network for network in NOT_PUBLIC_NETWORKS)
    )
    return address.is_global and not elsewhere


def allowed_addresses(host: str, port: int, allow_private: bool, resolve: Resolver = resolve_host) -> list[str]:
    """Addresses that may be connected to: all that the host has.

    Raises:
        FetchError: it has none, or one of them is not public and that is not allowed.
    """
    known = parse_ip(host)
    addresses = [str(known)] if known is not None else resolve(host, port)
    for address in addresses:
        if not (allow_private or is_public(ip_address(address.partition("%")[0]))):
            raise private_address_error(host)
    if not addresses:
        raise FetchError(Fault("NameResolutionError", f"host {host} has no address"))
    return addresses


def private_address_error(host: str) -> FetchError:
    """The refusal. It does not tell the address: rows may be read by whoever wrote the URLs."""
    return permission_denied(f"host {host} lies in a private or reserved network; --allow-private-addresses lets it in")
