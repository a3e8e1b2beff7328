"""A Beam ``ModelHandler``, so that ``RunInference`` can annotate images that a pipeline has in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

from apache_beam.ml.inference.base import ModelHandler

from ...models.tasks import DEFAULT_SAMPLING, Annotator, Sampling, Task
from ..core.records import IGNORE_PROFILES, ColourProfiles, ImageRef, Job, Location, Row, check_colour_profiles
from .annotate import annotate_for, check_tasks

Rows = tuple[Row, ...]


class MoondreamModelHandler(ModelHandler[bytes, Rows, Annotator]):
    """Handler for ``RunInference``: takes the bytes of an image file, returns a tuple of rows, one for each task.

    The rows are Annotations and Failures. Their ``uri`` is ``sha256:`` and the hex digest of the bytes. To keep a key
    beside the rows, wrap the handler in Beam's ``KeyedModelHandler``.

    Args:
        batch_size: pictures in a batch. Only the last batch of a bundle has fewer. Beam's default begins with one.
        colour_profiles: "srgb" converts pixels from the ICC profile of a picture to sRGB; "ignore" takes them as sRGB.

    Raises:
        ValueError: if ``check_tasks`` rejects the tasks, or ``colour_profiles`` is neither "ignore" nor "srgb".
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        annotator: Annotator,
        *,
        sampling: Sampling = DEFAULT_SAMPLING,
        batch_size: int = 32,
        colour_profiles: ColourProfiles = IGNORE_PROFILES,
    ) -> None:
        super().__init__(min_batch_size=batch_size, max_batch_size=batch_size)
        check_tasks(tasks, annotator)
        self.tasks, self.annotator, self.sampling = tuple(tasks), annotator, sampling
        self.colour_profiles = check_colour_profiles(colour_profiles)

    def load_model(self) -> Annotator:
        """Return the annotator. Its model loads with the first batch."""
        return self.annotator

    def run_inference(
        self, batch: Sequence[bytes], model: Annotator, inference_args: Mapping[str, Any] | None = None
    ) -> Iterator[Rows]:
        """Yield a tuple of rows for each picture, in the order of the batch. A tuple has the order of the tasks."""
        uris = [f"sha256:{sha256(content).hexdigest()}" for content in batch]
        contents: dict[Location, bytes] = dict(zip(uris, batch, strict=True))
        refs = [ImageRef(uri, filename="") for uri in dict.fromkeys(uris)]
        job = Job(self.tasks, model, self.sampling, colour_profiles=self.colour_profiles)
        rows = {row.id: row for row in annotate_for(job, refs, contents.__getitem__)}
        for uri in uris:
            yield tuple(rows[job.id_of(ImageRef(uri, filename=""), task)] for task in job.tasks)

    def get_num_bytes(self, batch: Sequence[bytes]) -> int:
        """Return the total length of the image files in bytes. Beam's default would pickle the batch."""
        return sum(map(len, batch))

    def get_metrics_namespace(self) -> str:
        """Return the namespace of the counters that RunInference adds."""
        return "moondream_beam"
