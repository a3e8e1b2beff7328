"""Requests by many threads in nearly ascending order, as when images are prefetched."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
THREADS, UNDER_WAY, APART = 8, 16, 3


def ask(call: Callable[[Any], T], things: Sequence[Any]) -> list[T]:
    """Call ``call`` on each thing from 8 threads, in nearly their order; return the results in their order."""
    draw, under_way, found = random.Random(0), deque(), {}
    with ThreadPoolExecutor(THREADS) as pool:
        for index in sorted(range(len(things)), key=lambda index: index + draw.random() * APART):
            under_way.append((index, pool.submit(call, things[index])))
            if len(under_way) == UNDER_WAY:
                oldest, future = under_way.popleft()
                found[oldest] = future.result()
        found.update((index, future.result()) for index, future in under_way)
    return [found[index] for index in range(len(things))]
