"""The client connects to public addresses only, after redirects and changed DNS answers too."""

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
from support.servers.web_server import Handler, Server, serving

from moondream_beam.transforms.images.fetch import Fetcher
from moondream_beam.transforms.io.http import client
from moondream_beam.transforms.io.http.client import HttpClient
from moondream_beam.transforms.io.retry import FetchError

pytestmark = pytest.mark.usefixtures("no_proxy")


@pytest.fixture
def private_server() -> Iterator[Server]:
    """A server on a private address."""
    with serving(lambda handler: handler.reply(b"secret")) as server:
        yield server


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "[::ffff:127.0.0.1]", "0.0.0.0"]
)
def test_addresses_of_this_machine_are_refused(private_server: Server, host: str) -> None:
    with pytest.raises(FetchError, match="private") as caught:
        Fetcher(retry_policy=QUICK)(f"http://{host}:{private_server.server_port}/")
    assert caught.value.fault.error == "PermissionError" and not caught.value.fault.retryable
    assert private_server.requests == []


@pytest.mark.parametrize("host", ["169.254.169.254", "10.0.0.1", "[fd00:ec2::254]", "100.100.100.200", "168.63.129.16"])
def test_metadata_servers_and_private_networks_are_refused(host: str) -> None:
    with pytest.raises(FetchError, match="private"):
        Fetcher(retry_policy=QUICK)(f"http://{host}/latest/meta-data/")


def resolver_of(addresses: dict[str, list[str]]) -> Any:
    """Return a resolver that answers each look-up of a host with the next of its addresses, then with the last."""
    return lambda host, port: [addresses[host].pop(0) if len(addresses[host]) > 1 else addresses[host][0]]


def test_a_name_with_a_private_address_is_refused(private_server: Server) -> None:
    resolver = resolver_of({"inside.example": ["127.0.0.1"]})
    with pytest.raises(FetchError, match=r"inside\.example is in a private"):
        HttpClient(resolve=resolver).read(
            f"http://inside.example:{private_server.server_port}/", LIMIT, time.monotonic() + 5
        )
    assert private_server.requests == []


def test_the_client_connects_to_the_address_that_it_checked(
    private_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: the name server returns a public address first, and then a private one."""
    look_ups: list[str] = []

    def rebinding(host: str, port: int) -> list[str]:
        look_ups.append(host)
        return ["203.0.114.7"] if len(look_ups) == 1 else ["127.0.0.1"]

    connected: list[str] = []

    def refuse(address: tuple[str, int], *_: Any, **__: Any) -> socket.socket:
        connected.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr("urllib3.util.connection.create_connection", refuse)
    with pytest.raises(FetchError):
        HttpClient(resolve=rebinding).read(
            f"http://rebind.example:{private_server.server_port}/", LIMIT, time.monotonic() + 5
        )
    assert look_ups == ["rebind.example"] and connected == ["203.0.114.7"] and private_server.requests == []


def client_with_public_server(monkeypatch: pytest.MonkeyPatch) -> HttpClient:
    """Return a client that allows the loopback address of public.example, and resolves inside.example to loopback."""
    real = client.allowed_addresses

    def addresses(host: str, port: int, allow: bool, resolve: Any) -> list[str]:
        return ["127.0.0.1"] if host == "public.example" else real(host, port, allow, resolve)

    monkeypatch.setattr(client, "allowed_addresses", addresses)
    return HttpClient(resolve=resolver_of({"inside.example": ["127.0.0.1"]}))


@pytest.mark.parametrize(
    "target", ["http://127.0.0.1:{}/", "http://inside.example:{}/", "//127.1:{}/", "http://0x7f000001:{}/"]
)
def test_a_redirect_to_a_private_address_is_not_followed(
    private_server: Server, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    with serving(status(302, Location=target.format(private_server.server_port))) as public_server:
        http = client_with_public_server(monkeypatch)
        with pytest.raises(FetchError, match="private"):
            http.read(f"http://public.example:{public_server.server_port}/", LIMIT, time.monotonic() + 5)
    assert len(public_server.requests) == 1 and private_server.requests == []


def test_a_redirect_is_followed_and_a_loop_of_redirects_is_refused() -> None:
    def redirect(handler: Handler) -> None:
        if handler.path == "/end":
            handler.reply(b"picture")
        else:
            handler.reply(b"", 302, Location=handler.path if handler.path == "/loop" else "/end")

    with serving(redirect) as server:
        assert read(f"{server.url}/start") == b"picture"
        server.requests.clear()
        found = fault(f"{server.url}/loop")
    assert found.error == "RedirectError" and not found.retryable
    assert len(server.requests) == client.MAX_REDIRECTS + 1


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://example.org/a", "data:,x", "s3://b/k"])
def test_a_redirect_to_another_scheme_is_not_followed(target: str) -> None:
    with serving(status(302, Location=target)) as server:
        assert fault(server.url).error == "RedirectError"


def test_a_redirect_to_a_url_with_a_password_is_refused() -> None:
    redirect = status(302, Location="http://me:hunter2@127.0.0.1/")
    with serving(redirect) as server, pytest.raises(ValueError, match="password") as caught:
        read(server.url)
    assert "hunter2" not in str(caught.value)


def test_a_redirect_from_https_to_http_is_not_followed() -> None:
    with pytest.raises(FetchError, match="from https to http"):
        client._redirect_target("https://h/a", "http://h/a")
    assert client._redirect_target("http://h/a", "https://h/b") == "https://h/b"


# TLS.


@pytest.fixture
def certified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """Return the TLS context of a server whose certificate for photos.example this process trusts."""
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


def test_tls_uses_the_name_of_the_url(certified: ssl.SSLContext) -> None:
    names: list[str | None] = []
    certified.sni_callback = lambda sock, name, context: names.append(name)
    with serving(ok, certified) as server:
        url = f"https://photos.example:{server.server_port}/a.jpg"
        http = HttpClient(True, resolve=resolver_of({"photos.example": ["127.0.0.1"]}))
        assert http.read(url, LIMIT, time.monotonic() + 5) == b"picture"
    assert names == ["photos.example"]
    assert server.requests[0][1]["host"] == f"photos.example:{server.server_port}"


def test_a_certificate_for_another_name_is_not_retryable(certified: ssl.SSLContext) -> None:
    with serving(ok, certified) as server:
        http = HttpClient(True, resolve=resolver_of({"other.example": ["127.0.0.1"]}))
        with pytest.raises(FetchError, match="certificate of other.example") as caught:
            http.read(f"https://other.example:{server.server_port}/", LIMIT, time.monotonic() + 5)
    assert not caught.value.fault.retryable and server.requests == []


# Proxies.


def test_a_proxy_of_the_environment_is_used_with_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(ok) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.replace("//", "//me:hunter2@"))
        assert Fetcher(retry_policy=QUICK)("http://photos.example/a.jpg?x=1") == b"picture"
        assert Fetcher(retry_policy=QUICK)("http://bücher.example:8080?x=1#there") == b"picture"
    (path, headers), (other, _) = proxy.requests
    assert (path, other) == ("http://photos.example/a.jpg?x=1", "http://xn--bcher-kva.example:8080/?x=1")
    assert headers["proxy-authorization"].startswith("Basic ") and headers["host"] == "photos.example"


@pytest.mark.parametrize("host", ["169.254.169.254", "localhost", "localhost.", "metadata.google.internal", "0x7f.1"])
def test_a_proxy_is_not_asked_for_private_hosts(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    with serving(ok) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        with pytest.raises(FetchError, match="private"):
            Fetcher(retry_policy=QUICK)(f"http://{host}/")
    assert proxy.requests == []
