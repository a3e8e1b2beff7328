"""What it takes to tell, show and export a large output: copies of the demo's rows, some with long texts.

python benchmarks/looking.py [ROWS]
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ROWS_A_FILE = 10_000
# Characters of the captions, in turn: short, normal and long ones.
LENGTHS = (40, 300, 1200)
COMMANDS = (("status",), ("report",), ("export", "--to", "jsonl"), ("export", "--to", "coco"))


def command(*words: str) -> tuple[float, float, int]:
    """Run the command: seconds by the clock and of a core, and its peak memory in MiB."""
    program = (sys.executable, "-m", "moondream_beam.pipelines.cli", *words)
    started = time.perf_counter()
    process = subprocess.Popen(program, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(words)}: status {status}")
    return time.perf_counter() - started, used.ru_utime + used.ru_stime, used.ru_maxrss >> 10


def long_texts(captions: pa.ChunkedArray) -> pa.Array:
    """Captions that go on, of each length as many."""
    texts = [
        None if text is None else (text + " " + " ".join(f"{word}{row % 7}" for word in text.split()) * 40)[:length]
        for row, (text, length) in enumerate(zip(captions.to_pylist(), LENGTHS * len(captions), strict=False))
    ]
    return pa.array(texts, pa.string())


def write_copies(rows: pa.Table, folder: Path, count: int) -> None:
    """Files of so many rows in all, each copy about pictures of its own."""
    rows = rows.set_column(
        rows.schema.get_field_index("caption"), rows.schema.field("caption"), long_texts(rows["caption"])
    )
    numbers = np.arange(count) // len(rows)
    for start in range(0, count, ROWS_A_FILE):
        places = np.arange(start, min(start + ROWS_A_FILE, count)) % len(rows)
        copies = rows.take(places)
        mark = pa.array([f"-{number}" for number in numbers[start : start + ROWS_A_FILE]])
        for name in ("id", "key", "uri", "filename", "sha256"):
            told = pc.binary_join_element_wise(copies[name].cast(pa.string()), mark, "")
            copies = copies.set_column(copies.schema.get_field_index(name), copies.schema.field(name), told)
        pq.write_table(copies, folder / f"part-copies-{start:09}.parquet", compression="zstd")


def run(count: int) -> None:
    """Copy the demo's rows, and a line for each command."""
    with tempfile.TemporaryDirectory() as name:
        command("demo", "--output", name, "--no-report")
        out = Path(name, "out")
        (part,) = (out / "data").glob("*.parquet")
        write_copies(pq.read_table(part), out / "data", count)
        print(f"{count:,} rows, captions of {', '.join(map(str, LENGTHS))} characters\n")
        print("| command | seconds | of a core | peak memory, MiB |\n|---|---|---|---|")
        for first, *rest in COMMANDS:
            target = (f"{name}/exported-{rest[-1]}",) if rest else ()
            seconds, of_a_core, memory = command(first, str(out), *rest, *target)
            print(f"| `{' '.join((first, *rest))}` | {seconds:.1f} | {of_a_core:.1f} | {memory:,} |", flush=True)


if __name__ == "__main__":
    run(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
