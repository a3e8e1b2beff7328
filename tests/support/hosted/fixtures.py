"""The hosted APIs as fixtures: a server for all tests of a module, as good as new for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .clock import QuickClock
from .server import Server, serving

OTHERS = ("ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy", "FAL_KEY_ID", "FAL_KEY_SECRET")


def leave_home(patch: pytest.MonkeyPatch, server: Server) -> None:
    """Let this process find the server in the place of all APIs."""
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
    """A server for this test, with its keys and the way to it in the environment."""
    with serving(tmp_path_factory.mktemp("api")) as server:
        leave_home(monkeypatch, server)
        server.now = clock.now
        yield server
