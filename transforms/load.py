"""References to pictures, ahead of whoever waits for them: fetched and decoded in threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice

from PIL.Image import Image

from ..models.tasks import Fault
from .decode import decode
from .records import ImageRef, Stage

Fetch = Callable[[str], bytes]

LOAD_THREADS = 8
# Pictures under way or waiting: enough for a batch to be ready when the last one ends.
PICTURES_AHEAD = 16


@dataclass(frozen=True)
class Loaded:
    """A picture with the sha256 of its bytes; ``started`` is on the clock of ``time.perf_counter``."""

    ref: ImageRef
    picture: Image
    sha256: str
    started: float
    fetch_ms: float
    decode_ms: float


@dataclass(frozen=True)
class Unloadable:
    """Why there is no picture."""

    ref: ImageRef
    stage: Stage
    fault: Fault


def load(ref: ImageRef, fetch: Fetch) -> Loaded | Unloadable:
    """Fetch and decode one picture. What goes wrong is told, not raised."""
    started = time.perf_counter()
    try:
        content = fetch(ref.uri)
    except (OSError, ValueError) as error:
        return Unloadable(ref, "fetch", Fault.of(error))
    fetched = time.perf_counter()
    try:
        picture = decode(content)
    except ValueError as error:
        return Unloadable(ref, "decode", Fault.of(error))
    decoded = time.perf_counter()
    digest = sha256(content).hexdigest()
    return Loaded(ref, picture, digest, started, 1000 * (fetched - started), 1000 * (decoded - fetched))


def load_ahead(refs: Iterable[ImageRef], fetch: Fetch) -> Iterator[Loaded | Unloadable]:
    """Load ``PICTURES_AHEAD`` of them at once. They come as they are ready: a slow one keeps nobody waiting."""
    stream = iter(refs)
    under_way: set[Future[Loaded | Unloadable]] = set()
    with ThreadPoolExecutor(LOAD_THREADS, thread_name_prefix="load") as pool:
        try:
            while True:
                for ref in islice(stream, PICTURES_AHEAD - len(under_way)):
                    under_way.add(pool.submit(load, ref, fetch))
                if not under_way:
                    return
                ready, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                for future in ready:
                    yield future.result()
        finally:
            # Whoever stops listening does not wait for what nobody will see.
            for future in under_way:
                future.cancel()
