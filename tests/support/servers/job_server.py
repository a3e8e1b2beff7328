"""Beam's own job service as a process: at an address, or in place of the job servers in Java for Flink and Spark.

Like those, the program listens at ``--job-port`` and ends on SIGINT. It notes that a job was cancelled, and that it was
stopped. Beam's own job service accepts ``Cancel``, but its job goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from apache_beam.runners.portability.local_job_service import LocalJobServicer


@contextlib.contextmanager
def job_service(notes: Path) -> Iterator[str]:
    """Run the program while the block runs. Yield its address. What it notes is appended to ``notes``."""
    # This file is also a program, which does not find the other files of the tests.
    from support.ports import free_port

    port = free_port()
    with open(f"{notes}.said", "w") as said:
        command = [sys.executable, __file__, str(notes), f"--job-port={port}"]
        process = subprocess.Popen(command, stdout=said, stderr=said)
    try:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("localhost", port)):
                break
            assert process.poll() is None, Path(f"{notes}.said").read_text()
            time.sleep(0.05)
        yield f"localhost:{port}"
    finally:
        process.kill()
        process.wait()


def java_launcher(path: Path, notes: Path) -> Path:
    """Write a program in place of ``java`` to a path. What it notes is appended to ``notes``. Return the path."""
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" "{notes}" "$@"\n')
    path.chmod(0o755)
    return path


class _JobService(LocalJobServicer):
    def Cancel(self, *args: Any, **options: Any) -> Any:
        _note("cancelled")
        return super().Cancel(*args, **options)


def _note(word: str) -> None:
    with open(sys.argv[1], "a") as notes:
        notes.write(f"{word}\n")


def _end(*_: object) -> None:
    _note("stopped")
    os._exit(0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--job-port", type=int)
    signal.signal(signal.SIGINT, _end)
    _JobService().start_grpc_server(parser.parse_known_args()[0].job_port)
    while True:
        time.sleep(1)
