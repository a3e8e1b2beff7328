"""What runs in the Python workers of Spark's executors: one shard a task, with a model that stays loaded."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from apache_beam.options.pipeline_options import PipelineOptions

from ...models.tasks import Annotator
from ...transforms.annotation.job import AnnotateShard
from ...transforms.core.errors import INTERRUPTED, RunStopped
from ...transforms.core.shuffle import unpack_all
from ...transforms.core.summary import Count, Summary
from ...transforms.images.fetch import Fetcher
from ...transforms.io.object_stores.file_systems import beam_file_systems
from ..local_runner.gpus import VISIBLE_DEVICES
from .cluster import GPU_CURE
from .stop import stop_on_request

GPU = "gpu"
# The annotator of this process, by its digest. The process gets the next task of the same job, and of later jobs of the
# application. Only one is kept, because two models may not fit into the memory of the device.
_LOADED: dict[str, Annotator] = {}
# The fetchers of this process, with their connections, by themselves and by the options of the clients.
_FETCHERS: dict[tuple[Fetcher, tuple[str, ...]], Fetcher] = {}


def annotator_digest(annotator: Annotator) -> str:
    """Return a text that is equal for annotators of equal pickles. A pickle holds no weights."""
    return hashlib.sha256(pickle.dumps(annotator, pickle.HIGHEST_PROTOCOL)).hexdigest()


def loaded_annotator(annotator: Annotator, digest: str) -> Annotator:
    """Return the annotator with this digest that the process has used last, or else the given one."""
    if digest not in _LOADED:
        if _LOADED:
            # The memory of the device must be free before the next model is loaded.
            _LOADED.clear()
            gc.unfreeze()
            gc.collect()
        _LOADED[digest] = annotator
    return _LOADED[digest]


def loaded_fetcher(fetch: Fetcher, options: tuple[str, ...] = ()) -> Fetcher:
    """Return the fetcher of this process that is equal to the given one, so that its connections are kept."""
    return _FETCHERS.setdefault((fetch, options), fetch)


@contextlib.contextmanager
def frozen_afterwards() -> Iterator[None]:
    """After the block, leave all objects of the process out of later garbage collections, unless some are already.

    PySpark collects garbage after each task. With PyTorch, Beam and a model loaded, that takes 0.3 CPU seconds, as much
    as 20 pictures of a small model.
    """
    try:
        yield
    finally:
        if not gc.get_freeze_count():
            gc.collect()
            gc.freeze()


def use_assigned_gpu(needs_gpu: bool) -> None:
    """Make the GPU that Spark has assigned to this task the only one of this process.

    The first assignment counts, because the model stays on that GPU. Two workers of an executor may get each other's
    GPU for a later task. Each then keeps its own, and each GPU still has one process.

    Raises:
        RunStopped: if ``needs_gpu`` and Spark has assigned none.
    """
    from pyspark import TaskContext

    context = TaskContext.get()
    assigned = context.resources().get(GPU) if context else None
    if assigned and assigned.addresses:
        if not _LOADED:
            # The numbers of Spark's discovery script are those of nvidia-smi. CUDA's own order may differ.
            os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
            os.environ[VISIBLE_DEVICES] = assigned.addresses[0]
    elif needs_gpu:
        raise RunStopped(f"stopped: Spark has assigned no GPU to a task. {GPU_CURE}")


@dataclass(frozen=True)
class ShardTask:
    """A function for ``mapPartitions``.

    Attributes:
        step: annotates one shard.
        digest: the digest of its annotator.
        needs_gpu: a task without a GPU from Spark must stop the run.
        options: Beam's command-line options, for the clients of buckets.
    """

    step: AnnotateShard
    digest: str
    needs_gpu: bool
    options: tuple[str, ...] = ()

    def __call__(self, shards: Iterable[tuple[int, bytes]]) -> Iterator[Summary]:
        """Annotate and publish each shard, a number and a pack of references. Yield the sums over its rows.

        After ``request_stop``, keep what is answered and yield nothing.
        """
        beam_file_systems().set_options(PipelineOptions(list(self.options)))
        use_assigned_gpu(self.needs_gpu)
        job = self.step.job
        self.step.job = job._replace(annotator=loaded_annotator(job.annotator, self.digest))
        self.step.fetch = loaded_fetcher(self.step.fetch, self.options)
        with frozen_afterwards(), stop_on_request(self.step.output, job.run):
            for number, packed in shards:
                if INTERRUPTED.is_set():
                    return
                yield from self.step.process((number, list(unpack_all([packed]))), Count())
