"""The hosted APIs as fixtures: a new server for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .clock import QuickClock
from .server import Server, serving

OTHERS = ("ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy", "FAL_KEY_ID", "FAL_KEY_SECRET")


def use_server(patch: pytest.MonkeyPatch, server: Server) -> None:
    """Make this process send the calls to all hosted APIs to the server."""
    for name in OTHERS:
        patch.delenv(name, raising=False)
    for name, value in server.environment.items():
        patch.setenv(name, value)


@pytest.fixture
def clock() -> QuickClock:
    """A clock that does not wait."""
    return QuickClock()


@pytest.fixture
def api(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, clock: QuickClock
) -> Iterator[Server]:
    """Yield a new server. The environment has its keys, and the proxy that leads to it."""
    with serving(tmp_path_factory.mktemp("api")) as server:
        use_server(monkeypatch, server)
        server.now = clock.now
        yield server
