"""Only public addresses are allowed, in whatever form a host spells them."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from moondream_beam.transforms.io.http.addresses import allowed_addresses, is_public, parse_ip, resolve_host
from moondream_beam.transforms.io.retry import FetchError

PRIVATE = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.0.192",
    "192.0.2.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.1.1.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
]
PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "93.184.216.34",
    "172.32.0.1",
    "2606:4700:4700::1111",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_or_reserved_address_is_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_a_global_address_is_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "2130706433", "0x7f000001", "017700000001", "127.1", "0x7f.1", "0177.0.0.1", "127.0.0.1."]
)
def test_parse_ip_reads_every_form_of_inet_aton(host: str) -> None:
    assert str(parse_ip(host)) == "127.0.0.1"


@pytest.mark.parametrize("host", ["::1", "[::1]", "::1%lo"])
def test_parse_ip_reads_ipv6_with_brackets_or_a_zone(host: str) -> None:
    assert str(parse_ip(host)) == "::1"


@pytest.mark.parametrize("host", ["example.org", "1.example.org", "0x7f.example", "256.1.1.1", "1.2.3.4.5", ""])
def test_parse_ip_returns_none_for_a_name(host: str) -> None:
    assert parse_ip(host) is None


def test_every_address_of_a_name_must_be_public() -> None:
    assert allowed_addresses("a.example", 80, False, lambda host, port: ["1.1.1.1", "8.8.8.8"]) == [
        "1.1.1.1",
        "8.8.8.8",
    ]
    with pytest.raises(FetchError, match=r"a\.example is in a private") as caught:
        allowed_addresses("a.example", 80, False, lambda host, port: ["1.1.1.1", "10.0.0.7"])
    assert caught.value.fault.error == "PermissionError" and not caught.value.fault.retryable
    assert "10.0.0.7" not in str(caught.value)


def test_private_addresses_are_returned_if_they_are_allowed() -> None:
    assert allowed_addresses("a.example", 80, True, lambda host, port: ["10.0.0.7"]) == ["10.0.0.7"]


def test_a_private_address_with_a_zone_is_refused() -> None:
    with pytest.raises(FetchError, match="private"):
        allowed_addresses("a.example", 80, False, lambda host, port: ["fe80::1%eth0"])


def test_a_host_without_an_address_raises_fetch_error() -> None:
    with pytest.raises(FetchError, match="no address"):
        allowed_addresses("a.example", 80, False, lambda host, port: [])


def test_localhost_resolves_and_is_refused() -> None:
    assert set(resolve_host("localhost", 80)) <= {"127.0.0.1", "::1"}
    with pytest.raises(FetchError, match="localhost is in a private"):
        allowed_addresses("localhost", 80, False)
