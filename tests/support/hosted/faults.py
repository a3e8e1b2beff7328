"""Faults of an API or of the network, as a client sees them on the wire."""

from __future__ import annotations

import json
import random
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Respond = tuple[int, Any, Mapping[str, str]]


@dataclass
class Fault:
    """A fault of the calls of one operation (submit, status, result, ...): the next ``times``, or a ``share`` of all.

    ``act`` gets the exchange and its answer, and returns another answer, or None if it closed the connection. With
    ``before`` the API does not receive the call. ``where`` selects exchanges. ``hits`` counts the calls that failed.
    """

    at: str
    act: Callable[[Any, Respond | None], Respond | None]
    times: int = 1
    share: float | None = None
    before: bool = True
    seed: int = 0
    hits: int = 0
    where: Callable[[Any], bool] | None = None
    _random: random.Random = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._random = random.Random(f"{self.at} {self.seed}")

    def matches(self, operation: str, exchange: Any) -> bool:
        if operation != self.at or (self.where and not self.where(exchange)):
            return False
        with self._lock:
            if self.share is not None:
                hit = self._random.random() < self.share
            else:
                hit = self.times > 0
                self.times -= 1
            self.hits += hit
            return hit


def answer(status: int, body: Any = None, **headers: str) -> Callable[..., Respond]:
    """Return an act that answers with this status and body. A body that is not text is sent as JSON.

    Underscores in the names of headers become dashes.
    """
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda exchange, _: (status, body if isinstance(body, str | bytes) else json.dumps(body), named)


def changed(change: Callable[[Any], Any]) -> Callable[..., Respond]:
    """Return an act that applies ``change`` to the JSON of a successful answer."""

    def act(exchange: Any, response: Respond) -> Respond:
        status, body, headers = response
        return status, json.dumps(change(json.loads(body))) if status < 300 else body, headers

    return act


def garbled(change: Callable[[str], str]) -> Callable[..., Respond]:
    """Return an act that applies ``change`` to the text of the answer."""
    return lambda exchange, response: (response[0], change(response[1]), response[2])


def reset(exchange: Any, response: Respond | None) -> None:
    """Reset the connection (RST)."""
    exchange.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    exchange.disconnect()


def reset_in_the_middle(exchange: Any, response: Respond) -> None:
    """Send half of the answer, then reset the connection (RST)."""
    exchange.send(response, cut=len(response[1]) // 2)
    reset(exchange, response)


def ends_early(exchange: Any, response: Respond) -> None:
    """Send half of the answer, then close the connection (FIN)."""
    exchange.send(response, cut=len(response[1]) // 2)
    exchange.disconnect()


def silent(seconds: float) -> Callable[..., Respond | None]:
    """Return an act that waits for ``seconds`` and closes the connection without an answer."""

    def act(exchange: Any, response: Respond | None) -> None:
        exchange.server.over.wait(seconds)
        exchange.disconnect()

    return act
