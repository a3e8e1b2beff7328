"""The pictures of a batch of jobs on their way through the vision encoder: at once, or beside the decoding of others.

A step of decoding reads memory most of the time, and the encoder computes. On a GPU the two run side by side.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from ..devices import synchronize
from ..network.decoder.cache import KVCache
from .jobs import CropsFuture, Job

# The image prefix of each job, and the cost of each picture in crops; see ``Prefixes.of``.
Encoded = tuple[list[KVCache], dict[CropsFuture, float]]


class Encoding(Protocol):
    """Work on the encoder that has begun."""

    def is_done(self) -> bool:
        """Return whether ``wait`` returns at once."""

    def wait(self) -> tuple[Encoded, float]:
        """Wait for the end. Return the result, for use in the current stream, and the seconds of the work."""


class EncodedAtOnce:
    """Work that is done when the object is made."""

    def __init__(self, encode: Callable[[], Encoded], device: torch.device) -> None:
        started = time.perf_counter()
        self._encoded = encode()
        synchronize(device)
        self._seconds = time.perf_counter() - started

    def is_done(self) -> bool:
        """Return True."""
        return True

    def wait(self) -> tuple[Encoded, float]:
        """See ``Encoding``."""
        return self._encoded, self._seconds


class EncodedOnStream:
    """Work in a CUDA stream of its own. Not run on a GPU yet."""

    def __init__(self, encode: Callable[[], Encoded], stream: torch.cuda.Stream) -> None:
        self._device = stream.device
        self._started, self._ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        # What the encoder reads may have been written in the current stream.
        stream.wait_stream(torch.cuda.current_stream(stream.device))
        with torch.cuda.stream(stream):
            self._started.record(stream)
            self._encoded = encode()
            self._ended.record(stream)

    def is_done(self) -> bool:
        """See ``Encoding``."""
        return self._ended.query()

    def wait(self) -> tuple[Encoded, float]:
        """See ``Encoding``."""
        self._ended.synchronize()
        for prefix in self._encoded[0]:
            # Else the allocator could give this memory to the next encoding while the prefix is still copied.
            prefix.heads.record_stream(torch.cuda.current_stream(self._device))
        return self._encoded, self._started.elapsed_time(self._ended) / 1000


class Batch:
    """Jobs whose pictures are encoded together. ``begin_encoding``: begins the encoding of their pictures."""

    def __init__(self, jobs: list[Job], begin_encoding: Callable[[Sequence[CropsFuture]], Encoding]) -> None:
        self.jobs, self._begin_encoding = jobs, begin_encoding
        self._encoding: Encoding | None = None

    def begin(self) -> Encoding:
        """Begin the encoding, if it has not begun, and return it."""
        if self._encoding is None:
            self._encoding = self._begin_encoding([job.crops for job in self.jobs])
        return self._encoding

    def cut(self, size: int) -> list[Job]:
        """Keep at most ``size`` jobs, and return the others."""
        self.jobs, others = self.jobs[:size], self.jobs[size:]
        return others

    def take_prefixes(self) -> list[KVCache]:
        """Wait for the image prefix of each job, and return them. Add the times up to now to the jobs."""
        (prefixes, costs), seconds = self.begin().wait()
        now, pictures = time.perf_counter(), [job.crops for job in self.jobs]
        for job in self.jobs:
            # A batch that was encoded ahead has waited for free slots since.
            job.wait_ms += 1000 * max(0.0, now - job.arrived - seconds)
            # Each picture bears a share by its number of crops; the jobs of one picture divide it evenly.
            share = costs[job.crops] / sum(costs.values()) / pictures.count(job.crops)
            job.encode_ms += 1000 * seconds * share
        return prefixes[: len(self.jobs)]


class Batches:
    """The batches of jobs in turn.

    ``take_ready``: returns up to so many jobs. ``encode``: encodes the pictures of a batch. ``ahead``: whether the
    pictures of the next batch may be encoded before that batch is taken. Without a stream of its own nothing is gained.
    """

    def __init__(
        self,
        take_ready: Callable[[int], list[Job]],
        encode: Callable[[Sequence[CropsFuture]], Encoded],
        device: torch.device,
    ) -> None:
        self.ahead = device.type == "cuda"
        self._take_ready, self._encode, self._device = take_ready, encode, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._next: Batch | None = None

    def take(self, max_jobs: int, *, wait: bool) -> Batch | None:
        """Return the next batch, of at most ``max_jobs`` jobs unless it was encoded ahead.

        Returns:
            None if no job is ready, or the batch is being encoded ahead and ``wait`` is False.
        """
        if self._next is None:
            jobs = self._take_ready(max_jobs)
            return Batch(jobs, self._begin) if jobs else None
        if not wait and not self._next.begin().is_done():
            return None
        batch, self._next = self._next, None
        return batch

    def encode_ahead(self, max_jobs: int) -> None:
        """Begin to encode the next batch, if that is allowed, it has not begun and a job is ready."""
        if self.ahead and self._next is None and (jobs := self._take_ready(max_jobs)):
            self._next = Batch(jobs, self._begin)
            self._next.begin()

    def clear(self) -> None:
        """Forget the batch that was encoded ahead. Its jobs are the caller's."""
        self._next = None

    def _begin(self, pictures: Sequence[CropsFuture]) -> Encoding:
        def encode() -> Encoded:
            return self._encode(pictures)

        return EncodedOnStream(encode, self._stream) if self._stream else EncodedAtOnce(encode, self._device)
