"""Start the command again and again without importing it again: a process that has it imported, and forks.

Run as a script: each line on standard input is JSON. To start is words for the command, the name of a log, and limits;
a child in a session of its own runs the command, the ids of what its annotator is asked go to the log, a line each,
what it says to a file beside it, and its process id is printed. To wait is such an id, and its exit status is printed.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

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

    def start(self, *words: Any, **limits: float) -> int:
        """Start the command; the id of its process group.

        ``largest_file``: bytes that a file of it may have. ``hold_after``: it holds its breath, as after SIGSTOP, where
        its process has been asked for so many rows, so that nothing depends on how quick it is. Those in capitals are
        the constants of that name in the module that watches workers.
        """
        return self._ask([[str(word) for word in words], str(self.log), limits])

    def ended(self, process: int) -> int:
        """Wait for the end of what was started; its exit status, negative for a signal."""
        return self._ask(process)

    def held(self, process: int) -> None:
        """Wait until a command holds its breath."""
        end = time.monotonic() + PATIENCE
        while psutil.Process(process).status() != psutil.STATUS_STOPPED:
            assert time.monotonic() < end, "nothing happens"
            time.sleep(0.01)

    def go_on(self, process: int) -> None:
        """Let a command breathe again."""
        os.killpg(process, signal.SIGCONT)

    def run(self, *words: Any, **limits: float) -> int:
        """Start the command and wait for its end; its exit status."""
        return self.ended(self.start(*words, **limits))

    def said(self) -> str:
        """What all commands have said so far."""
        return _beside(str(self.log)).read_text()

    def asked(self) -> list[str]:
        """The ids of all requests that were asked so far."""
        return self.log.read_text().split()

    def until_asked(self, count: int) -> None:
        """Wait until so many requests were asked, counted from the first."""
        end = time.monotonic() + PATIENCE
        while len(self.asked()) < count:
            assert time.monotonic() < end, "nothing happens"
            time.sleep(0.01)

    def _ask(self, order: Any) -> int:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


def _beside(log: str) -> Path:
    return Path(f"{log}.said")


def serve() -> None:
    """Do what each line says."""
    from moondream_beam.models.moondream.annotator import Moondream
    from moondream_beam.pipelines.cli import main
    from moondream_beam.pipelines.local_runner import worker_pool

    real = Moondream.answer
    for line in sys.stdin:
        order = json.loads(line)
        if isinstance(order, int):
            print(os.waitstatus_to_exitcode(os.waitpid(order, 0)[1]), flush=True)
            continue
        words, log, limits = order
        child = os.fork()
        if not child:
            os.setsid()
            # The lines of the launcher are not the command's to print on.
            said = os.open(_beside(log), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(said, 1)
            os.dup2(said, 2)
            target = os.open(log, os.O_WRONLY | os.O_APPEND)
            if "largest_file" in limits:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limits["largest_file"],) * 2)
            for name in filter(str.isupper, limits):
                setattr(worker_pool, name, limits[name])
            left = itertools.count(limits.get("hold_after", 0) - 1, -1)

            def noted(
                requests: Iterable[Request], target: int = target, left: Iterator[int] = left
            ) -> Iterator[Request]:
                for request in requests:
                    os.write(target, f"{request.id}\n".encode())
                    if next(left) == 0:
                        os.kill(os.getpid(), signal.SIGSTOP)
                    yield request

            Moondream.answer = lambda self, requests: real(self, noted(requests))  # type: ignore[method-assign]
            status = main(words)
            sys.stdout.flush()
            os._exit(status)
        print(child, flush=True)


if __name__ == "__main__":
    serve()
