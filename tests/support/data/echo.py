"""Echo: a fast annotator without a model, which fails in the ways that a test asks for."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import torch
from PIL import Image

from moondream_beam.models.tasks import (
    Answer,
    Box,
    Caption,
    Detect,
    Fault,
    Outcome,
    Point,
    Query,
    Request,
    Size,
    Spot,
    Task,
    Timings,
    Tokens,
)

BOX, SPOT = Box(0.25, 0.25, 0.75, 0.5), Spot(0.5, 0.25)
TIMINGS, TOKENS = Timings(wait_ms=1.0, encode_ms=2.0, generate_ms=3.0), Tokens(input=7, output=3)


@dataclass(frozen=True)
class Echo:
    """Answers a caption with the size and mean colour, a query with its prompt, and a task of places with constants.

    Requests are answered in batches, the last of a batch first. With ``in_a_thread`` a thread pulls requests while
    answers are yielded. The fields ending in ``_on`` hold prompts or image sizes: for those the answer is a fault
    (``faults_on``), missing (``silent_on``) or a RuntimeError (``dies_on``). After ``ends_after`` requests it ends.
    """

    tasks: ClassVar[frozenset[type[Task]]] = frozenset({Caption, Query, Detect, Point})
    name: str = "echo"
    revision: str = "1"
    batch_size: int = 4
    in_a_thread: bool = False
    faults_on: tuple[object, ...] = ()
    silent_on: tuple[object, ...] = ()
    dies_on: tuple[object, ...] = ()
    ends_after: int | None = None

    def accepts_reduced(self, size: Size, reduced: Size) -> bool:
        return False

    def answer(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        arrivals = pulled_in_a_thread(requests) if self.in_a_thread else iter(requests)
        arrivals = islice(arrivals, self.ends_after)
        while batch := list(islice(arrivals, self.batch_size)):
            for request in reversed(batch):
                marks = {request.task.prompt, request.picture.size}
                if marks & set(self.dies_on):
                    raise RuntimeError("echo died")
                if not marks & set(self.silent_on):
                    fault = Fault("Tired", "echo is tired", retryable=True) if marks & set(self.faults_on) else None
                    yield Outcome(request.id, fault or reply(request), "plain rules", TIMINGS, TOKENS)


class Deaf(Echo):
    """Supports captions only."""

    tasks: ClassVar[frozenset[type[Task]]] = frozenset({Caption})


class Stray(Echo):
    """Yields an outcome for a request that it did not get."""

    def answer(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        for outcome in super().answer(requests):
            yield outcome
            yield Outcome("not yours", outcome.result, outcome.backend)


@dataclass(frozen=True)
class Paced(Echo):
    """Answers requests in batches, each after the time that ``rate`` answers a second allow.

    When a batch is asked, each of its requests is a line in the file ``log``: the id and the seconds of the monotonic
    clock. Several processes may share the file.
    """

    log: str = ""
    rate: float = 100.0

    def answer(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        arrivals, log = iter(requests), os.open(self.log, os.O_WRONLY | os.O_APPEND)
        while batch := list(islice(arrivals, self.batch_size)):
            now = time.monotonic()
            os.write(log, "".join(f"{request.id} {now}\n" for request in batch).encode())
            time.sleep(len(batch) / self.rate)
            for request in batch:
                yield Outcome(request.id, reply(request), "paced", TIMINGS, TOKENS)
        os.close(log)


@dataclass(frozen=True)
class OnFailingDevices(Paced):
    """Paced, but the devices of the first ``failing`` worker processes fail after ``fails_after`` requests of theirs.

    The error is PyTorch's for a kernel that failed. With ``fails_after`` 0 it is that for weights that do not fit.
    """

    failing: int = 0
    fails_after: int = 0

    def answer(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        if int(os.environ.get("WORKER_ID", "worker_99").rpartition("_")[2]) >= self.failing:
            yield from super().answer(requests)
            return
        yield from super().answer(islice(requests, self.fails_after))
        if not self.fails_after:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        raise torch.AcceleratorError("CUDA error: unspecified launch failure\nCompile with TORCH_USE_CUDA_DSA")


def reply(request: Request) -> Answer:
    match request.task:
        case Caption():
            colour = request.picture.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
            return Answer("stop", text=f"{request.picture.width} x {request.picture.height}, {colour}")
        case Query(question):
            return Answer("length", text=question)
        case Detect():
            return Answer("stop", objects=(BOX,))
        case Point():
            return Answer("stop", points=(SPOT,))


def pulled_in_a_thread(requests: Iterable[Request]) -> Iterator[Request]:
    arrived: queue.SimpleQueue[Request | BaseException | None] = queue.SimpleQueue()

    def pull() -> None:
        try:
            for request in requests:
                arrived.put(request)
            arrived.put(None)
        except BaseException as error:
            arrived.put(error)

    thread = threading.Thread(target=pull)
    thread.start()
    for arrival in iter(arrived.get, None):
        if isinstance(arrival, BaseException):
            raise arrival
        yield arrival
    thread.join()
