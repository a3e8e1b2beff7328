"""Prism for tests: the program that ``make prism`` builds. And the command in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from apache_beam.version import __version__ as beam_version

PROGRAM = Path(__file__).parents[3] / ".venv" / "prism" / beam_version / "prism"
PATIENCE = 240.0


def prism_program() -> Path:
    """Return the path of the program. Skip the test if there is none."""
    if not PROGRAM.exists():
        pytest.skip(f"there is no Prism {beam_version}: `make prism` builds it, and needs Go")
    return PROGRAM


class CommandRun:
    """The command in a process of its own. It exits as in a shell, which a forked command does not."""

    def __init__(self, out: Path, *words: Any) -> None:
        self.out = out
        command = [sys.executable, "-m", "moondream_beam.pipelines.cli", *map(str, words)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def until_at_work(self) -> list[psutil.Process]:
        """Wait until a shard has its first rows. Return the processes that the command has started, such as Prism."""
        end = time.monotonic() + PATIENCE
        while not list(self.out.glob("_temporary/*.progress/*")):
            assert self.process.poll() is None and time.monotonic() < end, self.process.communicate()
            time.sleep(0.01)
        return psutil.Process(self.process.pid).children()

    def ended(self) -> tuple[int, list[str]]:
        """Wait for the end. Return the exit status and the lines on standard error."""
        _, said = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, said.splitlines()
