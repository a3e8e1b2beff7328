"""Pictures over http(s): what is tried, what is refused, and how long it may take."""

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
from support.servers.web_requests import LIMIT, QUICK, fault, in_turn, ok, read, status
from support.servers.web_server import Visit, serving

from moondream_beam.transforms.images.fetch import Fetcher
from moondream_beam.transforms.io.http import client, connections
from moondream_beam.transforms.io.http.client import HttpClient
from moondream_beam.transforms.io.retry import RetryPolicy

pytestmark = pytest.mark.usefixtures("no_proxy")


def hang_up(visit: Visit) -> None:
    visit.connection.shutdown(socket.SHUT_RDWR)


def half(visit: Visit) -> None:
    visit.reply(b"pict", Content_Length=7)
    visit.close_connection = True


def test_gives_the_content_and_says_who_asks() -> None:
    with serving(ok) as server:
        assert read(f"{server.url}/a%20b.jpg?x=1&y=%2F#there") == b"picture"
    ((path, headers),) = server.asked
    assert path == "/a%20b.jpg?x=1&y=%2F"
    assert headers["user-agent"].startswith("moondream-beam/") and headers["host"] == server.url.removeprefix("http://")


def test_letters_beyond_ascii_are_sent_in_their_escaped_form() -> None:
    with serving(ok) as server:
        web = HttpClient(True, resolve=lambda host, port: {"xn--bcher-kva.example": ["127.0.0.1"]}[host])
        url = f"http://bücher.example:{server.server_port}/夏/50%25.jpg?q=é"
        assert web.read(url, LIMIT, time.monotonic() + 5) == b"picture"
    ((path, headers),) = server.asked
    assert path == "/%E5%A4%8F/50%25.jpg?q=%C3%A9"
    assert headers["host"] == f"xn--bcher-kva.example:{server.server_port}"


@pytest.mark.parametrize("location", ["/deep/a b/é.jpg?q=ü", "a b/é.jpg?q=ü", "/deep/a%20b/%C3%A9.jpg?q=%C3%BC"])
def test_a_redirect_is_followed_as_its_server_means_it(location: str) -> None:
    def answer(visit: Visit) -> None:
        if visit.path == "/deep/start":
            # On the wire headers are bytes, and most servers send those of UTF-8.
            visit.reply(status=302, Location=location.encode().decode("latin-1"))
        else:
            ok(visit)

    with serving(answer) as server:
        assert read(f"{server.url}/deep/start") == b"picture"
    assert server.asked[1][0] == "/deep/a%20b/%C3%A9.jpg?q=%C3%BC"


@pytest.mark.parametrize("trouble", [status(500), status(503), status(429), hang_up, half])
def test_what_passes_is_tried_again(trouble: Any) -> None:
    with serving(in_turn(trouble, trouble, ok)) as server:
        assert read(server.url) == b"picture"
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("trouble", "error"), [(status(503), "ServerError"), (hang_up, "ConnectionError"), (half, "ConnectionError")]
)
def test_what_does_not_pass_in_time_may_pass_later(trouble: Any, error: str) -> None:
    with serving(trouble) as server:
        found = fault(server.url)
    assert (found.error, found.retryable, found.attempts) == (error, True, 3)


@pytest.mark.parametrize(
    "code, error", [(404, "FileNotFoundError"), (410, "FileNotFoundError"), (403, "PermissionError")]
)
def test_what_cannot_pass_is_asked_once(code: int, error: str) -> None:
    with serving(status(code)) as server:
        found = fault(server.url)
    assert (found.error, found.retryable, found.attempts, len(server.asked)) == (error, False, 1, 1)
    assert str(code) in found.message


def test_a_port_where_nobody_listens_is_a_fault_that_may_pass() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        found = fault(f"http://127.0.0.1:{free.getsockname()[1]}/a.jpg")
    assert (found.error, found.retryable, found.attempts) == ("ConnectionError", True, 3)


@pytest.mark.parametrize("wait", ["0.2", "date"])
def test_a_server_that_says_when_to_come_back_is_obeyed(wait: str) -> None:
    later = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=2)
    header = format_datetime(later, usegmt=True) if wait == "date" else "1"
    with serving(in_turn(status(429, Retry_After=header), ok)) as server:
        started = time.monotonic()
        assert read(server.url) == b"picture"
    assert time.monotonic() - started >= (0.8 if wait == "date" else 1)


def test_content_larger_than_the_limit_is_refused_by_its_header() -> None:
    with (
        serving(lambda visit: visit.reply(b"x", Content_Length=LIMIT + 1)) as server,
        pytest.raises(ValueError, match="larger than 1 MiB"),
    ):
        HttpClient(True).read(server.url, LIMIT, time.monotonic() + 5)


def endless(visit: Visit) -> None:
    """No length, and no end."""
    visit.reply(b"", Content_Length=None, Connection="close")
    try:
        while True:
            visit.wfile.write(b"x" * 65536)
    except OSError:
        visit.close_connection = True


def squeezed(visit: Visit) -> None:
    visit.reply(gzip.compress(bytes(100 * LIMIT)), Content_Encoding="gzip")


@pytest.mark.parametrize("answer", [endless, squeezed])
def test_content_larger_than_the_limit_is_refused_as_it_comes(answer: Any, memory_peak: Any) -> None:
    with serving(answer) as server, pytest.raises(ValueError, match="larger than 1 MiB"):
        HttpClient(True).read(server.url, LIMIT, time.monotonic() + 20)
    if answer is endless:
        assert memory_peak() < 10 * LIMIT


def test_content_that_is_compressed_is_unpacked() -> None:
    with serving(lambda visit: visit.reply(gzip.compress(b"picture"), Content_Encoding="gzip")) as server:
        assert read(server.url) == b"picture"


def test_content_that_only_claims_to_be_compressed_is_told() -> None:
    lie = lambda visit: visit.reply(b"picture", Content_Encoding="gzip")  # noqa: E731
    with serving(lie) as server, pytest.raises(ValueError, match="compressed"):
        read(server.url)


def test_an_empty_answer_is_no_picture() -> None:
    with serving(lambda visit: visit.reply(b"")) as server, pytest.raises(ValueError, match="empty"):
        read(server.url)


def dripping_body(visit: Visit) -> None:
    visit.reply(b"", Content_Length=1000)
    drip(visit)


def dripping_head(visit: Visit) -> None:
    visit.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    drip(visit)


def dripping_chunks(visit: Visit) -> None:
    visit.reply(b"", Content_Length=None, Transfer_Encoding="chunked")
    visit.wfile.write(b"1;")
    drip(visit)


def drip(visit: Visit) -> None:
    """A byte now and then: each read of a socket is quick enough."""
    try:
        for _ in range(1000):
            visit.wfile.write(b"x")
            time.sleep(0.05)
    except OSError:
        visit.close_connection = True


@pytest.mark.parametrize("answer", [dripping_head, dripping_body, dripping_chunks])
def test_a_server_that_drips_is_cut_off_at_the_deadline(answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_TIMEOUT_S", 0.5)
    started = time.monotonic()
    with serving(answer) as server:
        found = fault(server.url, RetryPolicy(max_attempts=1, timeout_s=0.5))
        assert time.monotonic() - started < 3
    assert found.retryable and found.error in ("TimeoutError", "ConnectionError")


def test_a_server_that_is_silent_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "READ_TIMEOUT_S", 0.2)
    silence = threading.Event()
    with serving(lambda visit: silence.wait(5)) as server:
        found = fault(server.url, RetryPolicy(max_attempts=2, timeout_s=5, initial_delay_s=0.001))
        silence.set()
    assert (found.error, found.retryable, found.attempts) == ("TimeoutError", True, 2)


def test_one_host_is_asked_for_so_many_at_once() -> None:
    inside, most, lock = 0, 0, threading.Lock()

    def busy(visit: Visit) -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.05)
        with lock:
            inside -= 1
        visit.reply(b"x")

    with serving(busy) as server:
        fetcher = Fetcher(allow_private_addresses=True)
        threads = [threading.Thread(target=fetcher, args=(server.url,)) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(server.asked) == 20 and 2 <= most <= client.MAX_CONNECTIONS_PER_HOST
    assert not fetcher.clients.web(True).host_semaphores.in_use


def test_who_waits_for_a_turn_at_a_host_loses_no_time_to_ask_it() -> None:
    def slow(visit: Visit) -> None:
        time.sleep(0.4)
        visit.reply(b"x")

    with serving(slow) as server:
        fetcher = Fetcher(allow_private_addresses=True, retry_policy=RetryPolicy(max_attempts=1, timeout_s=1.0))
        with ThreadPoolExecutor(4 * client.MAX_CONNECTIONS_PER_HOST) as pool:
            assert list(pool.map(fetcher, [server.url] * 4 * client.MAX_CONNECTIONS_PER_HOST)) == [b"x"] * 24


def test_a_connection_serves_again() -> None:
    ports = set()

    def note(visit: Visit) -> None:
        ports.add(visit.client_address[1])
        visit.reply(b"x")

    with serving(note) as server:
        fetcher = Fetcher(allow_private_addresses=True)
        for _ in range(5):
            fetcher(server.url)
    assert len(ports) == 1


def test_a_fetcher_travels_without_its_connections() -> None:
    with serving(ok) as server:
        fetcher = Fetcher(allow_private_addresses=True, retry_policy=QUICK)
        fetcher(server.url)
        again = pickle.loads(pickle.dumps(fetcher))
        assert again == fetcher and again.clients is not fetcher.clients
        assert again(server.url) == b"picture"
