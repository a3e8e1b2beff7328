"""Fetch and decode images in threads, ahead of the consumer."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from hashlib import sha256
from heapq import heappop, heappush
from itertools import count, islice
from queue import Empty, SimpleQueue

from PIL.Image import Image

from ...models.pixel_budget import PixelBudget
from ...models.tasks import Fault, Size
from ..core.records import IGNORE_PROFILES, ColourProfiles, ImageRef, Location, Stage
from ..io.retry import FetchError
from .decode import Enough, decode_pixels, open_image, reduce_jpeg

Fetch = Callable[[Location], bytes]

# A scheduler such as Slurm may allow this process to use only some of the processors.
_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
# Threads that wait for the network need no processor, and those that decode need one each.
LOAD_THREADS = max(8, min(_CORES, 32))
# Images in flight or waiting for the consumer: enough for the next batch to be ready when the current one ends.
PICTURES_AHEAD = 2 * LOAD_THREADS
# Pixels of those, such as 16 images of 16 megapixels. Pillow takes 4 bytes a pixel, 1 GiB in all, and up to 4 times
# that while it converts an image.
PIXELS_AHEAD = 256 << 20


@dataclass(frozen=True)
class Loaded:
    """A decoded image. ``sha256`` is that of the file's bytes; ``started`` is ``time.perf_counter()`` before its fetch.

    ``size`` is the full size, upright. A JPEG may have been decoded at a reduced size, of ``pixels`` pixels.
    """

    ref: ImageRef
    picture: Image
    size: Size
    pixels: int
    sha256: str
    started: float
    fetch_ms: float
    decode_ms: float


# What the messages of the system lack.
_CURES: dict[type[BaseException], str] = {
    FileNotFoundError: "; correct the path, or mend the link that leads there",
    PermissionError: "; make the file readable",
}


@dataclass(frozen=True)
class LoadFailure:
    """An image that failed: its reference, the stage, and the fault with the error and message of its failure row."""

    ref: ImageRef
    stage: Stage
    fault: Fault


def load(
    ref: ImageRef,
    fetch: Fetch,
    room: PixelBudget,
    is_enough: Enough,
    colour_profiles: ColourProfiles = IGNORE_PROFILES,
) -> Loaded | LoadFailure:
    """Fetch and decode one image. Before decoding it waits until ``room`` has space for its pixels.

    The caller must call ``room.release(Loaded.pixels)``; after a failure nothing is to be released. Errors of the
    fetcher and of decoding are returned as a LoadFailure.
    """
    started = time.perf_counter()
    try:
        content = fetch(ref.location)
    except FetchError as error:
        return LoadFailure(ref, "fetch", error.fault)
    except (OSError, ValueError) as error:
        cure = next((cure for kind, cure in _CURES.items() if isinstance(error, kind)), "")
        return LoadFailure(ref, "fetch", Fault(type(error).__name__, f"{Fault.of(error).message}{cure}"))
    fetched = time.perf_counter()
    try:
        image = open_image(content)
        size = reduce_jpeg(image, is_enough)
    except (ValueError, MemoryError) as error:
        return _undecodable(ref, error)
    pixels = image.width * image.height
    opened = time.perf_counter()
    room.acquire(pixels)
    entered = time.perf_counter()
    try:
        picture = decode_pixels(image, colour_profiles)
    except (ValueError, MemoryError) as error:
        room.release(pixels)
        return _undecodable(ref, error)
    decode_ms = 1000 * (opened - fetched + time.perf_counter() - entered)
    digest = sha256(content).hexdigest()
    return Loaded(ref, picture, size or picture.size, pixels, digest, started, 1000 * (fetched - started), decode_ms)


def prefetch(
    refs: Iterable[ImageRef],
    fetch: Fetch,
    is_enough: Enough = lambda size, reduced: False,
    on_failure: Callable[[LoadFailure], None] = lambda failure: None,
    colour_profiles: ColourProfiles = IGNORE_PROFILES,
) -> Generator[Loaded | LoadFailure, None, None]:
    """Yield each image or its failure as soon as it is ready; of several that are ready, the first in ``refs``.

    Up to ``PICTURES_AHEAD`` images and ``PIXELS_AHEAD`` pixels are in flight or ready. A larger image is loaded alone.
    JPEGs are decoded at the smallest size that ``is_enough`` accepts. ``on_failure`` gets each failure in the load
    thread at once, before the failure is yielded.
    """
    stream, room = iter(refs), PixelBudget(PIXELS_AHEAD)

    def load_and_report(ref: ImageRef) -> Loaded | LoadFailure:
        loaded = load(ref, fetch, room, is_enough, colour_profiles)
        if isinstance(loaded, LoadFailure):
            on_failure(loaded)
        return loaded

    threads = _LoadThreads(load_and_report)
    try:
        while True:
            for ref in islice(stream, PICTURES_AHEAD - threads.under_way):
                threads.put(ref)
            if not threads.under_way:
                return
            loaded = threads.get()
            if isinstance(loaded, Loaded):
                room.release(loaded.pixels)
            yield loaded
    finally:
        # A consumer that stops early does not wait for images that wait for room.
        room.close()
        threads.close()


class _LoadThreads:
    """Up to ``LOAD_THREADS`` threads that load images. ``under_way`` is the number of images that are still to ``get``.

    A ``ThreadPoolExecutor`` does the same, but the locks of its futures take a fifth of the time of an image that fails
    at once, such as one that does not exist.
    """

    def __init__(self, load: Callable[[ImageRef], Loaded | LoadFailure]) -> None:
        self.under_way = 0
        self._load, self._count = load, count()
        self._asked: SimpleQueue[tuple[int, ImageRef] | None] = SimpleQueue()
        self._ended: SimpleQueue[tuple[int, Loaded | LoadFailure | BaseException]] = SimpleQueue()
        self._ready: list[tuple[int, Loaded | LoadFailure | BaseException]] = []
        self._threads: list[threading.Thread] = []

    def put(self, ref: ImageRef) -> None:
        """Have an image loaded."""
        if len(self._threads) < LOAD_THREADS:
            self._threads.append(threading.Thread(target=self._run, name=f"load_{len(self._threads)}", daemon=True))
            self._threads[-1].start()
        self._asked.put((next(self._count), ref))
        self.under_way += 1

    def get(self) -> Loaded | LoadFailure:
        """Return the first image, in the order of ``put``, of those that have ended. Wait if none has."""
        while not self._ready or not self._ended.empty():
            heappush(self._ready, self._ended.get())
        self.under_way -= 1
        _, loaded = heappop(self._ready)
        if isinstance(loaded, BaseException):
            raise loaded
        return loaded

    def close(self) -> None:
        """Wait for the images that are being loaded, and drop all others."""
        while not self._asked.empty():
            with contextlib.suppress(Empty):
                self._asked.get_nowait()
        for _ in self._threads:
            self._asked.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while asked := self._asked.get():
            number, ref = asked
            try:
                loaded: Loaded | LoadFailure | BaseException = self._load(ref)
            except BaseException as error:
                loaded = error
            self._ended.put((number, loaded))
            # An image that the consumer has taken must not stay in memory until the next one.
            del loaded


def _undecodable(ref: ImageRef, error: ValueError | MemoryError) -> LoadFailure:
    # Out of memory may pass: another run may have more memory, or fewer images at a time.
    return LoadFailure(ref, "decode", Fault.of(error, retryable=isinstance(error, MemoryError)))
