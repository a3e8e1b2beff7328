"""What a Python worker of Spark keeps between tasks: its model, its connections, and its GPU. Needs no Spark."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from pyspark import TaskContext
from support.data.echo import Echo

from moondream_beam import Moondream
from moondream_beam.pipelines.spark import worker
from moondream_beam.pipelines.spark.worker import (
    annotator_digest,
    frozen_afterwards,
    loaded_annotator,
    loaded_fetcher,
    use_assigned_gpu,
)
from moondream_beam.transforms.core.errors import RunStopped
from moondream_beam.transforms.images.fetch import Fetcher


class Cyclic(Echo):
    """Refers to itself, as models do whose modules know their parents. Only a garbage collection frees it."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name)
        self.own = [self]


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    """Start without frozen objects, and leave none."""
    gc.unfreeze()
    yield
    gc.unfreeze()


def model(device: str) -> Moondream:
    return Moondream("tiny", device=device)


def test_a_task_without_its_gpu_stops_the_run():
    with pytest.raises(RunStopped, match="GPU"):
        use_assigned_gpu(True)


def test_the_gpu_of_the_first_task_is_kept_for_the_model(monkeypatch):
    def assign(*addresses: str) -> None:
        resources = {"gpu": SimpleNamespace(addresses=list(addresses))}
        monkeypatch.setattr(TaskContext, "_taskContext", SimpleNamespace(resources=lambda: resources))
        use_assigned_gpu(True)

    monkeypatch.setattr(worker, "_LOADED", {})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assign("3")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
    loaded_annotator(model("cuda"), "a digest")
    assign("4")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"


def test_the_annotator_of_the_last_task_is_kept():
    one, equal, other = model("cpu"), model("cpu"), model("auto")
    assert loaded_annotator(one, annotator_digest(one)) is one
    assert loaded_annotator(equal, annotator_digest(equal)) is one
    assert loaded_annotator(other, annotator_digest(other)) is other
    assert loaded_annotator(equal, annotator_digest(equal)) is equal


def test_connections_are_kept_for_tasks_that_fetch_alike():
    one, equal, private = Fetcher(), Fetcher(), Fetcher(allow_private_addresses=True)
    assert loaded_fetcher(one) is loaded_fetcher(equal)
    assert loaded_fetcher(private) is private
    # Other options may mean other credentials.
    assert loaded_fetcher(equal, ("--s3_endpoint_url=http://localhost",)) is equal


def test_after_the_first_task_garbage_collections_skip_what_is_loaded():
    with frozen_afterwards():
        kept = [[] for _ in range(1000)]
    assert len(kept) == 1000 and len(gc.get_objects()) < 1000
    frozen = gc.get_freeze_count()
    with frozen_afterwards():
        later = [[] for _ in range(1000)]
    assert len(later) == 1000 and gc.get_freeze_count() <= frozen


def test_a_task_that_fails_freezes_too():
    with pytest.raises(RunStopped), frozen_afterwards():
        raise RunStopped("stopped")
    assert gc.get_freeze_count()


def test_a_model_is_freed_before_the_next_one_is_loaded():
    first = Cyclic("first")
    with frozen_afterwards():
        loaded_annotator(first, "first")
    gone = weakref.ref(first)
    del first
    second = Cyclic("second")
    assert gone() is not None
    loaded_annotator(second, "second")
    assert gone() is None
