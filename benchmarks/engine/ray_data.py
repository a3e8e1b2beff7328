"""Processor time of a picture in Ray Data with the same engine in an actor: the row beside those of ``pipeline.py``.

``PYTHON benchmarks/engine/ray_data.py FOLDER``, with the Python of an environment that has ``ray``, ``pandas``, and
this package. FOLDER has JPEG files. The actor decodes them as the package does, and the answers are written to Parquet.
The processor time is that of all processes that Ray started. A picture costs the difference between all pictures and
one.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import ray

from moondream_beam import Caption, Moondream
from moondream_beam.models.tasks import Request, Sampling
from moondream_beam.transforms.images.decode import decode_pixels, open_image, reduce_jpeg

BATCH_PICTURES = 64


class Answer:
    """The actor: an engine that answers batches of pictures."""

    def __init__(self) -> None:
        self.annotator = Moondream("tiny")

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the path and the caption of each picture."""
        requests = []
        for path, content in zip(batch["path"], batch["bytes"], strict=True):
            image = open_image(content)
            size = reduce_jpeg(image, self.annotator.accepts_reduced)
            requests.append(Request(path, decode_pixels(image), Caption(), Sampling(temperature=0), size=size))
        found = {outcome.id: outcome.result.text for outcome in self.annotator.answer(requests)}
        return {"path": batch["path"], "caption": [found[path] for path in batch["path"]]}


class Meter(threading.Thread):
    """Notes the processor seconds of this process and its descendants 20 times a second, because actors end early."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seconds: dict[tuple[int, float], float] = {}

    def run(self) -> None:
        """Note them until the program ends."""
        while True:
            self.note()
            time.sleep(0.05)

    def note(self) -> float:
        """Note them now, and return the sum over all processes, also those that have ended."""
        here = psutil.Process()
        for process in (here, *here.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                self.seconds[process.pid, process.create_time()] = sum(process.cpu_times()[:2])
        return sum(self.seconds.values())


def run(paths: list[str], meter: Meter) -> tuple[float, float]:
    """Answer about pictures. Return the processor seconds and the seconds by the clock that it took."""
    before, started = meter.note(), time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        rows = ray.data.read_binary_files(paths, include_paths=True)
        rows.map_batches(Answer, batch_size=BATCH_PICTURES, concurrency=1).write_parquet(out)
    return meter.note() - before, time.perf_counter() - started


def main() -> None:
    """Run Ray Data for one picture and for all, and print a row of Markdown."""
    paths = sorted(map(str, Path(sys.argv[1]).glob("*.jpg")))
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
    meter = Meter()
    meter.start()
    run(paths[:1], meter)
    one, all_ = run(paths[:1], meter), run(paths, meter)
    cpu, clock = (1000 * (many - few) / (len(paths) - 1) for many, few in zip(all_, one, strict=True))
    print("| way | CPU ms a picture | clock ms a picture | one picture, CPU s |\n|---|---|---|---|")
    print(f"| Ray Data {ray.__version__} | {cpu:.2f} | {clock:.2f} | {one[0]:.2f} |")


if __name__ == "__main__":
    main()
