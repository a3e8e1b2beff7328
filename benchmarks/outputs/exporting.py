"""Rows a second of exports without pictures: python benchmarks/outputs/exporting.py [ROWS]."""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from datetime import datetime, timezone
from functools import partial
from hashlib import sha256
from pathlib import Path

from moondream_beam.models.tasks import Box, Spot
from moondream_beam.transforms.core.records import Annotation, RowTimings
from moondream_beam.transforms.dataset.changed import leave_out_changed
from moondream_beam.transforms.dataset.export.formats import FORMATS, LAYOUTS
from moondream_beam.transforms.dataset.export.layouts.placing import LayoutOptions
from moondream_beam.transforms.dataset.export.wide import Selection
from moondream_beam.transforms.dataset.reader import Dataset
from moondream_beam.transforms.images.fetch import Fetcher
from moondream_beam.transforms.output.writer import ShardWriter

NOW = datetime(2026, 11, 29, tzinfo=timezone.utc)
TASKS = (("caption", "short"), ("caption", "long"), ("query", "What is it?"), ("detect", "person"), ("point", "hand"))
TEXT = "a dog and two cats sit on the old red sofa beside an open window while the sun sets"
# These hold the pictures themselves.
WITH_PICTURES = ("imagefolder", "webdataset", "yolo")


def publish(output: str, num_rows: int) -> None:
    """Write an output with these rows, five for each picture."""
    draw, writer = random.Random(1), ShardWriter(output, "one", 0)
    timings = RowTimings(1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    for picture in range(num_rows // len(TASKS)):
        uri = f"/photos/{picture // 1000}/{picture}.jpg"
        digest = sha256(uri.encode()).hexdigest()
        for task, prompt in TASKS:
            text = " ".join(draw.choices(TEXT.split(), k=60 if prompt == "long" else 12))
            boxes = tuple(Box(0.1, 0.2, 0.3 + draw.random() / 2, 0.9) for _ in range(3)) if task == "detect" else None
            points = (Spot(draw.random(), 0.5),) if task == "point" else None
            row = Annotation(
                sha256(f"{uri}{task}{prompt}".encode()).hexdigest(), digest[:20], uri[8:], uri, digest, 640, 480, task,
                prompt, text if task in ("caption", "query") else None, boxes, points, "stop", 700, 40, timings,
                "local", "model", "1", "one", NOW,
            )  # fmt: skip
            writer.add(row)
    writer.publish()


def run(num_rows: int) -> None:
    """Export the rows to each format, and print the rate by the clock and the CPU time of this process."""
    with tempfile.TemporaryDirectory() as folder:
        publish(f"{folder}/out", num_rows)
        for name in sorted(set(FORMATS) - set(WITH_PICTURES)):
            options = {"options": LayoutOptions(along="no")} if name in LAYOUTS else {}
            begun, cpu = time.perf_counter(), time.process_time()
            with Dataset(f"{folder}/out") as dataset:
                selection = Selection(dataset)
                leave_out_changed(dataset, selection.latest, None)
                partial(FORMATS[name], **options)(selection, f"{folder}/{name}", Fetcher())
            seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
            size = sum(os.path.getsize(path) for path in Path(folder, name).rglob("*") if path.is_file())
            size = size or os.path.getsize(Path(folder, name))
            rates = f"{num_rows / seconds:9,.0f} rows/s by the clock {num_rows / cpu:9,.0f} rows per CPU second"
            print(f"{name:12} {rates} {size / 1e6:7.1f} MB", flush=True)


if __name__ == "__main__":
    run(int(sys.argv[1]) if sys.argv[1:] else 100_000)
