"""What may go wrong between a client and an API, each as it looks on the wire."""

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
    """``at`` an operation (submit, status, result, ...) ``times`` times, or with a ``share`` of all calls.

    ``before`` the call is carried out, or after it; ``act`` gets the exchange and what it would have answered, and
    returns another answer, or None where it has broken the connection.
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

    def strikes(self, operation: str, exchange: Any) -> bool:
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
    """Another answer; underscores in names of headers are dashes, and a body that is no text is JSON."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda exchange, _: (status, body if isinstance(body, str | bytes) else json.dumps(body), named)


def changed(change: Callable[[Any], Any]) -> Callable[..., Respond]:
    """The answer, its JSON changed where it is a success."""

    def act(exchange: Any, response: Respond) -> Respond:
        status, body, headers = response
        return status, json.dumps(change(json.loads(body))) if status < 300 else body, headers

    return act


def garbled(change: Callable[[str], str]) -> Callable[..., Respond]:
    """The answer, its text changed."""
    return lambda exchange, response: (response[0], change(response[1]), response[2])


def reset(exchange: Any, response: Respond | None) -> None:
    """RST."""
    exchange.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    exchange.break_off()


def reset_in_the_middle(exchange: Any, response: Respond) -> None:
    """Half an answer, then RST."""
    exchange.send(response, cut=len(response[1]) // 2)
    reset(exchange, response)


def ends_early(exchange: Any, response: Respond) -> None:
    """Half an answer, then FIN."""
    exchange.send(response, cut=len(response[1]) // 2)
    exchange.break_off()


def silent(seconds: float) -> Callable[..., Respond | None]:
    """The answer comes too late."""

    def act(exchange: Any, response: Respond | None) -> None:
        exchange.server.over.wait(seconds)
        exchange.break_off()

    return act
