"""What tests of the river share."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from rows import annotation, failure

from moondream_beam.transforms.records import Annotation, Failure


@pytest.fixture
def memory_peak() -> Iterator[Callable[[], int]]:
    """Tells how many bytes more Python held at once, at most, than when it was last asked, or the test began."""
    tracemalloc.start()
    held = 0

    def grown() -> int:
        nonlocal held
        before, (held, peak) = held, tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        return peak - before

    yield grown
    tracemalloc.stop()


@pytest.fixture
def rows() -> Callable[..., list[Annotation | Failure]]:
    """Makes so many annotations, a0 and on, or failures, f0 and on."""

    def make(count: int, failed: bool = False) -> list[Annotation | Failure]:
        return [failure(id=f"f{index}") if failed else annotation(id=f"a{index}") for index in range(count)]

    return make
