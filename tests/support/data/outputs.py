"""Outputs with hand-made rows, published as a run publishes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image
from support.data.rows import NOW, annotation, failure

from moondream_beam import Box, Spot
from moondream_beam.models.hosted.payment.billing import Billing
from moondream_beam.transforms.core.records import Annotation, Failure, RowTimings
from moondream_beam.transforms.output.answer_journal import kept_by_shard
from moondream_beam.transforms.output.run_record import write_record
from moondream_beam.transforms.output.writer import ShardWriter

HOSTILE = (
    "<script>document.title = 'taken'</script>",
    "<img src=x onerror=\"document.title='taken'\"> & &lt; '\" `",
    "</style></script><svg onload=alert(1)><h1>big</h1>",
    "{{ 7 * 7 }} {% raw %} ${7*7}",
    "كلب أسود يجري على الشاطئ \u202e txt.gpj",
    "👩‍👩‍👧‍👦🏳️‍🌈 e\u0301\u0301\u0301 \u0000 \ufeff \u2028 end",
    "a" * 5000,
)
LOOP = "a dog and a cat and " * 12


def publish(
    output: Path | str, rows: Sequence[Annotation | Failure], columns: Sequence[pa.Field] = (), shard: int = 0
) -> None:
    """Publish rows as one shard of the run in the first row."""
    writer = ShardWriter(str(output), rows[0].run, shard, columns)
    for row in rows:
        writer.add(row)
    assert writer.publish()


def record(output: Path, run: str, *, balanced: bool = True, **counts: int) -> dict[str, Any]:
    """Write the record of a run, and return it."""
    plain = {"pictures": 0, "pending": 0, "done": 0, "retried": 0, "annotations": 0, "failures": 0}
    written = {
        "run": run,
        "model": "echo",
        "revision": "1",
        "options": {"inputs": ["<b>photos</b>"], "model": "echo"},
        "sampling": {"temperature": 0.5},
        "versions": {"moondream-beam": "0.1.0"},
        "counts": {**plain, **counts},
        "balanced": balanced,
        "started_at": NOW.isoformat(),
        "wall_seconds": 4.0,
    }
    write_record(str(output), run, written)
    return written


def troubled(folder: Path) -> Path:
    """An output of 40 images with every quality flag, hostile captions, boxes, points, failures of two kinds, a bill,
    and images whose files are missing."""
    (folder / "pictures").mkdir(parents=True)
    texts = [f"A {index} dogs run over a field." for index in range(12)]
    texts += [*HOSTILE, "", "   ", LOOP, "I'm sorry, but I can't assist with that.", "The image shows a red boat."]
    texts += ["One and the same text on many pictures."] * 6
    rows: list[Annotation | Failure] = []
    for index in range(40):
        path = folder / "pictures" / f"p{index}.png"
        size = (40 + 8 * index, 60)
        if index % 9:
            Image.new("RGB", size, (6 * index, 80, 255 - 6 * index)).save(path)
        plain = annotation(
            key=f"k{index:02}",
            filename=HOSTILE[index % len(HOSTILE)][:120] if index % 4 == 0 else path.name,
            uri=str(path),
            width=size[0],
            height=size[1],
            run="20300102T030405-aaaa",
            created_at=NOW + timedelta(seconds=index // 3),
            timings=RowTimings(1.0, 2.0, 3.0, 20.0 + index, 40.0, 70.0 + index * index),
        )
        text = texts[index % len(texts)]
        cut = "length" if index == 5 else "stop"
        hosted = Billing("j", 1.5, 0.25 if index % 2 else None, index == 3, None) if index < 8 else None
        rows.append(
            plain._replace(
                id=f"c{index:02}", caption=text, output_tokens=len(text) // 4, finish_reason=cut, hosted=hosted
            )
        )
        boxes = (Box(0.1, 0.1, 0.5, 0.6), Box(0.4, 0.2, 1.0, 1.0)) if index % 3 else ()
        rows.append(plain._replace(id=f"d{index:02}", task="detect", prompt="dog", caption=None, objects=boxes))
        if index % 5 == 0:
            spots = (Spot(0.25, 0.5),)
            rows.append(plain._replace(id=f"p{index:02}", task="point", prompt="ear", caption=None, points=spots))
    late = NOW + timedelta(seconds=9)
    for index in range(5):
        bad = failure(id=f"f{index}", key=f"b{index}", filename=f"b{index}.jpg", run=rows[0].run, created_at=late)
        hosted = Billing("j", 1.0, 0.5, False, None)
        broken = {"stage": "decode", "error": "UndecodableError", "message": HOSTILE[index], "retryable": False}
        rows.append(bad._replace(**broken) if index % 2 else bad._replace(hosted=hosted))
    output = folder / "out"
    publish(output, rows[:50])
    publish(output, rows[50:], shard=1)
    failures = sum(isinstance(row, Failure) for row in rows)
    record(output, rows[0].run, pictures=45, pending=len(rows), annotations=len(rows) - failures, failures=failures)
    return output


def kept_by_run(output: str) -> dict[str, int]:
    """Return the number of rows in the journals of an output, by run."""
    rows: Counter[str] = Counter()
    for (run, _), number in kept_by_shard(output).items():
        rows[run] += number
    return dict(rows)
