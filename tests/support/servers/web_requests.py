"""Requests to a server on loopback through a Fetcher, and answers for such a server."""

from __future__ import annotations

from typing import Any

import pytest
from support.servers.web_server import Handler

from moondream_beam.models.tasks import Fault
from moondream_beam.transforms.images.fetch import Fetcher
from moondream_beam.transforms.io.retry import FetchError, RetryPolicy

QUICK = RetryPolicy(max_attempts=3, timeout_s=5, initial_delay_s=0.001)
LIMIT = 1 << 20


def read(url: str, retry_policy: RetryPolicy = QUICK) -> bytes:
    """Return the content of a URL on loopback."""
    return Fetcher(allow_private_addresses=True, retry_policy=retry_policy)(url)


def fault(url: str, retry_policy: RetryPolicy = QUICK) -> Fault:
    """Return the fault with which a fetch of ``url`` must fail."""
    with pytest.raises(FetchError) as caught:
        read(url, retry_policy)
    return caught.value.fault


def in_turn(*answers: Any) -> Any:
    """Return an answer that is the next of ``answers`` at each request, and then always the last."""
    remaining = list(answers)
    return lambda handler: (remaining.pop(0) if len(remaining) > 1 else remaining[0])(handler)


def status(code: int, **headers: Any) -> Any:
    return lambda handler: handler.reply(b"no", code, **headers)


def ok(handler: Handler) -> None:
    handler.reply(b"picture")
