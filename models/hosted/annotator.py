"""The base class of annotators that ask a hosted API, with one connection and one budget per worker process."""

from __future__ import annotations

import copy
import os
import re
import threading
from collections.abc import Iterable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any, Protocol, TypeVar, runtime_checkable

from PIL.Image import Image

from ..tasks import Outcome, Request, Size, Task, supports
from .dispatch.dispatcher import Dispatcher
from .dispatch.rate_limiter import Clock, RateLimiter
from .dispatch.results import SharedState
from .http.errors import AccountError
from .http.images import MAX_SIDE, MIN_OVERSAMPLING, encode, shrink_sides
from .payment.budget import Budget
from .payment.journal import Journal, Store
from .service import Item, Service

Self = TypeVar("Self", bound="HostedAnnotator")


@runtime_checkable
class JournaledAnnotator(Protocol):
    """An annotator that costs money and records each job in a journal, before and after the job is sent.

    ``scope`` names the shard whose rows the requests become, such as ``RUN/SHARD``.
    """

    def with_store(self, store: Store) -> Any:
        """Return a copy of the annotator with its journal in ``store``."""

    def answer(self, requests: Iterable[Request], scope: str = "") -> Iterator[Outcome]:
        """Yield one outcome for each request, in any order."""

    def remove_from_journal(self, request_ids: Iterable[str], scope: str = "") -> None:
        """Remove requests whose rows have been written from the journal entries visible to ``scope``."""


class HostedAnnotator:
    """Base of the annotators that ask a hosted API. A pickled copy has no API key, connection or running total.

    ``concurrency``: how many jobs are in flight at most in a process. ``max_cost``: dollars that a process may spend,
    None for no limit. ``send_urls``: send the URL of a picture instead of its bytes if the URL is public. ``is_paid``:
    the API may cost money.

    Raises:
        ValueError: if ``concurrency`` is below 1, or ``max_cost`` is not positive and finite.
    """

    tasks: frozenset[type[Task]]
    is_paid = True
    _name: str
    _revision: str
    # For messages: the name of the API, the extra to install, a module of the extra, the environment variable of the
    # key, and the page that issues keys.
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
        self._state: SharedState | None = None
        self._lock = threading.Lock()
        self._num_streams = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_state": None, "_lock": None, "_num_streams": 0}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    @property
    def name(self) -> str:
        """The API's name of the model."""
        return self._name

    @property
    def revision(self) -> str:
        """The version of the model, as far as the API tells; otherwise the API's endpoint."""
        return self._revision

    def check(self) -> None:
        """Check without any call that this process could ask the API.

        Raises:
            ValueError: if the extra is not installed, or the environment has no valid key.
        """
        self._require_extra()
        self._key()

    def accepts_reduced(self, size: Size, reduced: Size) -> bool:
        """Return whether ``reduced`` has at least twice the pixels a side of what is sent: 3,072 on the longer side."""
        return max(reduced) >= MIN_OVERSAMPLING * MAX_SIDE

    def shrink(self, picture: Image) -> Image:
        """Return a picture in the size that is sent."""
        return shrink_sides(picture)

    def answer(self, requests: Iterable[Request], scope: str = "") -> Iterator[Outcome]:
        """Yield one outcome for each request, in the order of the jobs' ends. ``scope``: the scope in the journal.

        Raises:
            AccountError: if there is no key, the API refuses the account, or the journal can't be written.
        """
        state = self._open()
        try:
            yield from Dispatcher(state, requests, scope).answer()
        finally:
            with self._lock:
                self._num_streams -= 1
                if not self._num_streams:
                    state.service.close()

    def with_store(self: Self, store: Store) -> Self:
        """Return a copy of the annotator with its journal in ``store``."""
        other = copy.copy(self)
        other._store = store
        return other

    def remove_from_journal(self, request_ids: Iterable[str], scope: str = "") -> None:
        """Remove requests whose rows have been written from the journal entries visible to ``scope``."""
        if self._state:
            self._state.journal.remove(request_ids, scope)

    def _open(self) -> SharedState:
        """Return the state that all streams of the process share, made by the first of them.

        Raises:
            AccountError: if the extra is not installed, or the environment has no valid key.
        """
        with self._lock:
            if self._state is None:
                try:
                    self.check()
                except ValueError as error:
                    raise AccountError(str(error)) from None
                service = self._service(self._key())
                limiter = RateLimiter(self._clock, self.concurrency)
                journal = Journal(service.backend, self._store)
                budget, jpeg = self._budget(), partial(encode, shrink=self.shrink)
                self._state = SharedState(service, limiter, budget, journal, self._clock, self._prepare, jpeg)
            self._num_streams += 1
            return self._state

    def _require_extra(self) -> None:
        """Raise ValueError if the module of the extra is not installed."""
        if find_spec(self.module) is None:
            raise ValueError(
                f"{self.api} needs the module {self.module}, which is not installed: "
                f"pip install 'moondream-beam[{self.extra}]'"
            )

    def _key(self) -> str:
        """Return the API key from the environment, without white space at its ends.

        Raises:
            ValueError: if there is no key, or the key contains a character other than visible ASCII.
        """
        key = os.environ.get(self.key_variable, "").strip()
        if not key:
            raise ValueError(f"{self.api}: no {self.key_variable} in the environment; get a key at {self.key_page}")
        # An HTTP client refuses such a key with an error that quotes the whole key.
        if not re.fullmatch("[!-~]+", key):
            raise ValueError(
                f"{self.api}: {self.key_variable} contains a space or another character that no key has: "
                f"copy the key again from {self.key_page}"
            )
        return key

    def _prepare(self, request: Request) -> Item:
        """Return the item for a request, without the JPEG of its picture.

        Raises:
            ValueError: if the API does not support the task or its reasoning.
        """
        if type(request.task) not in self.tasks:
            raise ValueError(f"{self.api} does not support the task {request.task.name}: use another backend")
        if not supports(self, request.task):
            raise ValueError(f"{self.api} is not asked for a reasoning: ask without it, or use --backend local")
        return Item.from_request(request, self._clock.now(), self.send_urls)

    def _service(self, key: str) -> Service:
        raise NotImplementedError

    def _budget(self) -> Budget:
        raise NotImplementedError
