"""What several tests of runners start once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.running.launcher import Launcher


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """Yield one launcher of commands for all tests of a module. Each test begins a log of its own."""
    launcher = Launcher(tmp_path_factory.mktemp("forks") / "asked")
    yield launcher
    launcher.close()
