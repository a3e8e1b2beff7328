"""Over http(s) only public addresses are reached, whatever names, redirects and name servers say."""

from __future__ import annotations

import datetime
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support.servers.web_requests import LIMIT, QUICK, fault, ok, read, status
from support.servers.web_server import Server, Visit, serving

from moondream_beam.transforms.images.fetch import Fetcher
from moondream_beam.transforms.io.http import client
from moondream_beam.transforms.io.http.client import HttpClient
from moondream_beam.transforms.io.retry import FetchError

pytestmark = pytest.mark.usefixtures("no_proxy")


@pytest.fixture
def inside() -> Iterator[Server]:
    """A server that nobody outside should reach."""
    with serving(lambda visit: visit.reply(b"secret")) as server:
        yield server


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "[::ffff:127.0.0.1]", "0.0.0.0"]
)
def test_addresses_of_this_machine_are_not_reached(inside: Server, host: str) -> None:
    with pytest.raises(FetchError, match="private") as caught:
        Fetcher(retry_policy=QUICK)(f"http://{host}:{inside.server_port}/")
    assert caught.value.fault.error == "PermissionError" and not caught.value.fault.retryable
    assert inside.asked == []


@pytest.mark.parametrize("host", ["169.254.169.254", "10.0.0.1", "[fd00:ec2::254]", "100.100.100.200", "168.63.129.16"])
def test_metadata_and_private_networks_are_refused_before_any_packet(host: str) -> None:
    with pytest.raises(FetchError, match="private"):
        Fetcher(retry_policy=QUICK)(f"http://{host}/latest/meta-data/")


def named(addresses: dict[str, list[str]]) -> Any:
    """A name server of ours: each time it is asked it gives the next answer, the last one for ever."""
    return lambda host, port: [addresses[host].pop(0) if len(addresses[host]) > 1 else addresses[host][0]]


def test_a_name_of_a_private_address_is_refused(inside: Server) -> None:
    resolver = named({"inside.example": ["127.0.0.1"]})
    with pytest.raises(FetchError, match=r"inside\.example lies in a private"):
        HttpClient(resolve=resolver).read(f"http://inside.example:{inside.server_port}/", LIMIT, time.monotonic() + 5)
    assert inside.asked == []


def test_a_name_is_looked_up_once_and_that_address_is_connected_to(
    inside: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name server that first says a public address and then a private one gains nothing."""
    asked: list[str] = []

    def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["203.0.114.7"] if len(asked) == 1 else ["127.0.0.1"]

    connected: list[str] = []

    def refuse(address: tuple[str, int], *_: Any, **__: Any) -> socket.socket:
        connected.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr("urllib3.util.connection.create_connection", refuse)
    with pytest.raises(FetchError):
        HttpClient(resolve=rebinding).read(f"http://rebind.example:{inside.server_port}/", LIMIT, time.monotonic() + 5)
    assert asked == ["rebind.example"] and connected == ["203.0.114.7"] and inside.asked == []


def public_then(monkeypatch: pytest.MonkeyPatch, server: Server) -> HttpClient:
    """A web in which public.example is this server, under an address that passes for public."""
    real = client.addresses_of

    def addresses(host: str, port: int, allow: bool, resolve: Any) -> list[str]:
        return ["127.0.0.1"] if host == "public.example" else real(host, port, allow, resolve)

    monkeypatch.setattr(client, "addresses_of", addresses)
    return HttpClient(resolve=named({"inside.example": ["127.0.0.1"]}))


@pytest.mark.parametrize(
    "target", ["http://127.0.0.1:{}/", "http://inside.example:{}/", "//127.1:{}/", "http://0x7f000001:{}/"]
)
def test_a_redirect_to_a_private_address_is_not_followed(
    inside: Server, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    with serving(status(302, Location=target.format(inside.server_port))) as outside:
        web = public_then(monkeypatch, outside)
        with pytest.raises(FetchError, match="private"):
            web.read(f"http://public.example:{outside.server_port}/", LIMIT, time.monotonic() + 5)
    assert len(outside.asked) == 1 and inside.asked == []


def test_a_redirect_is_followed_and_a_ring_of_them_is_left() -> None:
    def along(visit: Visit) -> None:
        if visit.path == "/end":
            visit.reply(b"picture")
        else:
            visit.reply(b"", 302, Location=visit.path if visit.path == "/ring" else "/end")

    with serving(along) as server:
        assert read(f"{server.url}/start") == b"picture"
        server.asked.clear()
        found = fault(f"{server.url}/ring")
    assert found.error == "RedirectError" and not found.retryable
    assert len(server.asked) == client.MAX_REDIRECTS + 1


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://example.org/a", "data:,x", "s3://b/k"])
def test_a_redirect_out_of_the_web_is_not_followed(target: str) -> None:
    with serving(status(302, Location=target)) as server:
        assert fault(server.url).error == "RedirectError"


def test_a_redirect_may_not_bring_a_password() -> None:
    redirect = status(302, Location="http://me:hunter2@127.0.0.1/")
    with serving(redirect) as server, pytest.raises(ValueError, match="password") as caught:
        read(server.url)
    assert "hunter2" not in str(caught.value)


def test_a_redirect_from_https_to_http_is_not_followed() -> None:
    with pytest.raises(FetchError, match="from https to http"):
        client._redirect_target("https://h/a", "http://h/a")
    assert client._redirect_target("http://h/a", "https://h/b") == "https://h/b"


# Encryption.


@pytest.fixture
def certified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """The context of a server with a certificate for photos.example that this process trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "photos.example")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("photos.example")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "key.pem").write_bytes(private)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    return context


def test_the_checked_address_is_asked_under_the_name_of_the_url(certified: ssl.SSLContext) -> None:
    names: list[str | None] = []
    certified.sni_callback = lambda sock, name, context: names.append(name)
    with serving(ok, certified) as server:
        url = f"https://photos.example:{server.server_port}/a.jpg"
        web = HttpClient(True, resolve=named({"photos.example": ["127.0.0.1"]}))
        assert web.read(url, LIMIT, time.monotonic() + 5) == b"picture"
    assert names == ["photos.example"]
    assert server.asked[0][1]["host"] == f"photos.example:{server.server_port}"


def test_a_certificate_for_another_name_is_a_fault_that_does_not_pass(certified: ssl.SSLContext) -> None:
    with serving(ok, certified) as server:
        web = HttpClient(True, resolve=named({"other.example": ["127.0.0.1"]}))
        with pytest.raises(FetchError, match="certificate of other.example") as caught:
            web.read(f"https://other.example:{server.server_port}/", LIMIT, time.monotonic() + 5)
    assert not caught.value.fault.retryable and server.asked == []


# Proxies.


def test_a_proxy_of_the_environment_is_used_and_given_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(ok) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.replace("//", "//me:hunter2@"))
        assert Fetcher(retry_policy=QUICK)("http://photos.example/a.jpg?x=1") == b"picture"
        assert Fetcher(retry_policy=QUICK)("http://bücher.example:8080?x=1#there") == b"picture"
    (path, headers), (other, _) = proxy.asked
    assert (path, other) == ("http://photos.example/a.jpg?x=1", "http://xn--bcher-kva.example:8080/?x=1")
    assert headers["proxy-authorization"].startswith("Basic ") and headers["host"] == "photos.example"


@pytest.mark.parametrize("host", ["169.254.169.254", "localhost", "localhost.", "metadata.google.internal", "0x7f.1"])
def test_a_proxy_is_not_asked_for_what_lies_inside(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    with serving(ok) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        with pytest.raises(FetchError, match="private"):
            Fetcher(retry_policy=QUICK)(f"http://{host}/")
    assert proxy.asked == []
