"""An annotator that asks a local engine, and a hosted API for what the engine can't answer."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any, Protocol

from PIL.Image import Image

from ..pixel_budget import PixelBudget
from ..tasks import Annotator, Fault, Outcome, Request, Size, supports, supports_reasoning
from .annotator import HostedAnnotator
from .http.images import shrink_sides
from .payment.journal import Store

log = logging.getLogger(__name__)

# How many failed or unsupported requests are collected before they are sent to the API or to the engine.
COLLECTED_REQUESTS = 16
# Pixels of all unanswered pictures that are kept at full size. Further pictures are kept as small as the API gets them.
MAX_PIXELS = 128 << 20


class Engine(Annotator, Protocol):
    """An annotator that runs on this machine."""

    def load(self) -> object:
        """Load the model. Any exception means that the engine can't answer on this machine."""

    def uses_cpu_fallback(self) -> bool:
        """Return whether the engine runs on the CPU because this machine has no accelerator."""


class Fallback:
    """Annotator that asks ``engine``, and ``api``, which may cost money, for what the engine can't answer.

    The API answers all requests of a worker that has no accelerator, or whose engine can't load or has failed. On other
    workers the API answers the requests that ended with a fault. Tasks that the API does not support stay with the
    engine, if need be on the CPU. ``backend``, ``model`` and ``revision`` of an outcome name the one that answered.
    """

    def __init__(self, engine: Engine, api: HostedAnnotator) -> None:
        self.engine, self.api = engine, api
        self.name, self.revision, self.tasks = engine.name, engine.revision, engine.tasks
        self.supports_reasoning = supports_reasoning(engine)
        self._lock = threading.Lock()
        self._is_checked = self._is_broken = False
        self._disabled_because: str | None = None

    def __getstate__(self) -> dict[str, Any]:
        unchecked = {"_lock": None, "_is_checked": False, "_is_broken": False, "_disabled_because": None}
        return {**self.__dict__, **unchecked}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def with_store(self, store: Store) -> Fallback:
        """Return a copy of the annotator with the API's journal in ``store``."""
        return Fallback(self.engine, self.api.with_store(store))

    def remove_from_journal(self, request_ids: Iterable[str], scope: str = "") -> None:
        """Remove requests whose rows have been written from the API's journal entries visible to ``scope``."""
        self.api.remove_from_journal(request_ids, scope)

    def accepts_reduced(self, size: Size, reduced: Size) -> bool:
        """Return whether both the engine and the API accept ``reduced``, because either may answer."""
        return self.engine.accepts_reduced(size, reduced) and self.api.accepts_reduced(size, reduced)

    def answer(self, requests: Iterable[Request], scope: str = "") -> Iterator[Outcome]:
        """Yield one outcome for each request, in any order. ``scope`` is the scope of the API's journal.

        Raises:
            AccountError: if the API is asked and refuses the account.
        """
        if self._check_engine() is None:
            yield from self._with_engine(requests, scope)
        else:
            yield from self._without_engine(requests, scope)

    def _check_engine(self) -> str | None:
        """Return why the engine is disabled on this worker, or None if it answers. The first call loads the engine."""
        with self._lock:
            if not self._is_checked:
                self._is_checked = True
                if self.engine.uses_cpu_fallback():
                    self._disable_engine("there is no accelerator", broken=False)
                else:
                    try:
                        self.engine.load()
                    except Exception as error:  # The fallback is for every reason: the user has named the API for it.
                        self._disable_engine(f"the engine can't load: {error}", broken=True)
            return self._disabled_because

    def _disable_engine(self, reason: str, broken: bool) -> None:
        """Send all further requests to the API, and log that. ``broken``: the engine can't answer any task."""
        self._disabled_because, self._is_broken = reason, broken
        cost = ", and is paid for" if self.api.is_paid else ""
        log.warning("%s: %s answers instead of %s%s", reason, self.api.api, self.name, cost)

    def _with_engine(self, requests: Iterable[Request], scope: str) -> Iterator[Outcome]:
        """Yield the engine's outcomes, and the API's for each fault. If the engine raises, the API answers the rest."""
        feed = _RequestFeed(requests, self.api.shrink)
        failed: list[tuple[Request, Outcome]] = []
        with closing(_as_generator(self.engine.answer(feed))) as outcomes:
            while True:
                try:
                    outcome = next(outcomes, None)
                except Exception as error:
                    if feed.error is not None:
                        # The stream of requests raised the error, not the engine.
                        raise
                    self._disable_engine(f"the engine broke: {error}", broken=True)
                    break
                if outcome is None:
                    break
                request = feed.pop(outcome.id)
                if isinstance(outcome.result, Fault) and request and supports(self.api, request.task):
                    failed.append((request, outcome))
                else:
                    yield outcome
                if len(failed) >= COLLECTED_REQUESTS:
                    yield from self._retry_with_api(failed, scope)
                    failed = []
        yield from self._retry_with_api(failed, scope)
        if self._is_broken:
            yield from self._without_engine(feed.take_unanswered(), scope)

    def _without_engine(self, requests: Iterable[Request], scope: str) -> Iterator[Outcome]:
        """Yield the API's outcomes, and the engine's for the tasks that the API does not support."""
        outcomes: deque[Outcome] = deque()
        unsupported: list[Request] = []

        def supported() -> Iterator[Request]:
            for request in requests:
                if supports(self.api, request.task):
                    yield request
                    continue
                unsupported.append(request)
                if len(unsupported) >= COLLECTED_REQUESTS:
                    outcomes.extend(self._unsupported_by_api(unsupported))
                    unsupported.clear()

        for outcome in self.api.answer(supported(), scope):
            yield self._with_api_model(outcome)
            while outcomes:
                yield outcomes.popleft()
        yield from outcomes
        yield from self._unsupported_by_api(unsupported)

    def _unsupported_by_api(self, requests: list[Request]) -> Iterator[Outcome]:
        """Yield the engine's outcomes, or an ``EngineUnavailable`` fault for each request if the engine is broken."""
        if not self._is_broken:
            yield from self.engine.answer(list(requests))
            return
        for request in requests:
            message = (
                f"{self._disabled_because}; {self.api.api} does not support the task {request.task.name}: "
                "correct the engine, and run again with --retry-errors"
            )
            yield Outcome(request.id, Fault("EngineUnavailable", message, retryable=True), f"local/{self.name}")

    def _retry_with_api(self, failed: list[tuple[Request, Outcome]], scope: str) -> Iterator[Outcome]:
        """Yield the API's outcomes of requests that the engine failed at. A fault of both has both reasons."""
        firsts: dict[str, list[Outcome]] = {}
        for request, outcome in failed:
            firsts.setdefault(request.id, []).append(outcome)
        if not failed:
            return
        for outcome in self.api.answer((request for request, _ in failed), scope):
            first = firsts[outcome.id].pop().result
            assert isinstance(first, Fault)
            if isinstance(outcome.result, Fault):
                message = f"{first.message}; {self.api.api}: {outcome.result.message}"
                fault = Fault(first.error, message, first.retryable or outcome.result.retryable)
                outcome = replace(outcome, result=fault)
            yield self._with_api_model(outcome)

    def _with_api_model(self, outcome: Outcome) -> Outcome:
        return replace(outcome, model=self.api.name, revision=self.api.revision)


def _as_generator(outcomes: Iterator[Outcome]) -> Generator[Outcome, None, None]:
    """Return a generator, which has the ``close`` that an iterator may lack."""
    yield from outcomes


class _RequestFeed:
    """Iterator that hands requests to an engine, from any thread, and keeps each until its outcome has arrived.

    ``shrink``: returns a picture in the size that the API gets. ``error``: the exception that the stream of requests
    raised, or None.
    """

    def __init__(self, requests: Iterable[Request], shrink: Callable[[Image], Image] = shrink_sides) -> None:
        self._requests, self._shrink = iter(requests), shrink
        self._unanswered: dict[str, list[tuple[Request, int]]] = {}
        self._pixels = PixelBudget(MAX_PIXELS)
        # Two locks: a slow next request must not block the outcomes of earlier ones.
        self._pulling, self._lock = threading.Lock(), threading.Lock()
        self._is_closed = False
        self.error: BaseException | None = None

    def __iter__(self) -> _RequestFeed:
        return self

    def __next__(self) -> Request:
        with self._pulling:
            if self._is_closed:
                raise StopIteration
            try:
                request = next(self._requests)
            except StopIteration:
                raise
            except BaseException as error:
                self.error = error
                raise
            self._keep(request)
            return request

    def _keep(self, request: Request) -> None:
        """Keep a request, with its picture scaled down if it would exceed ``MAX_PIXELS``."""
        pixels, kept = request.picture.width * request.picture.height, request
        with self._lock:
            if not self._pixels.fits(pixels):
                kept = replace(request, picture=self._shrink(request.picture))
                pixels = kept.picture.width * kept.picture.height
            self._pixels.add(pixels)
            self._unanswered.setdefault(request.id, []).append((kept, pixels))

    def pop(self, request_id: str) -> Request | None:
        """Remove and return the oldest unanswered request of this id; None if there is none."""
        with self._lock:
            kept = self._unanswered.get(request_id)
            if not kept:
                return None
            request, pixels = kept.pop(0)
            if not kept:
                del self._unanswered[request_id]
            self._pixels.release(pixels)
            return request

    def take_unanswered(self) -> Iterator[Request]:
        """Yield the unanswered requests, then the rest of the stream. The engine gets no more requests."""
        with self._pulling, self._lock:
            self._is_closed = True
            left = [request for kept in self._unanswered.values() for request, _ in kept]
        yield from left
        yield from self._requests
