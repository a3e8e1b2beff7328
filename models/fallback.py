"""The policy between an engine and a hosted API: who answers where the engine can't."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any, Protocol

from .hosted.annotator import HostedAnnotator
from .hosted.http.images import shrink
from .hosted.journal import Store
from .pixel_budget import PixelBudget
from .tasks import Annotator, Fault, Outcome, Request, Size

log = logging.getLogger(__name__)

# Requests that are gathered before the API is asked for what failed, or the engine for what the API can't be asked.
GATHERED = 16
# Pixels of the pictures that are kept as they are until the engine has answered; beyond that, as the API gets them.
PIXELS_KEPT = 128 << 20


class Engine(Annotator, Protocol):
    """An annotator of this machine."""

    def load(self) -> object:
        """Make ready; any exception means that it can't answer here."""

    def uses_cpu_fallback(self) -> bool:
        """Whether an accelerator was hoped for and none is here."""


class Fallback:
    """``engine`` answers; ``api``, which is paid for, answers where a worker has no accelerator, where the engine can't
    load or breaks, and for rows that it can't answer. ``backend``, ``model`` and ``revision`` of an outcome tell which.

    What the API can't be asked is left to the engine, on the CPU if need be.
    """

    def __init__(self, engine: Engine, api: HostedAnnotator) -> None:
        self.engine, self.api = engine, api
        self.name, self.revision, self.tasks = engine.name, engine.revision, engine.tasks
        self._forget_state()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None, "_checked": False, "_why_out": None, "_is_broken": False}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def beside(self, store: Store) -> Fallback:
        """The same annotator, with the API's journal in this store."""
        return Fallback(self.engine, self.api.beside(store))

    def forget(self, ids: Iterable[str], scope: str = "") -> None:
        """These requests have their rows."""
        self.api.forget(ids, scope)

    def accepts_reduced(self, size: Size, reduced: Size) -> bool:
        """Whether both do, as either may come to answer."""
        return self.engine.accepts_reduced(size, reduced) and self.api.accepts_reduced(size, reduced)

    def answer(self, requests: Iterable[Request], scope: str = "") -> Iterator[Outcome]:
        """Answer a stream of requests, the API's outcomes among the engine's. ``scope`` is for the API's journal.

        Raises:
            AccountError: the API is needed and refuses us.
        """
        if self._find_out() is None:
            yield from self._with_engine(requests, scope)
        else:
            yield from self._without_engine(requests, scope)

    def _forget_state(self) -> None:
        self._lock = threading.Lock()
        self._checked, self._is_broken = False, False
        self._why_out: str | None = None

    def _find_out(self) -> str | None:
        """Why the engine does not answer on this worker; None where it does. Said aloud once."""
        with self._lock:
            if not self._checked:
                self._checked = True
                if self.engine.uses_cpu_fallback():
                    self._put_out("there is no accelerator", broken=False)
                else:
                    try:
                        self.engine.load()
                    except Exception as error:  # Whatever it is, the user named who answers then.
                        self._put_out(f"the engine can't load: {error}", broken=True)
            return self._why_out

    def _put_out(self, why: str, broken: bool) -> None:
        self._why_out, self._is_broken = why, broken
        log.warning("%s: %s answers instead of %s, and is paid for", why, self.api.api, self.name)

    def _with_engine(self, requests: Iterable[Request], scope: str) -> Iterator[Outcome]:
        feed = _Feed(requests)
        failed: list[tuple[Request, Outcome]] = []
        with closing(_as_generator(self.engine.answer(feed))) as outcomes:
            while True:
                try:
                    outcome = next(outcomes, None)
                except Exception as error:
                    if feed.error is not None:
                        raise
                    self._put_out(f"the engine broke: {error}", broken=True)
                    break
                if outcome is None:
                    break
                request = feed.settle(outcome.id)
                if isinstance(outcome.result, Fault) and request and type(request.task) in self.api.tasks:
                    failed.append((request, outcome))
                else:
                    yield outcome
                if len(failed) >= GATHERED:
                    yield from self._second_opinion(failed, scope)
                    failed = []
        yield from self._second_opinion(failed, scope)
        if self._is_broken:
            yield from self._without_engine(feed.take_over(), scope)

    def _without_engine(self, requests: Iterable[Request], scope: str) -> Iterator[Outcome]:
        ended: deque[Outcome] = deque()
        unfit: list[Request] = []

        def askable() -> Iterator[Request]:
            for request in requests:
                if type(request.task) in self.api.tasks:
                    yield request
                    continue
                unfit.append(request)
                if len(unfit) >= GATHERED:
                    ended.extend(self._unaskable(unfit))
                    unfit.clear()

        for outcome in self.api.answer(askable(), scope):
            yield self._signed(outcome)
            while ended:
                yield ended.popleft()
        yield from ended
        yield from self._unaskable(unfit)

    def _unaskable(self, requests: list[Request]) -> Iterator[Outcome]:
        """What the API can't be asked: the engine answers, if there is one at all."""
        if not self._is_broken:
            yield from self.engine.answer(list(requests))
            return
        for request in requests:
            message = f"{self._why_out}; {self.api.api} can't be asked to {request.task.name}"
            yield Outcome(request.id, Fault("EngineUnavailable", message, retryable=True), f"local/{self.name}")

    def _second_opinion(self, failed: list[tuple[Request, Outcome]], scope: str) -> Iterator[Outcome]:
        """The API's answers to what the engine failed at; where both fail, both say why."""
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
            yield self._signed(outcome)

    def _signed(self, outcome: Outcome) -> Outcome:
        return replace(outcome, model=self.api.name, revision=self.api.revision)


def _as_generator(outcomes: Iterator[Outcome]) -> Generator[Outcome, None, None]:
    yield from outcomes


class _Feed:
    """The requests on their way into the engine, kept until they are answered. An engine may pull in any thread."""

    def __init__(self, requests: Iterable[Request]) -> None:
        self._stream = iter(requests)
        self._held: dict[str, list[tuple[Request, int]]] = {}
        self._pixels = PixelBudget(PIXELS_KEPT)
        # Two, since the next request may take its time, and those that were answered need not wait for it.
        self._pulling, self._lock = threading.Lock(), threading.Lock()
        self._is_closed = False
        self.error: BaseException | None = None

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> Request:
        with self._pulling:
            if self._is_closed:
                raise StopIteration
            try:
                request = next(self._stream)
            except StopIteration:
                raise
            except BaseException as error:
                self.error = error
                raise
            self._hold(request)
            return request

    def _hold(self, request: Request) -> None:
        pixels, kept = request.picture.width * request.picture.height, request
        with self._lock:
            if not self._pixels.fits(pixels):
                kept = replace(request, picture=shrink(request.picture))
                pixels = kept.picture.width * kept.picture.height
            self._pixels.add(pixels)
            self._held.setdefault(request.id, []).append((kept, pixels))

    def settle(self, name: str) -> Request | None:
        """The request that an outcome is about; None where nobody asked."""
        with self._lock:
            held = self._held.get(name)
            if not held:
                return None
            request, pixels = held.pop(0)
            if not held:
                del self._held[name]
            self._pixels.release(pixels)
            return request

    def take_over(self) -> Iterator[Request]:
        """What was not answered, and all that is still to come; the engine gets no more."""
        with self._pulling, self._lock:
            self._is_closed = True
            left = [request for held in self._held.values() for request, _ in held]
        yield from left
        yield from self._stream
