"""Where http may go: public addresses, however they are written and whatever a name server says."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from moondream_beam.transforms.io.http.addresses import addresses_of, is_public, look_up, parse_ip
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
def test_an_address_inside_somebodys_network_is_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "2130706433", "0x7f000001", "017700000001", "127.1", "0x7f.1", "0177.0.0.1", "127.0.0.1."]
)
def test_numbers_of_every_form_are_the_address_that_they_are(host: str) -> None:
    assert str(parse_ip(host)) == "127.0.0.1"


@pytest.mark.parametrize("host", ["::1", "[::1]", "::1%lo"])
def test_an_address_of_ipv6_may_have_brackets_or_a_zone(host: str) -> None:
    assert str(parse_ip(host)) == "::1"


@pytest.mark.parametrize("host", ["example.org", "1.example.org", "0x7f.example", "256.1.1.1", "1.2.3.4.5", ""])
def test_a_name_is_no_address(host: str) -> None:
    assert parse_ip(host) is None


def test_a_name_is_looked_up_and_every_address_of_it_must_be_public() -> None:
    assert addresses_of("a.example", 80, False, lambda host, port: ["1.1.1.1", "8.8.8.8"]) == ["1.1.1.1", "8.8.8.8"]
    with pytest.raises(FetchError, match=r"a\.example lies in a private") as caught:
        addresses_of("a.example", 80, False, lambda host, port: ["1.1.1.1", "10.0.0.7"])
    assert caught.value.fault.error == "PermissionError" and not caught.value.fault.retryable
    assert "10.0.0.7" not in str(caught.value)


def test_private_addresses_are_given_where_they_are_allowed() -> None:
    assert addresses_of("a.example", 80, True, lambda host, port: ["10.0.0.7"]) == ["10.0.0.7"]


def test_a_zone_does_not_hide_an_address() -> None:
    with pytest.raises(FetchError, match="private"):
        addresses_of("a.example", 80, False, lambda host, port: ["fe80::1%eth0"])


def test_a_host_without_an_address_is_a_fault() -> None:
    with pytest.raises(FetchError, match="no address"):
        addresses_of("a.example", 80, False, lambda host, port: [])


def test_localhost_is_found_and_refused() -> None:
    assert set(look_up("localhost", 80)) <= {"127.0.0.1", "::1"}
    with pytest.raises(FetchError, match="localhost lies in a private"):
        addresses_of("localhost", 80, False)
