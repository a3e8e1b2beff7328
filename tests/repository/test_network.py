"""The wall of conftest.py stands: it lets loopback pass and nothing else."""

import socket
import threading
import urllib.request

import pytest


def test_a_server_on_loopback_is_reached():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(("localhost", server.getsockname()[1]), timeout=5).close()


@pytest.mark.parametrize("family, address", [(socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")])
def test_connecting_elsewhere_is_refused(family, address):
    with socket.socket(family) as outward, pytest.raises(RuntimeError, match="only reach loopback"):
        outward.connect((address, 80))


def test_a_datagram_elsewhere_is_refused():
    with socket.socket(type=socket.SOCK_DGRAM) as outward, pytest.raises(RuntimeError, match="only reach loopback"):
        outward.sendto(b"", ("192.0.2.1", 53))


def test_looking_up_a_name_is_refused():
    # An opener of its own: the common one may remember a proxy that another test had.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with pytest.raises(RuntimeError, match="only reach loopback"):
        opener.open("https://example.com")


def test_threads_are_refused_too():
    refusals = []

    def reach():
        try:
            socket.gethostbyname("example.com")
        except RuntimeError as refusal:
            refusals.append(refusal)

    thread = threading.Thread(target=reach)
    thread.start()
    thread.join()
    assert refusals
