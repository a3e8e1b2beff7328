"""The bytes behind an http(s) URL: from checked addresses only, with limits on size, time and redirects."""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from collections.abc import Iterator
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3

from ....models.backoff import parse_retry_after
from ....models.tasks import Fault
from ....models.urls import is_public, parse_ip
from ..retry import FetchError, cut_off, of_status, timed_out, too_large
from ..uris import WEB, check_uri, scheme_of
from .addresses import Resolve, addresses_of, look_up, not_allowed
from .connections import HostSemaphores, close_after, with_deadlines

CONNECT_SECONDS, READ_SECONDS = 10.0, 30.0
# As browsers do: a host that is slow leaves threads for the others.
CONNECTIONS_PER_HOST = 6
HOSTS_KEPT = 64
ADDRESSES_TRIED = 3
MAX_REDIRECTS = 5
REDIRECTS = (301, 302, 303, 307, 308)
CHUNK_BYTES = 1 << 16
PROJECT = "moondream-beam"


class HttpClient:
    """Kept connections of one process. Threads may share it."""

    def __init__(
        self, allow_private_addresses: bool = False, user_agent: str = PROJECT, resolve: Resolve = look_up
    ) -> None:
        self.allow_private, self.resolve = allow_private_addresses, resolve
        self.headers = {"User-Agent": user_agent, "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"}
        self.gates = HostSemaphores(CONNECTIONS_PER_HOST)
        self.pools = with_deadlines(urllib3.PoolManager(HOSTS_KEPT, maxsize=CONNECTIONS_PER_HOST))
        self._proxies: dict[str, urllib3.PoolManager] = {}
        self._lock = threading.Lock()

    def read(self, url: str, limit: int, end: float) -> bytes:
        """The content behind a URL; ``end`` is when to give up, on the clock of ``time.monotonic``.

        Raises:
            FetchError: it can't be had.
            ValueError: it has more than ``limit`` bytes, or the URL is none.
        """
        for _ in range(MAX_REDIRECTS + 1):
            host = _host(check_uri(url))
            with self.gates.through(host) as waited:
                # A host that is given so much time is not late where others had their turn.
                end += waited
                with _translate_errors(host, end), self._response(url, host, end) as response:
                    location = response.headers.get("Location")
                    if response.status not in REDIRECTS or not location:
                        return _content(response, host, limit, end)
            url = _redirected(url, location)
        raise FetchError(Fault("RedirectError", f"more than {MAX_REDIRECTS} redirects"))

    @contextlib.contextmanager
    def _response(self, url: str, host: str, end: float) -> Iterator[urllib3.BaseHTTPResponse]:
        """The head of the answer; the body is read by whoever asked, or never."""
        response = self._ask(url, host, end)
        whole = False
        try:
            with close_after(end - time.monotonic(), lambda: getattr(response.connection, "wire", None)):
                yield response
            whole = response.status == 200
        finally:
            # A connection is kept only where nothing is left in it that somebody would have to read.
            if whole:
                response.release_conn()
            else:
                response.close()

    def _ask(self, url: str, host: str, end: float) -> urllib3.BaseHTTPResponse:
        parts, scheme = urlsplit(url), scheme_of(url)
        usual = 443 if scheme == "https" else 80
        port = parts.port or usual
        shown_host = f"[{host}]" if ":" in host else host
        name = shown_host if port == usual else f"{shown_host}:{port}"
        proxy = getproxies().get(scheme)
        if proxy and not proxy_bypass(host):
            pool = self._through_proxy(proxy, host, port, scheme)
            return _get(pool, f"http://{name}{_target(url)}" if scheme == "http" else _target(url), self.headers, end)
        headers = {**self.headers, "Host": name}
        # Looked up once: asked again, the name server may say something else. The name is still what the certificate
        # must bear.
        named = {"server_hostname": host} if scheme == "https" else {}
        *others, last = addresses_of(host, port, self.allow_private, self.resolve)[:ADDRESSES_TRIED]
        for address in (*others, last):
            pool = self.pools.connection_from_host(address, port, scheme, pool_kwargs=named)
            try:
                return _get(pool, _target(url), headers, end)
            except (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError):
                if address == last or time.monotonic() > end:
                    raise
        raise AssertionError("the last address either answers or raises")

    def _through_proxy(self, proxy: str, host: str, port: int, scheme: str) -> urllib3.HTTPConnectionPool:
        """Somebody's proxy looks names up by itself, and is trusted with where they lead; what we can see we check."""
        address = parse_ip(host)
        inside = f".{host.rstrip('.')}".endswith((".localhost", ".internal"))
        if not self.allow_private and (inside or (address is not None and not is_public(address))):
            raise not_allowed(host)
        with self._lock:
            if proxy not in self._proxies:
                where = urllib3.util.parse_url(proxy if "://" in proxy else f"http://{proxy}")
                manager = urllib3.ProxyManager(
                    where._replace(auth=None).url,
                    HOSTS_KEPT,
                    proxy_headers=urllib3.make_headers(proxy_basic_auth=unquote(where.auth)) if where.auth else None,
                )
                self._proxies[proxy] = with_deadlines(manager)
            return self._proxies[proxy].connection_from_host(host, port, scheme)


def _get(
    pool: urllib3.HTTPConnectionPool, target: str, headers: dict[str, str], end: float
) -> urllib3.BaseHTTPResponse:
    timeout = urllib3.Timeout(connect=_within(CONNECT_SECONDS, end), read=_within(READ_SECONDS, end))
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


def _host(url: str) -> str:
    """The host as it is looked up; a name of other letters in the form that name servers know."""
    host = urlsplit(url).hostname or ""
    try:
        return host if host.isascii() else host.encode("idna").decode()
    except UnicodeError as error:
        raise ValueError(f"{host} is no name of a host: {error}") from error


def _target(url: str) -> str:
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _within(seconds: float, end: float) -> float:
    return max(0.001, min(seconds, end - time.monotonic()))


def _redirected(url: str, location: str) -> str:
    # Headers come as Latin-1, and most servers that leave letters as they are mean UTF-8. Some leave spaces too.
    with contextlib.suppress(UnicodeError):
        location = location.encode("latin-1").decode()
    target = urljoin(url, location.replace(" ", "%20"))
    if scheme_of(target) not in WEB or (scheme_of(url) == "https" and scheme_of(target) == "http"):
        raise FetchError(
            Fault("RedirectError", f"redirects from {scheme_of(url)} to {scheme_of(target)} are not followed")
        )
    return target


def _content(response: urllib3.BaseHTTPResponse, host: str, limit: int, end: float) -> bytes:
    if response.status != 200:
        raise of_status(response.status, f"{host} answers", parse_retry_after(response.headers.get("Retry-After")))
    announced = response.headers.get("Content-Length", "")
    if announced.isdigit() and int(announced) > limit:
        raise too_large(limit)
    content = bytearray()
    # What comes is counted after decompression, a piece at a time.
    while piece := response.read1(CHUNK_BYTES, decode_content=True):
        content += piece
        if len(content) > limit:
            raise too_large(limit)
        if time.monotonic() > end:
            raise timed_out(f"{host} sends too slowly")
    return bytes(content)


@contextlib.contextmanager
def _translate_errors(host: str, end: float) -> Iterator[None]:
    """Errors of the library as ours, without the URL and what it may hold."""
    try:
        yield
    except (urllib3.exceptions.TimeoutError, urllib3.exceptions.HTTPError, ssl.SSLError, OSError) as error:
        if isinstance(error, FetchError):
            raise
        refused = isinstance(error, urllib3.exceptions.NewConnectionError)
        if time.monotonic() > end or (isinstance(error, urllib3.exceptions.TimeoutError) and not refused):
            raise timed_out(f"{host} does not answer in time") from error
        if isinstance(error, urllib3.exceptions.DecodeError):
            raise ValueError(f"{host} sends what it can't have compressed") from error
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise FetchError(Fault("CertificateError", f"the certificate of {host} is not valid")) from error
        raise cut_off(f"the connection to {host} failed: {type(error).__name__}") from error
    if time.monotonic() > end:
        raise timed_out(f"{host} sends too slowly")
