"""A generator that several threads may pull."""

from __future__ import annotations

import threading
from collections.abc import Generator

from ...models.tasks import Request


class SharedIterator:
    """A generator that several threads may pull, one at a time. ``close`` waits for the thread that pulls now.

    An annotator may pull in a thread of its own, also after ``answer`` ended; a plain generator then raises ValueError.
    """

    def __init__(self, generator: Generator[Request, None, None]) -> None:
        self._generator, self._pulling = generator, threading.Lock()

    def __iter__(self) -> SharedIterator:
        return self

    def __next__(self) -> Request:
        with self._pulling:
            return next(self._generator)

    def close(self) -> None:
        """Close the generator, after the pull that is under way."""
        with self._pulling:
            self._generator.close()
