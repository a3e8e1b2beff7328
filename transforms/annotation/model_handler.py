"""Moondream for users of Beam's RunInference: bytes of images in, rows out, failures as values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

from apache_beam.ml.inference.base import ModelHandler

from ...models.tasks import DEFAULT_SAMPLING, Annotator, Sampling, Task
from ..core.records import ImageRef, Job, Location, Row
from .annotate import annotate, check_tasks

Rows = tuple[Row, ...]


class MoondreamModelHandler(ModelHandler[bytes, Rows, Annotator]):
    """For ``RunInference``: the content of an image file in, a tuple with a row for each task out.

    Wrap it in Beam's ``KeyedModelHandler`` to keep names beside the rows; a row itself names its picture by the sha256
    of its bytes. ``batch_size`` pictures go in at once, never fewer but at the end of a bundle: Beam would otherwise
    begin with batches of one.

    Raises:
        ValueError: no task, or one that the annotator can't be asked.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        annotator: Annotator,
        *,
        sampling: Sampling = DEFAULT_SAMPLING,
        batch_size: int = 32,
    ) -> None:
        super().__init__(min_batch_size=batch_size, max_batch_size=batch_size)
        check_tasks(tasks, annotator)
        self.tasks, self.annotator, self.sampling = tuple(tasks), annotator, sampling

    def load_model(self) -> Annotator:
        """The annotator, which loads when first asked."""
        return self.annotator

    def run_inference(
        self, batch: Sequence[bytes], model: Annotator, inference_args: Mapping[str, Any] | None = None
    ) -> Iterator[Rows]:
        """The rows of each picture, in the order of the batch and of the tasks."""
        uris = [f"sha256:{sha256(content).hexdigest()}" for content in batch]
        contents: dict[Location, bytes] = dict(zip(uris, batch, strict=True))
        refs = [ImageRef(uri, filename="") for uri in dict.fromkeys(uris)]
        job = Job(self.tasks, model, self.sampling)
        rows = {
            row.id: row for row in annotate(refs, job.tasks, model, sampling=job.sampling, fetch=contents.__getitem__)
        }
        for uri in uris:
            yield tuple(rows[job.id_of(ImageRef(uri, filename=""), task)] for task in job.tasks)

    def get_num_bytes(self, batch: Sequence[bytes]) -> int:
        """Bytes of the image files. Beam's own way is to pickle the batch and measure that."""
        return sum(map(len, batch))

    def get_metrics_namespace(self) -> str:
        """Where the counters of RunInference stand."""
        return "moondream_beam"
