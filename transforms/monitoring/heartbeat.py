"""Signs of life of a worker process, for the process that started it: bytes in a pipe, which the environment names."""

from __future__ import annotations

import contextlib
import errno
import json
import mmap
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from types import FrameType

PIPE = "MOONDREAM_BEAM_PULSE"
BEAT_SECONDS = 1.0
# The exit status of a process that could not have so few bytes for so many beats, or was starting a thread for so many:
# Python waits for ever for a thread that had no memory to start with.
OUT_OF_MEMORY = errno.ENOMEM
SPARE_BYTES, BEATS_WITHOUT, BEATS_TO_START = 1 << 20, 3, 15


class Heartbeat:
    """The end of that pipe; nothing happens where this process has none."""

    def __init__(self) -> None:
        self._pipe = int(os.environ.get(PIPE, -1))

    def start(self) -> None:
        """Beat in a thread as long as this process lives: an empty line tells that it can still run Python."""
        if self._pipe >= 0:
            # Who started this process may not listen for a while, which is not to hold up anything here.
            os.set_blocking(self._pipe, False)
            threading.Thread(target=self._beat, name="pulse", daemon=True).start()

    @contextlib.contextmanager
    def working_on(self, shard: int) -> Iterator[Heartbeat]:
        """Within this block this process is at a shard."""
        self.report(shard)
        try:
            yield self
        finally:
            self.report(None)

    def report(self, shard: int | None, rows: int = 0) -> None:
        """Tell which shard this process is at (None: at none), and how many rows that has so far."""
        if self._pipe >= 0:
            self._write(json.dumps([shard, rows]))

    def _beat(self) -> None:
        without, starting = 0, Counter[int]()
        with contextlib.suppress(MemoryError):
            while without < BEATS_WITHOUT and max(starting.values(), default=0) < BEATS_TO_START:
                without = 0 if _has_memory() else without + 1
                starting = Counter({start: starting[start] + 1 for start in _starts()})
                self._write("")
                time.sleep(BEAT_SECONDS)
        os._exit(OUT_OF_MEMORY)

    def _write(self, line: str) -> None:
        with contextlib.suppress(OSError):
            os.write(self._pipe, f"{line}\n".encode())


def _has_memory() -> bool:
    """Whether the system gives this process any more."""
    try:
        mmap.mmap(-1, SPARE_BYTES).close()
    except (OSError, MemoryError):
        return False
    return True


def _starts() -> set[int]:
    """The calls in this process that wait for a new thread to run: what takes no time, as a rule."""
    found = set()
    for frame in sys._current_frames().values():
        caller: FrameType | None = frame
        while caller is not None:
            if caller.f_code is threading.Thread.start.__code__:
                found.add(id(caller))
            caller = caller.f_back
    return found
