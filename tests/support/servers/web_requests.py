"""Asking a server of this machine as a job would, and answers that it can be told to give."""

from __future__ import annotations

from typing import Any

import pytest
from support.servers.web_server import Visit

from moondream_beam.models.tasks import Fault
from moondream_beam.transforms.images.fetch import Fetcher
from moondream_beam.transforms.io.retry import FetchError, RetryPolicy

QUICK = RetryPolicy(max_attempts=3, timeout_s=5, initial_delay_s=0.001)
LIMIT = 1 << 20


def read(url: str, retry_policy: RetryPolicy = QUICK) -> bytes:
    """Fetch from this machine."""
    return Fetcher(allow_private_addresses=True, retry_policy=retry_policy)(url)


def fault(url: str, retry_policy: RetryPolicy = QUICK) -> Fault:
    with pytest.raises(FetchError) as caught:
        read(url, retry_policy)
    return caught.value.fault


def in_turn(*answers: Any) -> Any:
    """Answers one after the other, the last one for ever."""
    left = list(answers)
    return lambda visit: (left.pop(0) if len(left) > 1 else left[0])(visit)


def status(code: int, **headers: Any) -> Any:
    return lambda visit: visit.reply(b"no", code, **headers)


def ok(visit: Visit) -> None:
    visit.reply(b"picture")
