"""The hosted APIs as fixtures: a server for all tests of a module, as good as new for each."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from .clock import QuickClock
from .server import Server, serving

OTHERS = ("NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy", "FAL_KEY_ID", "FAL_KEY_SECRET")


@pytest.fixture
def clock() -> QuickClock:
    """A clock that does not wait."""
    return QuickClock()


@pytest.fixture
def api(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, clock: QuickClock
) -> Iterator[Server]:
    """A server for this test, with its keys and the way to it in the environment."""
    with serving(tmp_path_factory.mktemp("api")) as server:
        for name in OTHERS:
            monkeypatch.delenv(name, raising=False)
        for name, value in server.environment.items():
            monkeypatch.setitem(os.environ, name, value)
        server.now = clock.now
        yield server
