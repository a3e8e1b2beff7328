"""Download over http(s): retries, limits on size and time, redirects, and connections."""

from __future__ import annotations

import datetime
import gzip
import pickle
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import format_datetime
from typing import Any

import pytest
from support.ports import refusing_port
from support.servers.web_requests import LIMIT, QUICK, fault, in_turn, ok, read, status
from support.servers.web_server import Handler, serving

from moondream_beam.transforms.images.fetch import Fetcher
from moondream_beam.transforms.io.http import client, connections
from moondream_beam.transforms.io.http.client import HttpClient
from moondream_beam.transforms.io.retry import RetryPolicy

pytestmark = pytest.mark.usefixtures("no_proxy")


def reset(handler: Handler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


def truncated(handler: Handler) -> None:
    handler.reply(b"pict", Content_Length=7)
    handler.close_connection = True


def test_read_sends_the_path_and_the_user_agent() -> None:
    with serving(ok) as server:
        assert read(f"{server.url}/a%20b.jpg?x=1&y=%2F#there") == b"picture"
    ((path, headers),) = server.requests
    assert path == "/a%20b.jpg?x=1&y=%2F"
    assert headers["user-agent"].startswith("moondream-beam/") and headers["host"] == server.url.removeprefix("http://")


def test_a_url_that_is_not_ascii_is_sent_percent_encoded_and_in_idna() -> None:
    with serving(ok) as server:
        http = HttpClient(True, resolve=lambda host, port: {"xn--bcher-kva.example": ["127.0.0.1"]}[host])
        url = f"http://bücher.example:{server.server_port}/夏/50%25.jpg?q=é"
        assert http.read(url, LIMIT, time.monotonic() + 5) == b"picture"
    ((path, headers),) = server.requests
    assert path == "/%E5%A4%8F/50%25.jpg?q=%C3%A9"
    assert headers["host"] == f"xn--bcher-kva.example:{server.server_port}"


@pytest.mark.parametrize("location", ["/deep/a b/é.jpg?q=ü", "a b/é.jpg?q=ü", "/deep/a%20b/%C3%A9.jpg?q=%C3%BC"])
def test_a_redirect_is_followed_to_an_unescaped_location(location: str) -> None:
    def answer(handler: Handler) -> None:
        if handler.path == "/deep/start":
            # Most servers send UTF-8 in headers, which http.server would encode as Latin-1.
            handler.reply(status=302, Location=location.encode().decode("latin-1"))
        else:
            ok(handler)

    with serving(answer) as server:
        assert read(f"{server.url}/deep/start") == b"picture"
    assert server.requests[1][0] == "/deep/a%20b/%C3%A9.jpg?q=%C3%BC"


@pytest.mark.parametrize("trouble", [status(500), status(503), status(429), reset, truncated])
def test_a_retryable_error_is_retried(trouble: Any) -> None:
    with serving(in_turn(trouble, trouble, ok)) as server:
        assert read(server.url) == b"picture"
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("trouble", "error"), [(status(503), "ServerError"), (reset, "ConnectionError"), (truncated, "ConnectionError")]
)
def test_an_error_that_persists_is_still_retryable(trouble: Any, error: str) -> None:
    with serving(trouble) as server:
        found = fault(server.url)
    assert (found.error, found.retryable, found.attempts) == (error, True, 3)


@pytest.mark.parametrize(
    "code, error", [(404, "FileNotFoundError"), (410, "FileNotFoundError"), (403, "PermissionError")]
)
def test_an_error_that_is_not_retryable_is_requested_once(code: int, error: str) -> None:
    with serving(status(code)) as server:
        found = fault(server.url)
    assert (found.error, found.retryable, found.attempts, len(server.requests)) == (error, False, 1, 1)
    assert str(code) in found.message


def test_a_closed_port_is_a_retryable_connection_error() -> None:
    with refusing_port() as port:
        found = fault(f"http://127.0.0.1:{port}/a.jpg")
    assert (found.error, found.retryable, found.attempts) == ("ConnectionError", True, 3)


@pytest.mark.parametrize("wait", ["0.2", "date"])
def test_retry_after_is_obeyed(wait: str) -> None:
    later = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=2)
    header = format_datetime(later, usegmt=True) if wait == "date" else "1"
    with serving(in_turn(status(429, Retry_After=header), ok)) as server:
        started = time.monotonic()
        assert read(server.url) == b"picture"
    if wait == "date":
        assert datetime.datetime.now(datetime.timezone.utc) >= later.replace(microsecond=0)
    else:
        assert time.monotonic() - started >= 1


def test_a_content_length_above_the_limit_is_refused() -> None:
    with (
        serving(lambda handler: handler.reply(b"x", Content_Length=LIMIT + 1)) as server,
        pytest.raises(ValueError, match="larger than 1 MiB"),
    ):
        HttpClient(True).read(server.url, LIMIT, time.monotonic() + 5)


def endless(handler: Handler) -> None:
    """Send a body without length and end."""
    handler.reply(b"", Content_Length=None, Connection="close")
    try:
        while True:
            handler.wfile.write(b"x" * 65536)
    except OSError:
        handler.close_connection = True


def gzip_bomb(handler: Handler) -> None:
    handler.reply(gzip.compress(bytes(100 * LIMIT)), Content_Encoding="gzip")


@pytest.mark.parametrize("answer", [endless, gzip_bomb])
def test_content_above_the_limit_is_refused_while_it_is_read(answer: Any, memory_peak: Any) -> None:
    with serving(answer) as server, pytest.raises(ValueError, match="larger than 1 MiB"):
        HttpClient(True).read(server.url, LIMIT, time.monotonic() + 20)
    if answer is endless:
        assert memory_peak() < 10 * LIMIT


def test_compressed_content_is_decompressed() -> None:
    with serving(lambda handler: handler.reply(gzip.compress(b"picture"), Content_Encoding="gzip")) as server:
        assert read(server.url) == b"picture"


def test_content_that_is_not_compressed_as_its_header_says_is_refused() -> None:
    lie = lambda handler: handler.reply(b"picture", Content_Encoding="gzip")  # noqa: E731
    with serving(lie) as server, pytest.raises(ValueError, match="compressed"):
        read(server.url)


def test_empty_content_is_refused() -> None:
    with serving(lambda handler: handler.reply(b"")) as server, pytest.raises(ValueError, match="empty"):
        read(server.url)


def dripping_body(handler: Handler) -> None:
    handler.reply(b"", Content_Length=1000)
    drip(handler)


def dripping_head(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    drip(handler)


def dripping_chunks(handler: Handler) -> None:
    handler.reply(b"", Content_Length=None, Transfer_Encoding="chunked")
    handler.wfile.write(b"1;")
    drip(handler)


def drip(handler: Handler) -> None:
    """Send a byte every 50 ms, so that no single read of the socket times out."""
    try:
        for _ in range(1000):
            handler.wfile.write(b"x")
            time.sleep(0.05)
    except OSError:
        handler.close_connection = True


@pytest.mark.parametrize("answer", [dripping_head, dripping_body, dripping_chunks])
def test_a_server_that_sends_byte_by_byte_is_disconnected_at_the_deadline(
    answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_TIMEOUT_S", 0.5)
    started = time.monotonic()
    with serving(answer) as server:
        found = fault(server.url, RetryPolicy(max_attempts=1, timeout_s=0.5))
        assert time.monotonic() - started < 20
    assert found.retryable and found.error in ("TimeoutError", "ConnectionError")


def test_a_server_that_sends_nothing_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "READ_TIMEOUT_S", 0.2)
    silence = threading.Event()
    with serving(lambda handler: silence.wait(5)) as server:
        found = fault(server.url, RetryPolicy(max_attempts=2, timeout_s=5, initial_delay_s=0.001))
        silence.set()
    assert (found.error, found.retryable, found.attempts) == ("TimeoutError", True, 2)


def test_connections_per_host_are_limited() -> None:
    active, most, lock = 0, 0, threading.Lock()

    def busy(handler: Handler) -> None:
        nonlocal active, most
        with lock:
            active += 1
            most = max(most, active)
        time.sleep(0.05)
        with lock:
            active -= 1
        handler.reply(b"x")

    with serving(busy) as server:
        fetcher = Fetcher(allow_private_addresses=True)
        threads = [threading.Thread(target=fetcher, args=(server.url,)) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(server.requests) == 20 and 2 <= most <= client.MAX_CONNECTIONS_PER_HOST
    assert not fetcher.clients.web(True).host_semaphores.in_use


def test_the_wait_for_a_host_does_not_count_towards_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_CONNECTIONS_PER_HOST", 1)

    def slow(handler: Handler) -> None:
        time.sleep(0.3)
        handler.reply(b"x")

    with serving(slow) as server:
        fetcher = Fetcher(allow_private_addresses=True, retry_policy=RetryPolicy(max_attempts=1, timeout_s=3.0))
        started = time.monotonic()
        with ThreadPoolExecutor(12) as pool:
            assert list(pool.map(fetcher, [server.url] * 12)) == [b"x"] * 12
    assert time.monotonic() - started >= 12 * 0.3, "the last one did not wait for longer than the timeout"


def test_a_connection_is_reused() -> None:
    ports = set()

    def note(handler: Handler) -> None:
        ports.add(handler.client_address[1])
        handler.reply(b"x")

    with serving(note) as server:
        fetcher = Fetcher(allow_private_addresses=True)
        for _ in range(5):
            fetcher(server.url)
    assert len(ports) == 1


def test_a_pickled_fetcher_has_no_connections() -> None:
    with serving(ok) as server:
        fetcher = Fetcher(allow_private_addresses=True, retry_policy=QUICK)
        fetcher(server.url)
        copy = pickle.loads(pickle.dumps(fetcher))
        assert copy == fetcher and copy.clients is not fetcher.clients
        assert copy(server.url) == b"picture"
