"""Processor time and memory of a Python worker of Spark that does ``annotate(df, ...)``: few rows, then many.

``python benchmarks/servers/spark_rows.py --rows 100000``. The rows are paths of files that do not exist, and bytes of
small pictures with a short answer each. One Python worker does all. A row costs the difference between many rows and
few. Its memory is flat if the peak after many rows is that after few. Java is left out. Needs Java 17.

Then ``limit(5)`` is put on the result for 1,000 pictures, with short answers and with long ones. The pictures that were
asked are counted.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import psutil
from PIL import Image

from moondream_beam import Caption
from moondream_beam.models.tasks import Answer, Outcome, Request, Size, Task
from moondream_beam.pipelines.spark import annotate

FEW = 1000


class Constant:
    """Gives each picture the same caption of ``length`` characters, and a byte of the file ``log`` for each."""

    name, revision = "constant", "1"
    tasks: ClassVar[frozenset[type[Task]]] = frozenset({Caption})

    def __init__(self, length: int = 10, log: str = os.devnull) -> None:
        self.length, self.log = length, log

    def accepts_reduced(self, size: Size, reduced: Size) -> bool:
        """Return False: pictures keep their size."""
        return False

    def answer(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        """Yield an answer for each request."""
        with open(self.log, "ab", buffering=0) as log:
            for request in requests:
                log.write(b".")
                yield Outcome(request.id, Answer("stop", "x" * self.length), "constant")


def main() -> None:
    """Measure both kinds of rows, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    args = parser.parse_args()
    print(f"| rows | CPU us a row | peak after {FEW:,} rows, MiB | peak after {args.rows:,} rows, MiB |")
    print("|---|---|---|---|")
    for name, rows in {"paths of no file": missing_files, "bytes of pictures": pictures}.items():
        # A session of its own, and so a new Python worker.
        session = session_of_one_task()
        run(rows(session, FEW))
        worker = worker_of_this_process()
        few, peak = cpu_s(worker), peak_mib(worker)
        run(rows(session, FEW))
        again = cpu_s(worker)
        run(rows(session, args.rows))
        whole = cpu_s(worker) - again - (again - few)
        print(f"| {name} | {1e6 * whole / (args.rows - FEW):.0f} | {peak} | {peak_mib(worker)} |")
        session.stop()
    session = session_of_one_task()
    for length in (10, 100_000):
        num_asked = asked_for_five(session, length)
        print(f"limit(5), answers of {length:,} characters: {num_asked} of {FEW:,} pictures were asked")


def session_of_one_task() -> Any:
    """Return a session of Spark in which one Python worker does all tasks."""
    from pyspark.sql import SparkSession

    os.environ.update(SPARK_LOCAL_IP="127.0.0.1", PYSPARK_PYTHON=sys.executable)
    builder = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    session = builder.config("spark.sql.execution.arrow.maxRecordsPerBatch", 256).getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    return session


def missing_files(session: Any, count: int) -> Any:
    """Return rows with paths of files that do not exist."""
    from pyspark.sql.functions import format_string

    return session.range(count).select(format_string("/no/such/%d.jpg", "id").alias("path"))


def pictures(session: Any, count: int) -> Any:
    """Return rows with bytes of small pictures, all equal, and paths."""
    from pyspark.sql.functions import lit

    file = io.BytesIO()
    Image.new("RGB", (64, 48), "teal").save(file, "JPEG")
    return missing_files(session, count).select("path", lit(file.getvalue()).alias("content"))


def asked_for_five(session: Any, length: int) -> int:
    """Return how many pictures are asked if a reader wants five rows of the result."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(FEW):
            # All different, because equal pictures share an answer.
            Image.new("RGB", (8 + number % 50, 8 + number // 50)).save(Path(folder, f"{number}.png"))
        paths = session.createDataFrame([(str(path),) for path in Path(folder).glob("*.png")], "path string").coalesce(
            1
        )
        log = Path(folder, "log")
        annotate(paths, [Caption()], Constant(length, str(log)), path_column="path").limit(5).collect()
        return log.stat().st_size


def run(df: Any) -> None:
    """Annotate all rows of a DataFrame, and drop the result."""
    content: Any = "content" if "content" in df.columns else None
    rows = annotate(df, [Caption()], Constant(), path_column="path", content_column=content)
    rows.write.format("noop").mode("overwrite").save()


def worker_of_this_process() -> psutil.Process:
    """Return the Python worker, whose parent is PySpark's daemon."""
    alive = (each for each in psutil.Process().children(recursive=True) if each.status() != psutil.STATUS_ZOMBIE)
    below = [process for process in alive if "pyspark.daemon" in process.cmdline()]
    ids = {process.pid for process in below}
    (worker,) = (process for process in below if process.ppid() in ids)
    return worker


def cpu_s(process: psutil.Process) -> float:
    """Return the processor seconds of a process, once it has been idle for a moment."""
    before = -1.0
    while (now := sum(process.cpu_times()[:2])) != before:
        before = now
        time.sleep(1)
    return float(now)


def peak_mib(process: psutil.Process) -> int:
    """Return the peak of the resident memory of a process in MiB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) >> 10


if __name__ == "__main__":
    main()
