"""Call a function from several threads in nearly the order of the arguments, as images are loaded."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
THREADS, IN_FLIGHT, MAX_DISTANCE = 8, 16, 3


def ask(call: Callable[[Any], T], things: Sequence[Any]) -> list[T]:
    """Return what ``call`` returns for each argument, in the order of the arguments."""
    draw, in_flight, found = random.Random(0), deque(), {}
    with ThreadPoolExecutor(THREADS) as pool:
        for index in sorted(range(len(things)), key=lambda index: index + draw.random() * MAX_DISTANCE):
            in_flight.append((index, pool.submit(call, things[index])))
            if len(in_flight) == IN_FLIGHT:
                oldest, future = in_flight.popleft()
                found[oldest] = future.result()
        found.update((index, future.result()) for index, future in in_flight)
    return [found[index] for index in range(len(things))]
