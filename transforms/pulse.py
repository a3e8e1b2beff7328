"""Signs of life of a worker process, for the process that started it: bytes in a pipe, which the environment names."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator

PIPE = "MOONDREAM_BEAM_PULSE"
BEAT_SECONDS = 1.0


class Pulse:
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
    def at(self, shard: int) -> Iterator[Pulse]:
        """Within this block this process is at a shard."""
        self.tell(shard)
        try:
            yield self
        finally:
            self.tell(None)

    def tell(self, shard: int | None, rows: int = 0) -> None:
        """Tell which shard this process is at (None: at none), and how many rows that has so far."""
        if self._pipe >= 0:
            self._write(json.dumps([shard, rows]))

    def _beat(self) -> None:
        while True:
            self._write("")
            threading.Event().wait(BEAT_SECONDS)

    def _write(self, line: str) -> None:
        with contextlib.suppress(OSError):
            os.write(self._pipe, f"{line}\n".encode())
