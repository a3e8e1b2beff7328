"""Start the command again and again without importing it again: a process that has it imported, and forks.

Run as a script: each line on standard input is a list of words in JSON and the name of a log. A child in a session of
its own runs the command with them; the ids of what its annotator is asked go to the log, a line each. The child's id is
printed, and when it has ended, its exit status.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moondream_beam.models.tasks import Request

PATIENCE = 120.0


class Launcher:
    """A process that forks commands."""

    def __init__(self, log: Path) -> None:
        self.log = log
        log.touch()
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def start(self, *words: Any) -> int:
        """Start the command; the id of its process group."""
        return int(self._ask(json.dumps([[str(word) for word in words], str(self.log)])))

    def ended(self) -> int:
        """Wait for the end of what was started; its exit status, negative for a signal."""
        return int(self._ask(None))

    def asked(self) -> list[str]:
        """The ids of all requests that were asked so far."""
        return self.log.read_text().split()

    def until_asked(self, count: int) -> None:
        """Wait until so many requests were asked, counted from the first."""
        end = time.monotonic() + PATIENCE
        while len(self.asked()) < count:
            assert time.monotonic() < end, "nothing happens"
            time.sleep(0.01)

    def _ask(self, line: str | None) -> str:
        assert self._process.stdin is not None and self._process.stdout is not None
        if line is not None:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        return self._process.stdout.readline()


def serve() -> None:
    """Fork a command for each line."""
    from moondream_beam.models.moondream.annotator import Moondream
    from moondream_beam.pipelines.cli import main

    real = Moondream.answer
    for line in sys.stdin:
        words, log = json.loads(line)
        child = os.fork()
        if not child:
            os.setsid()
            # The lines of the launcher are not the command's to print on.
            quiet = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(quiet, descriptor)
            target = os.open(log, os.O_WRONLY | os.O_APPEND)

            def noted(requests: Iterable[Request], target: int = target) -> Iterator[Request]:
                for request in requests:
                    os.write(target, f"{request.id}\n".encode())
                    yield request

            Moondream.answer = lambda self, requests: real(self, noted(requests))  # type: ignore[method-assign]
            os._exit(main(words))
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
