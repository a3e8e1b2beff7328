"""Start the command many times without importing it each time: a process that has imported it forks.

Run as a script, it reads JSON lines from standard input. A line [words, log, limits] starts the command in a child with
its own session, and prints the process id. The child writes the id of each request to the log, a line each, and its
output to a file beside the log. A line with a process id waits for that child, and prints its exit status.
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
TESTS = Path(__file__).parents[2]


class Launcher:
    """A process that forks commands. ``log`` gets the ids of all requests."""

    def __init__(self, log: Path) -> None:
        self.begin_log(log)
        # Worker processes import the annotator of ``rate`` from tests/.
        path = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def begin_log(self, log: Path) -> None:
        """Note the requests of later commands in a new file."""
        self.log = log
        log.touch()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def start(self, *words: Any, **limits: float) -> int:
        """Start the command, and return the id of its process group.

        Args:
            limits: ``largest_file`` is the maximum size of a file in bytes. ``hold_after`` stops a process with SIGSTOP
                after so many requests, so that a test does not depend on speed. A name in capitals replaces the
                constant of that name in worker_pool.py or lock_file.py. With ``rate``, ``Paced`` answers instead of a
                model, also in worker processes: so many answers a second, in batches of ``batch``. ``failing`` and
                ``fails_after`` are those of ``OnFailingDevices``.
        """
        return self._ask([[str(word) for word in words], str(self.log), limits])

    def ended(self, process: int) -> int:
        """Wait for the end of a command, and return its exit status, negative for a signal."""
        return self._ask(process)

    def held(self, process: int) -> None:
        """Wait until a command is stopped by ``hold_after``."""
        end = time.monotonic() + PATIENCE
        while psutil.Process(process).status() != psutil.STATUS_STOPPED:
            assert time.monotonic() < end, "timed out"
            time.sleep(0.01)

    def go_on(self, process: int) -> None:
        """Continue a stopped command."""
        os.killpg(process, signal.SIGCONT)

    def run(self, *words: Any, **limits: float) -> int:
        """Start the command, wait for its end, and return its exit status."""
        return self.ended(self.start(*words, **limits))

    def said(self) -> str:
        """Return the output of all commands so far."""
        return _beside(str(self.log)).read_text()

    def asked(self) -> list[str]:
        """Return the ids of all requests so far."""
        return [line.split()[0] for line in self.log.read_text().splitlines()]

    def until_asked(self, count: int) -> None:
        """Wait until there were so many requests, counted from the first command on."""
        end = time.monotonic() + PATIENCE
        while len(self.asked()) < count:
            assert time.monotonic() < end, "timed out"
            time.sleep(0.01)

    def _ask(self, order: Any) -> int:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


def _beside(log: str) -> Path:
    return Path(f"{log}.said")


def serve() -> None:
    """Execute each line of standard input."""
    from support.data.echo import OnFailingDevices, Paced

    from moondream_beam.models.moondream.annotator import Moondream
    from moondream_beam.pipelines.cli import main
    from moondream_beam.pipelines.commands import annotate
    from moondream_beam.pipelines.local_runner import worker_pool
    from moondream_beam.transforms.output.locks import lock_file

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
            # The command must not print between the lines of the launcher.
            said = os.open(_beside(log), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(said, 1)
            os.dup2(said, 2)
            target = os.open(log, os.O_WRONLY | os.O_APPEND)
            if "largest_file" in limits:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limits["largest_file"],) * 2)
            for name in filter(str.isupper, limits):
                setattr(worker_pool if hasattr(worker_pool, name) else lock_file, name, limits[name])
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
            if "rate" in limits:
                failing = {name: limits[name] for name in ("failing", "fails_after") if name in limits}
                kind = OnFailingDevices if failing else Paced
                paced = kind(log=log, rate=limits["rate"], batch_size=int(limits["batch"]), **failing)
                annotate.build_annotator = lambda *_, paced=paced, **__: paced  # type: ignore[misc]
            status = main(words)
            sys.stdout.flush()
            os._exit(status)
        print(child, flush=True)


if __name__ == "__main__":
    serve()
