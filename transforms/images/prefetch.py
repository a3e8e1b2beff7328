"""Fetch and decode images in threads, ahead of the consumer."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice

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
    stream = iter(refs)
    room = PixelBudget(PIXELS_AHEAD)
    under_way: list[Future[Loaded | LoadFailure]] = []
    with ThreadPoolExecutor(LOAD_THREADS, thread_name_prefix="load") as pool:
        try:
            while True:
                for ref in islice(stream, PICTURES_AHEAD - len(under_way)):
                    under_way.append(
                        pool.submit(_load_and_report, on_failure, ref, fetch, room, is_enough, colour_profiles)
                    )
                if not under_way:
                    return
                ready = wait(under_way, return_when=FIRST_COMPLETED).done
                future = next(future for future in under_way if future in ready)
                under_way.remove(future)
                loaded = future.result()
                if isinstance(loaded, Loaded):
                    room.release(loaded.pixels)
                yield loaded
        finally:
            # A consumer that stops early does not wait for the images in flight.
            room.close()
            for future in under_way:
                future.cancel()


def _load_and_report(
    on_failure: Callable[[LoadFailure], None],
    ref: ImageRef,
    fetch: Fetch,
    room: PixelBudget,
    is_enough: Enough,
    colour_profiles: ColourProfiles,
) -> Loaded | LoadFailure:
    loaded = load(ref, fetch, room, is_enough, colour_profiles)
    if isinstance(loaded, LoadFailure):
        on_failure(loaded)
    return loaded


def _undecodable(ref: ImageRef, error: ValueError | MemoryError) -> LoadFailure:
    # Out of memory may pass: another run may have more memory, or fewer images at a time.
    return LoadFailure(ref, "decode", Fault.of(error, retryable=isinstance(error, MemoryError)))
