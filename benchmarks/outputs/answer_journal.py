"""Share of a core that the journal of answers takes: ``python benchmarks/outputs/answer_journal.py``.

Rows are added to the writer of a shard as fast as it takes them, once without a journal and once with one. The journal
writes a file each time the rows of one interval are there. The share is the difference in processor seconds, divided by
the seconds in which so many rows arrive. Files are on a local disk.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from datetime import datetime, timezone

from moondream_beam.models.tasks import Box
from moondream_beam.transforms.core.records import Annotation, RowTimings
from moondream_beam.transforms.output.answer_journal import AnswerJournal
from moondream_beam.transforms.output.writer import ShardWriter

TEXT = "A red bicycle leans against a brick wall beside a green door, and a grey cat sits on the step. " * 3
BOXES = tuple(Box(0.1 * index, 0.2, 0.1 * index + 0.05, 0.4) for index in range(5))
ROUNDS = 5


def answer(number: int) -> Annotation:
    """Return a caption of about 300 characters, or five boxes for every second number."""
    caption = number % 2 == 0
    digest = f"{number:064x}"
    return Annotation(
        id=digest,
        key=digest[-20:],
        filename=f"{number}.jpg",
        uri=f"s3://bucket/photos/{number}.jpg",
        sha256=digest,
        width=4000,
        height=3000,
        task="caption" if caption else "detect",
        prompt="normal" if caption else "bicycle",
        caption=f"{number} {TEXT}" if caption else None,
        objects=None if caption else BOXES,
        points=None,
        finish_reason="stop",
        input_tokens=730,
        output_tokens=60,
        timings=RowTimings(5.0, 20.0, 1.0, 200.0, 400.0, 600.0),
        backend="engine",
        model="moondream2",
        revision="2025-06-21",
        run="run",
        created_at=datetime.now(timezone.utc),
    )


def processor_seconds(rows: list[Annotation], interval_rows: int | None) -> float:
    """Return the processor seconds to add the rows to a writer, with a checkpoint after every ``interval_rows`` rows.

    None: without a journal.
    """
    with tempfile.TemporaryDirectory() as folder:
        writer = ShardWriter(folder, "run", 0)
        journal = AnswerJournal(writer, folder, "run", 0, 1.0)
        started = time.process_time()
        for number, row in enumerate(rows, 1):
            writer.add(row)
            if interval_rows and number % interval_rows == 0:
                journal.flush()
        seconds = time.process_time() - started
        writer.discard()
    return seconds


def main() -> None:
    """Print the shares, the median and the highest of ``ROUNDS`` rounds."""
    print("| answers a second | checkpoint every | share of a core, median | highest |\n|---|---|---|---|")
    for rate, interval_s, checkpoints in ((100, 1, 60), (1000, 1, 20), (100, 60, 2), (1000, 60, 1)):
        rows = [answer(number) for number in range(rate * interval_s * checkpoints)]
        arriving_s = interval_s * checkpoints
        shares = [
            (processor_seconds(rows, rate * interval_s) - processor_seconds(rows, None)) / arriving_s
            for _ in range(ROUNDS)
        ]
        print(f"| {rate} | {interval_s} s | {statistics.median(shares):.2%} | {max(shares):.2%} |")


if __name__ == "__main__":
    main()
