"""What is really in the files that a run published: their rows, counted by what the end of each file says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import apache_beam as beam
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems
from apache_beam.pvalue import PCollection

from ...models.tasks import Fault
from ..core.summary import Summary
from ..io.retry import FetchError, RetryPolicy
from ..output.files import kind_of
from ..output.layout import run_of_file
from ..output.lock import keep_alive
from ..output.reader import Reader, published

THREADS = 16
# What one worker counts in one go.
FILES_AT_ONCE = 256

T = TypeVar("T")


class RowCounts(NamedTuple):
    """Rows in ``data/`` and in ``errors/``, and in how many files; ``uncounted`` is why that could not be told."""

    data: int = 0
    errors: int = 0
    files: int = 0
    uncounted: str = ""


class CountRows(beam.PTransform[PCollection[Summary], PCollection[RowCounts]]):
    """What the sums of a run, one element, become when somebody looks: one ``Published``.

    By the time that there are sums all shards are published. Of each file only the end is read, on all workers, in
    threads. Where the output can't be read this is told, and no error: rows are safe, their count is not known.
    """

    def __init__(self, output: str, run: str, retry_policy: RetryPolicy | None = None) -> None:
        super().__init__()
        self.output, self.run, self.retry_policy = output, run, retry_policy or RetryPolicy()

    def expand(self, summary: PCollection[Summary]) -> PCollection[RowCounts]:
        """List, spread, count, sum up."""
        return (
            summary
            | "List files" >> beam.FlatMap(_listed, self.output, self.run, self.retry_policy)
            | "Spread files" >> beam.Reshuffle()
            | "Count rows" >> beam.Map(_counted, self.output, self.run, self.retry_policy)
            | "Sum up" >> beam.CombineGlobally(sum_published)
        )


def files_of(output: str, run: str) -> list[str]:
    """The published files of one run, and whatever else begins with their names: copies, for instance."""
    start = f"part-{run}-"
    found = published(output, f"{start}*.parquet")
    # A run's name may be the beginning of another's.
    return [path for path in found if run_of_file(FileSystems.split(path)[1]) in (None, run)]


def count_rows(paths: Sequence[str], retry_policy: RetryPolicy) -> RowCounts:
    """The rows in these files; ``uncounted`` if one of them can't be read, after some retry_policy."""
    pool, reader = ThreadPoolExecutor(THREADS, thread_name_prefix="count"), Reader()
    try:
        rows = list(pool.map(lambda path: _patiently(lambda: _rows(path, reader), path, retry_policy), paths))
    except FetchError as error:
        return RowCounts(uncounted=str(error))
    finally:
        pool.shutdown(cancel_futures=True)
    data = sum(count for path, count in zip(paths, rows, strict=True) if kind_of(path) == "data")
    return RowCounts(data, sum(rows) - data, len(paths))


def sum_published(parts: Iterable[RowCounts]) -> RowCounts:
    """The sums; uncounted where a part is."""
    data = errors = files = 0
    uncounted = ""
    for part in parts:
        data, errors, files = data + part.data, errors + part.errors, files + part.files
        uncounted = uncounted or part.uncounted
    return RowCounts(data, errors, files, uncounted)


def _listed(_: Summary, output: str, run: str, retry_policy: RetryPolicy) -> Iterator[list[str] | RowCounts]:
    with keep_alive(output, run):
        try:
            paths = _patiently(lambda: files_of(output, run), output, retry_policy)
        except FetchError as error:
            yield RowCounts(uncounted=str(error))
            return
    for start in range(0, len(paths), FILES_AT_ONCE):
        yield paths[start : start + FILES_AT_ONCE]


def _counted(found: list[str] | RowCounts, output: str, run: str, retry_policy: RetryPolicy) -> RowCounts:
    if isinstance(found, RowCounts):
        return found
    with keep_alive(output, run):
        return count_rows(found, retry_policy)


def _rows(path: str, reader: Reader) -> int:
    with reader.open(path) as file:
        return int(pq.ParquetFile(file).metadata.num_rows)


def _patiently(action: Callable[[], T], what: str, retry_policy: RetryPolicy) -> T:
    """What ``action`` returns. Any error may pass: the clients of stores have each their own for that."""

    def turn(_: float) -> T:
        try:
            return action()
        except Exception as error:
            told = " ".join(f"{what}: {type(error).__name__}: {error}".split())
            raise FetchError(Fault(type(error).__name__, told, retryable=True)) from error

    return retry_policy.call(turn)
