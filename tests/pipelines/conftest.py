"""Fixtures: a folder of drawn pictures, the command as a function, and a pool of workers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.data.golden import MOONDREAM_3, Golden
from support.hosted.fixtures import api, clock
from support.running.launcher import Launcher
from support.running.worker_pools import pool_of_workers

from moondream_beam.models.tiny.scenes import TEST_SEEDS, draw
from moondream_beam.pipelines.cli import main

__all__ = ["api", "clock"]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Draw four pictures, one of them in a subfolder, and write a .jpg file that is not a picture."""
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    for name, seed in zip(("a.png", "b.jpg", "c.webp", "more/d.bmp"), TEST_SEEDS, strict=False):
        draw(seed).image.save(folder / name)
    (folder / "broken.jpg").write_bytes(b"<html>not found</html>")
    return folder


@pytest.fixture(params=MOONDREAM_3)
def golden3(request: pytest.FixtureRequest) -> Golden:
    """Return each checkpoint of Moondream 3 with its expected outputs."""
    return Golden(request.param)


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Start a pool of workers on this machine. Yield its address and its process."""
    with pool_of_workers(tmp_path) as pool:
        yield pool


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs ``moondream-beam`` and returns exit status, standard output and standard error."""

    def run(*words: Any) -> tuple[int, str, str]:
        try:
            status = main([str(word) for word in words])
        except SystemExit as exit:
            status = int(str(exit.code))
        printed = capsys.readouterr()
        # The handler of the command writes to a stream that ends with the test. A process ends with its command.
        logging.getLogger().handlers.clear()
        return status, printed.out, printed.err

    return run


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    """Yield a launcher that runs the command in separate processes."""
    launcher = Launcher(tmp_path / "asked")
    yield launcher
    launcher.close()
