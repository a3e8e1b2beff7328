"""Fixtures of vision servers: a server of the kind vLLM, and no API key in the environment."""

from collections.abc import Iterator

import pytest
from support.servers.chat.server import ChatServer, chat_server


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server() as server:
        yield server
