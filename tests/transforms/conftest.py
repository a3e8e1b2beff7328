"""What tests of the river share."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from rows import annotation, failure

from moondream_beam.transforms.records import Annotation, Failure


@pytest.fixture
def memory_peak() -> Iterator[Callable[[], int]]:
    """Tells the most bytes that Python held at once since the test began."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


@pytest.fixture
def rows() -> Callable[..., list[Annotation | Failure]]:
    """Makes so many annotations, a0 and on, or failures, f0 and on."""

    def make(count: int, failed: bool = False) -> list[Annotation | Failure]:
        return [failure(id=f"f{index}") if failed else annotation(id=f"a{index}") for index in range(count)]

    return make
