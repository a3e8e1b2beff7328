"""A vision server in a process of its own, which a test kills and starts again at the same port.

The server is a script that runs by its path, so it needs nothing of the process that runs the test. A process of
``multiprocessing`` would import the module of the test by its name, which only ``python -m pytest`` can.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from support.ports import free_port

from .llama_cpp import GGUF

__all__ = ["GGUF", "ServerProcess", "llama_cpp_server", "transformers_server"]

TESTS = Path(__file__).parents[3]
START_TIMEOUT_S, ANSWERS_TIMEOUT_S = 120.0, 120.0


class ServerProcess:
    """A server that the program ``words`` runs, with the port as its last word.

    Args:
        log: the file for standard output and standard error of the server.
        answer_mark: a text that is in the log once for each answer.
    """

    def __init__(self, words: Sequence[str | Path], log: Path, answer_mark: str) -> None:
        self.port, self.log, self._mark = free_port(), log, answer_mark
        self.url = f"http://127.0.0.1:{self.port}"
        self._words = [*map(str, words), str(self.port)]
        self._env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
        self._env["HF_HUB_OFFLINE"] = "1"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process. Raise AssertionError if it runs already."""
        assert self._process is None
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._env
            )

    def wait_until_up(self) -> None:
        """Wait until the port accepts connections. Raise AssertionError if the process ends, or after 2 minutes."""
        end = time.monotonic() + START_TIMEOUT_S
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self._process is not None and self._process.poll() is None, self.log.read_text(errors="replace")
            assert time.monotonic() < end, f"no server at port {self.port}: {self.log.read_text(errors='replace')}"
            time.sleep(0.02)

    def kill(self) -> None:
        """Kill the process, and wait until the process is gone. Do nothing if there is none."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait()

    def answers(self) -> int:
        """Return how many answers the log has."""
        return self.log.read_text(errors="replace").count(self._mark)

    @contextlib.contextmanager
    def killed_after(self, *counts: int) -> Iterator[None]:
        """Kill the server after so many answers, and start it again, while the block runs.

        Raises:
            AssertionError: if the block ended before the last of the kills.
        """
        kills, over = list[int](), threading.Event()

        def kill_at_counts() -> None:
            for count in counts:
                while self.answers() < count:
                    if over.wait(0.005):
                        return
                self.kill()
                self.start()
                kills.append(count)

        killer = threading.Thread(target=kill_at_counts)
        killer.start()
        try:
            yield
        finally:
            over.set()
            killer.join()
        assert kills == list(counts), f"the server was killed after {kills} answers"


@contextlib.contextmanager
def running(server: ServerProcess) -> Iterator[ServerProcess]:
    """Run a server within this block, once its port accepts connections."""
    server.start()
    try:
        server.wait_until_up()
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def llama_cpp_server(log: Path, *options: str) -> Iterator[ServerProcess]:
    """Run llama.cpp's server within this block. ``options``: of llama_cpp.py. Skip the test without xllamacpp."""
    pytest.importorskip("xllamacpp", reason="the server of llama.cpp is in the package xllamacpp")
    script = Path(__file__).with_name("llama_cpp.py")
    with running(ServerProcess([sys.executable, script, *options], log, "stop processing: n_tokens")) as server:
        yield server


@contextlib.contextmanager
def transformers_server(checkpoint: Path, log: Path) -> Iterator[ServerProcess]:
    """Run ``transformers serve`` with a checkpoint within this block. Skip the test if its packages are missing."""
    for module in ("accelerate", "fastapi", "openai", "uvicorn"):
        pytest.importorskip(module, reason="transformers serve needs the packages of transformers[serving]")
    program = Path(sys.executable).with_name("transformers")
    words = [program, "serve", checkpoint, "--host", "127.0.0.1", "--device", "cpu", "--port"]
    with running(ServerProcess(words, log, "POST /v1/chat/completions")) as server:
        yield server
