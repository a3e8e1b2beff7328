"""Download http(s) URLs from checked addresses, with limits on size, time, redirects and connections."""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from collections.abc import Iterator
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3

from ....models.tasks import Fault
from ....models.web.backoff import parse_retry_after
from ....models.web.urls import is_public, parse_ip
from ..retry import FetchError, connection_error, http_error, join_chunks, timed_out, too_large
from ..uris import HTTP_SCHEMES, check_uri, scheme_of
from .addresses import Resolver, allowed_addresses, private_address_error, resolve_host
from .connections import HostSemaphores, close_after, with_deadlines

CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 10.0, 30.0
# As many as browsers use. A slow host then leaves threads for the other hosts.
MAX_CONNECTIONS_PER_HOST = 6
MAX_HOST_POOLS = 64
MAX_ADDRESSES = 3
MAX_REDIRECTS = 5
REDIRECT_STATUSES = (301, 302, 303, 307, 308)
CHUNK_BYTES = 1 << 16
PROJECT = "moondream-beam"


class HttpClient:
    """A client with keep-alive connections to public addresses, or to any with ``allow_private_addresses``.

    Threads may share it.
    """

    def __init__(
        self, allow_private_addresses: bool = False, user_agent: str = PROJECT, resolve: Resolver = resolve_host
    ) -> None:
        self.allow_private, self.resolve = allow_private_addresses, resolve
        self.headers = {"User-Agent": user_agent, "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"}
        self.host_semaphores = HostSemaphores(MAX_CONNECTIONS_PER_HOST)
        self._pools = with_deadlines(urllib3.PoolManager(MAX_HOST_POOLS, maxsize=MAX_CONNECTIONS_PER_HOST))
        self._proxies: dict[str, urllib3.PoolManager] = {}
        self._lock = threading.Lock()

    def read(self, url: str, max_bytes: int, deadline: float) -> bytes:
        """Return the content of a URL, decompressed, after up to ``MAX_REDIRECTS`` redirects.

        Args:
            deadline: on the clock of ``time.monotonic``. The wait for a connection to the host does not count.

        Raises:
            FetchError: if the server can't be reached, is not allowed, is too slow, or answers with an error.
            ValueError: if the content has more than ``max_bytes`` bytes or is corrupt, or ``check_uri`` refuses a URL.
        """
        for _ in range(MAX_REDIRECTS + 1):
            host = _ascii_host(check_uri(url))
            with self.host_semaphores.slot(host) as waited_s:
                deadline += waited_s
                with _translate_errors(host, deadline), self._open(url, host, deadline) as response:
                    location = response.headers.get("Location")
                    if response.status not in REDIRECT_STATUSES or not location:
                        return _read_body(response, host, max_bytes, deadline)
            url = _redirect_target(url, location)
        raise FetchError(Fault("RedirectError", f"{host} redirects more than {MAX_REDIRECTS} times: correct the URL"))

    @contextlib.contextmanager
    def _open(self, url: str, host: str, deadline: float) -> Iterator[urllib3.BaseHTTPResponse]:
        """Yield a response whose body is not read yet. The connection is closed at the deadline."""
        response = self._request(url, host, deadline)
        is_read = False
        try:
            remaining_s = deadline - time.monotonic()
            with close_after(remaining_s, lambda: getattr(response.connection, "open_socket", None)):
                yield response
            is_read = response.status == 200
        finally:
            # Only a connection whose body was read to its end can serve the next request.
            if is_read:
                response.release_conn()
            else:
                response.close()

    def _request(self, url: str, host: str, deadline: float) -> urllib3.BaseHTTPResponse:
        """Send a GET request, through the environment's proxy if it has one; return the response, body unread."""
        scheme, target = scheme_of(url), _request_target(url)
        default_port = 443 if scheme == "https" else 80
        port = urlsplit(url).port or default_port
        bracketed = f"[{host}]" if ":" in host else host
        authority = bracketed if port == default_port else f"{bracketed}:{port}"
        proxy = getproxies().get(scheme)
        if proxy and not proxy_bypass(host):
            pool = self._proxy_pool(proxy, host, port, scheme)
            return _get(pool, f"http://{authority}{target}" if scheme == "http" else target, self.headers, deadline)
        headers = {**self.headers, "Host": authority}
        # Connect to the checked address: a second look-up could return another one (DNS rebinding). The certificate
        # must still be valid for the name.
        tls = {"server_hostname": host} if scheme == "https" else {}
        *others, last = allowed_addresses(host, port, self.allow_private, self.resolve)[:MAX_ADDRESSES]
        for address in (*others, last):
            pool = self._pools.connection_from_host(address, port, scheme, pool_kwargs=tls)
            try:
                return _get(pool, target, headers, deadline)
            except (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError):
                if address == last or time.monotonic() > deadline:
                    raise
        raise AssertionError("the loop returns or raises at the last address")

    def _proxy_pool(self, proxy: str, host: str, port: int, scheme: str) -> urllib3.HTTPConnectionPool:
        """Return the connections to a host through a proxy; raise FetchError if the host is private.

        The proxy resolves names, so only literal addresses, ``*.localhost`` and ``*.internal`` are known to be private.
        """
        address = parse_ip(host)
        is_internal = f".{host.rstrip('.')}".endswith((".localhost", ".internal"))
        if not self.allow_private and (is_internal or (address is not None and not is_public(address))):
            raise private_address_error(host)
        with self._lock:
            if proxy not in self._proxies:
                parts = urllib3.util.parse_url(proxy if "://" in proxy else f"http://{proxy}")
                manager = urllib3.ProxyManager(
                    parts._replace(auth=None).url,
                    MAX_HOST_POOLS,
                    proxy_headers=urllib3.make_headers(proxy_basic_auth=unquote(parts.auth)) if parts.auth else None,
                )
                self._proxies[proxy] = with_deadlines(manager)
            return self._proxies[proxy].connection_from_host(host, port, scheme)


def _get(
    pool: urllib3.HTTPConnectionPool, target: str, headers: dict[str, str], deadline: float
) -> urllib3.BaseHTTPResponse:
    """Send one GET request, without retries and redirects; return the response, its body unread."""
    remaining_s = max(0.001, deadline - time.monotonic())
    timeout = urllib3.Timeout(connect=min(CONNECT_TIMEOUT_S, remaining_s), read=min(READ_TIMEOUT_S, remaining_s))
    return pool.urlopen(
        "GET",
        target,
        headers=headers,
        redirect=False,
        retries=False,
        preload_content=False,
        assert_same_host=False,
        timeout=timeout,
    )


def _ascii_host(url: str) -> str:
    """Return the host of a URL in ASCII (IDNA), such as ``xn--bcher-kva.example``; ValueError: if it is invalid."""
    host = urlsplit(url).hostname or ""
    try:
        return host if host.isascii() else host.encode("idna").decode()
    except UnicodeError as error:
        raise ValueError(f"{host} is not a valid host name: {error}; correct the URL") from error


def _request_target(url: str) -> str:
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _redirect_target(url: str, location: str) -> str:
    """Return the absolute URL of a redirect; raise FetchError if it is not http(s), or leads from https to http."""
    # urllib3 decodes headers as Latin-1. Most servers that don't percent-encode them send UTF-8, and some send spaces.
    with contextlib.suppress(UnicodeError):
        location = location.encode("latin-1").decode()
    target = urljoin(url, location.replace(" ", "%20"))
    source_scheme, scheme = scheme_of(url), scheme_of(target)
    if scheme not in HTTP_SCHEMES or (source_scheme == "https" and scheme == "http"):
        message = f"redirects from {source_scheme} to {scheme} are not followed: give the URL that it redirects to"
        raise FetchError(Fault("RedirectError", message))
    return target


def _read_body(response: urllib3.BaseHTTPResponse, host: str, max_bytes: int, deadline: float) -> bytes:
    """Return the decompressed body of a response; raise as ``HttpClient.read`` does."""
    if response.status != 200:
        after = parse_retry_after(response.headers.get("Retry-After"))
        raise http_error(response.status, f"{host} answered with an error", after)
    length = response.headers.get("Content-Length", "")
    if length.isdigit() and int(length) > max_bytes:
        raise too_large(max_bytes)
    # The limit is on decompressed bytes, or a small response could fill the memory.
    chunks = iter(lambda: response.read1(CHUNK_BYTES, decode_content=True), b"")
    return join_chunks(chunks, f"the content from {host}", max_bytes, deadline)


@contextlib.contextmanager
def _translate_errors(host: str, deadline: float) -> Iterator[None]:
    """Raise errors of urllib3 and sockets as FetchError or ValueError, without the URL, which may contain secrets."""
    try:
        yield
    except (urllib3.exceptions.TimeoutError, urllib3.exceptions.HTTPError, ssl.SSLError, OSError) as error:
        if isinstance(error, FetchError):
            raise
        refused = isinstance(error, urllib3.exceptions.NewConnectionError)
        if time.monotonic() > deadline or (isinstance(error, urllib3.exceptions.TimeoutError) and not refused):
            raise timed_out(f"{host} does not answer in time") from error
        if isinstance(error, urllib3.exceptions.DecodeError):
            raise ValueError(f"{host} sends corrupt compressed data: check the file there") from error
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            message = f"the certificate of {host} is not valid; if its authority is yours, set SSL_CERT_FILE"
            raise FetchError(Fault("CertificateError", message)) from error
        raise connection_error(f"the connection to {host} failed: {type(error).__name__}") from error
    if time.monotonic() > deadline:
        raise timed_out(f"the content from {host} is sent too slowly")
