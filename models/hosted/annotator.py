"""A hosted API as an Annotator: opened when first asked, with the key of the worker, once in a process."""

from __future__ import annotations

import copy
import os
import re
import threading
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import Any, Protocol, TypeVar, runtime_checkable

from ..tasks import Outcome, Request, Size, Task
from .budget import Budget
from .dispatch.dispatcher import Dispatcher
from .dispatch.rate_limiter import Clock, RateLimiter
from .dispatch.results import SharedState
from .http.errors import AccountError
from .http.images import DETAIL, LONGEST_SIDE, Encoder
from .journal import Journal, Store
from .service import Item, Service

Self = TypeVar("Self", bound="HostedAnnotator")


@runtime_checkable
class JournaledAnnotator(Protocol):
    """An annotator that costs money, and keeps a journal so as not to pay twice."""

    def beside(self, store: Store) -> Any:
        """The same annotator, with its journal in this store."""

    def answer(self, requests: Iterable[Request], scope: str = "") -> Iterator[Outcome]:
        """Answer a stream of requests; ``scope`` tells who asks; see journal.py."""

    def forget(self, ids: Iterable[str], scope: str = "") -> None:
        """These requests have their rows: nobody will ask them again in that scope."""


class HostedAnnotator:
    """What hosted annotators have in common. It pickles without key, connections and what it has counted.

    ``concurrency`` jobs are in flight at once in a process. ``max_cost`` dollars are spent by a process at most.
    ``send_urls`` names pictures that lie at public addresses instead of sending them.

    Raises:
        ValueError: a number makes no sense.
    """

    name: str
    revision: str
    tasks: frozenset[type[Task]]
    # For messages: the API, the extra that it needs, a module of that extra, and where its key is found.
    api: str
    extra: str
    module: str
    key_variable: str
    key_page: str

    def __init__(self, *, concurrency: int, max_cost: float | None, send_urls: bool, clock: Clock | None) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency {concurrency}: give 1 or more")
        if max_cost is not None and not 0 < max_cost < float("inf"):
            raise ValueError(f"max cost {max_cost}: give more than 0 dollars")
        self.concurrency, self.max_cost, self.send_urls = concurrency, max_cost, send_urls
        self._clock = clock or Clock()
        self._store: Store | None = None
        self._desk: SharedState | None = None
        self._lock = threading.Lock()
        self._streams = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_desk": None, "_lock": None, "_streams": 0}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def check(self) -> None:
        """Find out whether this process could ask the API, without asking it.

        Raises:
            ValueError: the extra or the key is missing.
        """
        if find_spec(self.module) is None:
            raise ValueError(f"{self.api}: pip install 'moondream-beam[{self.extra}]'")
        self._key()

    def accepts_reduced(self, size: Size, reduced: Size) -> bool:
        """Whether a picture in ``reduced`` pixels is still made smaller before it is sent, to half of them at most."""
        return max(reduced) >= DETAIL * LONGEST_SIDE

    def answer(self, requests: Iterable[Request], scope: str = "") -> Iterator[Outcome]:
        """Answer a stream of requests; they come out as their jobs end. ``scope`` is for the journal.

        Raises:
            AccountError: no key, or the API refuses it, or there is no money left.
        """
        desk = self._open()
        try:
            yield from Dispatcher(desk, requests, scope).answer()
        finally:
            with self._lock:
                self._streams -= 1
                if not self._streams:
                    desk.service.close()

    def beside(self: Self, store: Store) -> Self:
        """The same annotator, with its journal in this store."""
        other = copy.copy(self)
        other._store = store
        return other

    def forget(self, ids: Iterable[str], scope: str = "") -> None:
        """These requests have their rows: nobody will ask them again in that scope."""
        if self._desk:
            self._desk.journal.forget(ids, scope)

    def _open(self) -> SharedState:
        with self._lock:
            if self._desk is None:
                try:
                    self.check()
                except ValueError as error:
                    raise AccountError(str(error)) from None
                service = self._service(self._key())
                governor = RateLimiter(self._clock, self.concurrency)
                journal = Journal(service.backend, self._store)
                self._desk = SharedState(service, governor, self._budget(), journal, self._clock, self._item)
            self._streams += 1
            return self._desk

    def _key(self) -> str:
        # A key out of a file ends with the file's newline.
        key = os.environ.get(self.key_variable, "").strip()
        if not key:
            raise ValueError(f"{self.api}: no {self.key_variable} in the environment; get a key at {self.key_page}")
        # What no header can hold would be shown, with all of the key, by whoever refuses it.
        if not re.fullmatch("[!-~]+", key):
            raise ValueError(f"{self.api}: {self.key_variable} holds what no key does, such as a space; copy it again")
        return key

    def _item(self, request: Request, jpeg_of: Encoder) -> Item:
        if type(request.task) not in self.tasks:
            raise ValueError(f"{self.api} can't be asked to {request.task.name}")
        return Item.of(request, self._clock.now(), jpeg_of, self.send_urls)

    def _service(self, key: str) -> Service:
        raise NotImplementedError

    def _budget(self) -> Budget:
        raise NotImplementedError
