"""The heartbeat of a worker process: lines in a pipe to the process that started the worker.

The environment variable ``PIPE`` contains the number of the pipe's file descriptor. A worker without it has no
heartbeat, and all methods of ``Heartbeat`` do nothing.
"""

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
from collections.abc import Callable, Iterator
from types import FrameType

PIPE = "MOONDREAM_BEAM_PULSE"
BEAT_SECONDS = 1.0
# Characters. JSON may write each as six bytes, and a pipe takes 4096 bytes at once.
MAX_REASON = 600
# A process exits with this status if it could not get SPARE_BYTES for BEATS_WITHOUT beats, or if the start of a thread
# took BEATS_TO_START beats. A thread without memory for its start never runs, and Python waits for it without end.
OUT_OF_MEMORY = errno.ENOMEM
SPARE_BYTES, BEATS_WITHOUT, BEATS_TO_START = 1 << 20, 3, 15


class Heartbeat:
    """Writes the heartbeat of this process to its pipe. Without a pipe in the environment, all methods do nothing."""

    def __init__(self) -> None:
        self._pipe = int(os.environ.get(PIPE, -1))

    def start(self, on_disconnect: Callable[[], object]) -> None:
        """Start a thread that writes an empty line every ``BEAT_SECONDS``, as long as this process can run Python.

        Args:
            on_disconnect: called in that thread, instead of a next line, once the process with the other end of the
                pipe is gone.
        """
        if self._pipe >= 0:
            # If the reader is slow and the pipe is full, lines are dropped. A write must not block the worker.
            os.set_blocking(self._pipe, False)
            threading.Thread(target=self._beat, args=(on_disconnect,), name="heartbeat", daemon=True).start()

    @contextlib.contextmanager
    def working_on(self, shard: int) -> Iterator[Heartbeat]:
        """Report that this process works on a shard while the block runs, and on no shard after that."""
        self.report(shard)
        try:
            yield self
        finally:
            self.report(None)

    def report(self, shard: int | None, rows: int = 0) -> None:
        """Write the JSON line ``[shard, rows]``: the shard of this process, or None, and its number of rows so far."""
        if self._pipe >= 0:
            self._write(json.dumps([shard, rows]))

    @property
    def is_watched(self) -> bool:
        """Whether another process has started this one and reads its heartbeat."""
        return self._pipe >= 0

    def report_device_failure(self, reason: str) -> None:
        """Write the reason as a JSON string. It is one line, and is cut to MAX_REASON characters.

        A longer line could be mixed with the lines of other threads.
        """
        if self._pipe >= 0:
            self._write(json.dumps(reason[:MAX_REASON]))

    def _beat(self, on_disconnect: Callable[[], object]) -> None:
        """Write a line per beat, and exit with ``OUT_OF_MEMORY`` when the process has no memory left."""
        without, starting = 0, Counter[int]()
        with contextlib.suppress(MemoryError):
            while without < BEATS_WITHOUT and max(starting.values(), default=0) < BEATS_TO_START:
                without = 0 if _has_memory() else without + 1
                starting = Counter({start: starting[start] + 1 for start in _starts()})
                if not self._write(""):
                    on_disconnect()
                    return
                time.sleep(BEAT_SECONDS)
        os._exit(OUT_OF_MEMORY)

    def _write(self, line: str) -> bool:
        """Write a line, or drop it if the pipe is full. Return False if no process has the other end of the pipe."""
        try:
            os.write(self._pipe, f"{line}\n".encode())
        except BrokenPipeError:
            return False
        except OSError:
            pass
        return True


def _has_memory() -> bool:
    """Return whether this process can get ``SPARE_BYTES`` of memory now."""
    try:
        mmap.mmap(-1, SPARE_BYTES).close()
    except (OSError, MemoryError):
        return False
    return True


def _starts() -> set[int]:
    """Return the ``id`` of each frame of ``Thread.start`` that waits in this process until its new thread runs.

    A frame that stays in the result belongs to a thread that could not get memory to run.
    """
    found = set()
    for frame in sys._current_frames().values():
        caller: FrameType | None = frame
        while caller is not None:
            if caller.f_code is threading.Thread.start.__code__:
                found.add(id(caller))
            caller = caller.f_back
    return found
