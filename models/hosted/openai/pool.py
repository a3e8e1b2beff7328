"""Several vision servers that share the load. A server that fails is left out for a while, and tested before reuse."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..dispatch.rate_limiter import Clock, retry_delay
from ..http.errors import AccountError, CallError, ThrottledError, one_line
from .transport import ServerClient

log = logging.getLogger(__name__)

# A server that is overloaded refuses a request now and then, which is no news.
BUSY_TO_LOG = 3


@dataclass(eq=False)
class Server:
    """A server's state. ``failures``: in a row. ``is_suspect``: a request got no answer, so the server must be tested.

    ``retry_at``: when the server may be used again, in seconds of the clock. ``is_logged``: its failures were logged.
    """

    client: ServerClient
    in_flight: int = 0
    failures: int = 0
    retry_at: float = float("-inf")
    is_suspect: bool = False
    is_logged: bool = False


class ServerPool:
    """Chooses a server for each request: the one with the fewest requests in flight.

    Requests about the picture of the last request go to the same server, whose cache then has the picture. ``test``
    sends a probe to a server, and raises CallError if the server does not answer.
    """

    def __init__(self, clients: Sequence[ServerClient], clock: Clock, test: Callable[[ServerClient], None]) -> None:
        self.servers = [Server(client) for client in clients]
        self._clock, self._test = clock, test
        self._last: tuple[bytes, Server] | None = None
        self._is_closing = False
        self._lock = threading.Lock()

    def acquire(self, jpeg: bytes, avoid: Server | None = None) -> Server:
        """Return a server for a request about this picture. ``release`` must follow.

        ``avoid``: is chosen only if no other server may be used now.

        Raises:
            ThrottledError: if no server may be used now. Its ``retry_after`` is the shortest wait, if that is known.
        """
        while True:
            with self._lock:
                server = self._choose(jpeg, avoid)
                server.in_flight += 1
                if not server.is_suspect:
                    self._last = (jpeg, server)
                    return server
                # No other thread uses the server during its test.
                server.retry_at = float("inf")
            try:
                self._test(server.client)
            except (CallError, AccountError) as error:
                self.on_down(server, str(error))
            else:
                self.on_answer(server)
            finally:
                self.release(server)

    def release(self, server: Server) -> None:
        """End a request."""
        with self._lock:
            server.in_flight -= 1
        self._close_if_idle()

    def on_answer(self, server: Server) -> None:
        """Use a server again, because it has answered."""
        with self._lock:
            was_down, server.is_logged = server.is_logged, False
            server.failures, server.is_suspect = 0, False
            server.retry_at = float("-inf")
        if was_down:
            log.warning("%s answers again", server.client.name)

    def on_down(self, server: Server, reason: str, *, is_suspect: bool = False, is_busy: bool = False) -> None:
        """Leave a server out for a random time that grows with its failures in a row, at most 30 seconds.

        The first failure is logged; of a server that is only busy, the failure number ``BUSY_TO_LOG`` in a row.
        ``is_suspect``: test the server before its next request.
        """
        with self._lock:
            now = self._clock.now()
            server.is_suspect |= is_suspect
            if server.failures and now < server.retry_at < float("inf"):
                # The request was sent before the failure that is known already.
                return
            server.failures += 1
            server.retry_at = now + retry_delay(server.failures)
            is_news = not server.is_logged and (not is_busy or server.failures >= BUSY_TO_LOG)
            server.is_logged |= is_news
            others = sum(other.failures == 0 for other in self.servers)
        if is_news:
            rest = f"{others} other servers answer" if others else "no other server answers: its requests wait"
            log.warning("%s; %s", one_line(reason), rest)

    def close(self) -> None:
        """Close the connections of all servers after the last request in flight. No request may begin any more."""
        self._is_closing = True
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        with self._lock:
            is_idle = self._is_closing and not any(server.in_flight for server in self.servers)
        if is_idle:
            for server in self.servers:
                server.client.close()

    def _choose(self, jpeg: bytes, avoid: Server | None) -> Server:
        if self._is_closing:
            raise ThrottledError("the stream has ended")
        now = self._clock.now()
        ready = [server for server in self.servers if server.retry_at <= now]
        if not ready:
            wait = min(server.retry_at for server in self.servers) - now
            names = ", ".join(server.client.url for server in self.servers)
            # The wait is infinite while the only server is tested.
            raise ThrottledError(f"no server answers at {names}", wait if math.isfinite(wait) else None)
        ready = [server for server in ready if server is not avoid] or ready
        if self._last is not None and self._last[0] is jpeg and self._last[1] in ready:
            return self._last[1]
        return min(ready, key=lambda server: server.in_flight)
