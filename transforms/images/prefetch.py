"""References to pictures, ahead of whoever waits for them: fetched and decoded in threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice

from PIL.Image import Image

from ...models.tasks import Fault, Size
from ..core.records import ImageRef, Location, Stage
from ..io.retry import FetchError
from .decode import Enough, make_pixels, open_picture, reduce

Fetch = Callable[[Location], bytes]

LOAD_THREADS = 8
# Pictures under way or waiting: enough for a batch to be ready when the last one ends.
PICTURES_AHEAD = 16
# Pixels of those: sixteen of a 16-megapixel camera, a gigabyte in Pillow, where a pixel takes four bytes. While one is
# converted it may take four times that.
PIXELS_AHEAD = 256 << 20


@dataclass(frozen=True)
class Loaded:
    """A picture with the sha256 of its bytes; ``started`` is on the clock of ``time.perf_counter``.

    ``size`` is that of all of it, upright; the picture may have come in fewer ``pixels``.
    """

    ref: ImageRef
    picture: Image
    size: Size
    pixels: int
    sha256: str
    started: float
    fetch_ms: float
    decode_ms: float


@dataclass(frozen=True)
class LoadFailure:
    """Why there is no picture."""

    ref: ImageRef
    stage: Stage
    fault: Fault


class PixelBudget:
    """Room for so many pixels: whoever finds none waits. A picture larger than all of it has it alone."""

    def __init__(self, pixels: int) -> None:
        self.pixels, self.taken, self.closed = pixels, 0, False
        self._changed = threading.Condition()

    def take(self, pixels: int) -> None:
        """Wait for room, and take it.

        Raises:
            RuntimeError: the room was closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.closed or not self.taken or self.taken + pixels <= self.pixels)
            if self.closed:
                raise RuntimeError("nobody waits for this picture any more")
            self.taken += pixels

    def give_back(self, pixels: int) -> None:
        """Make room for others."""
        with self._changed:
            self.taken -= pixels
            self._changed.notify_all()

    def close(self) -> None:
        """Let nobody in any more, nor wait."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()


def load(ref: ImageRef, fetch: Fetch, room: PixelBudget, is_enough: Enough) -> Loaded | LoadFailure:
    """Fetch and decode one picture, once its pixels have room; the caller gives that back for what is loaded.

    What goes wrong is told, not raised.
    """
    started = time.perf_counter()
    if ref.problem:
        return LoadFailure(ref, "list", Fault("ValueError", ref.problem))
    try:
        content = fetch(ref.location)
    except FetchError as error:
        return LoadFailure(ref, "fetch", error.fault)
    except (OSError, ValueError) as error:
        return LoadFailure(ref, "fetch", Fault.of(error))
    fetched = time.perf_counter()
    try:
        image = open_picture(content)
        size = reduce(image, is_enough)
    except (ValueError, MemoryError) as error:
        return _undecodable(ref, error)
    pixels = image.width * image.height
    opened = time.perf_counter()
    room.take(pixels)
    entered = time.perf_counter()
    try:
        picture = make_pixels(image)
    except (ValueError, MemoryError) as error:
        room.give_back(pixels)
        return _undecodable(ref, error)
    decode_ms = 1000 * (opened - fetched + time.perf_counter() - entered)
    digest = sha256(content).hexdigest()
    return Loaded(ref, picture, size or picture.size, pixels, digest, started, 1000 * (fetched - started), decode_ms)


def prefetch(
    refs: Iterable[ImageRef], fetch: Fetch, is_enough: Enough = lambda size, reduced: False
) -> Iterator[Loaded | LoadFailure]:
    """Load ``PICTURES_AHEAD`` of them at once, and no more than ``PIXELS_AHEAD``.

    They come as they are ready, the oldest first: a slow one keeps nobody waiting, and each that goes makes way. Of a
    JPEG only as many pixels are made as are enough.
    """
    stream = iter(refs)
    room = PixelBudget(PIXELS_AHEAD)
    under_way: list[Future[Loaded | LoadFailure]] = []
    with ThreadPoolExecutor(LOAD_THREADS, thread_name_prefix="load") as pool:
        try:
            while True:
                for ref in islice(stream, PICTURES_AHEAD - len(under_way)):
                    under_way.append(pool.submit(load, ref, fetch, room, is_enough))
                if not under_way:
                    return
                ready = wait(under_way, return_when=FIRST_COMPLETED).done
                future = next(future for future in under_way if future in ready)
                under_way.remove(future)
                loaded = future.result()
                if isinstance(loaded, Loaded):
                    room.give_back(loaded.pixels)
                yield loaded
        finally:
            # Whoever stops listening does not wait for what nobody will see.
            room.close()
            for future in under_way:
                future.cancel()


def _undecodable(ref: ImageRef, error: ValueError | MemoryError) -> LoadFailure:
    # With more memory, or less beside it, there may be room for its pixels.
    return LoadFailure(ref, "decode", Fault.of(error, retryable=isinstance(error, MemoryError)))
