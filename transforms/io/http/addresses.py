"""Resolve a host to IP addresses, and refuse hosts in private networks (protection against SSRF)."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from ....models.tasks import Fault
from ..retry import FetchError, permission_denied

IpAddress = IPv4Address | IPv6Address
# Called with host and port, returns the host's IP addresses.
Resolver = Callable[[str, int], list[str]]

# Some versions of Python call these global: IETF protocol assignments with the metadata server of Oracle's cloud, 6to4
# relays, the virtual address of Azure's host, and documentation.
NOT_PUBLIC_NETWORKS = tuple(map(ip_network, ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "3fff::/20")))
GLOBAL_UNICAST = IPv6Network("2000::/3")
NAT64 = IPv6Network("64:ff9b::/96")
# 2130706433, 0x7f.1, 0177.0.0.1: C libraries, and so browsers and Python, read these as 127.0.0.1.
_NUMERIC_HOST = re.compile(r"(0[xX][0-9a-fA-F]*|[0-9]+)(\.(0[xX][0-9a-fA-F]*|[0-9]+)){0,3}\.?")


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


def parse_ip(host: str) -> IpAddress | None:
    """Return the IP address that ``host`` spells, or None if ``host`` is a name.

    IPv6 may have brackets and a zone. IPv4 may have the forms of ``inet_aton``, such as 127.1, 0x7f.1 and 2130706433.
    """
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
    """Return whether an address is global unicast. IPv4 inside IPv6 (mapped, 6to4, NAT64) is judged as IPv4."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in NAT64:
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if address not in GLOBAL_UNICAST:
            return False
    special = address.is_multicast or address.is_reserved or any(address in network for network in NOT_PUBLIC_NETWORKS)
    return address.is_global and not special


def allowed_addresses(host: str, port: int, allow_private: bool, resolve: Resolver = resolve_host) -> list[str]:
    """Return all IP addresses of a host, which may be connected to.

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
    return permission_denied(f"host {host} is in a private or reserved network; --allow-private-addresses allows it")
