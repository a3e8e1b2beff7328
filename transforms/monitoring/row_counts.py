"""Count the rows that a run has published, from the footers of its files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import apache_beam as beam
from apache_beam.pvalue import PCollection

from ...models.tasks import Fault
from ..core.summary import Summary
from ..io.object_stores.file_systems import FileSystems
from ..io.retry import FetchError, RetryPolicy
from ..output.layout import DATA, run_of_part, run_parts
from ..output.locks.lock import keep_alive
from ..output.reader import PartFooter, published, read_footer, read_footers

# Files that one call of a worker counts.
MAX_FILES = 256

T = TypeVar("T")


class RowCounts(NamedTuple):
    """The rows in ``data/`` and in ``errors/``, and the number of files.

    ``count_error`` is empty, or the reason why the rows could not be counted. The numbers are meaningless then.
    """

    data: int = 0
    errors: int = 0
    files: int = 0
    count_error: str = ""


class CountRows(beam.PTransform[PCollection[Summary], PCollection[RowCounts]]):
    """Replace one ``Summary``, the sums of a run, by one ``RowCounts``, the rows in the run's published files.

    The sums exist only after all shards are published. Workers read the footers of the files in threads. An output
    that cannot be read is not an error, because the rows are safe: ``count_error`` has the reason.
    """

    def __init__(self, output: str, run: str, retry_policy: RetryPolicy | None = None) -> None:
        super().__init__()
        self.output, self.run, self.retry_policy = output, run, retry_policy or RetryPolicy()

    def expand(self, summary: PCollection[Summary]) -> PCollection[RowCounts]:
        """List the files in one worker, count their rows in all workers, and add up the counts."""
        return (
            summary
            | "List files" >> beam.FlatMap(_list_batches, self.output, self.run, self.retry_policy)
            | "Spread files" >> beam.Reshuffle()
            | "Count rows" >> beam.Map(_count_batch, self.output, self.run, self.retry_policy)
            | "Sum up" >> beam.CombineGlobally(sum_row_counts)
        )


def list_run_files(output: str, run: str) -> list[str]:
    """Return the paths of a run's published files, and of copies of them such as ``part-RUN-00000 (copy).parquet``."""
    paths = published(output, run_parts(run))
    # The glob also matches runs whose names begin with the name of this one.
    return [path for path in paths if run_of_part(FileSystems.split(path)[1]) in (None, run)]


def count_rows(paths: Sequence[str], retry_policy: RetryPolicy) -> RowCounts:
    """Count the rows of published files. If a file cannot be read, retry, then return only a ``count_error``."""

    def read(path: str) -> PartFooter:
        return _retry(lambda: read_footer(path), path, retry_policy)

    try:
        footers = read_footers(paths, read)
    except FetchError as error:
        return RowCounts(count_error=str(error))
    data = sum(footer.rows for footer in footers if footer.kind == DATA)
    return RowCounts(data, sum(footer.rows for footer in footers) - data, len(footers))


def count_run(output: str, run: str, retry_policy: RetryPolicy) -> RowCounts:
    """Count the rows in the published files of a run. If that fails, return only a ``count_error``."""
    batches = _list_batches(Summary(), output, run, retry_policy)
    return sum_row_counts(_count_batch(batch, output, run, retry_policy) for batch in batches)


def sum_row_counts(counts: Iterable[RowCounts]) -> RowCounts:
    """Add up counts. ``count_error`` is the first one that is not empty."""
    data = errors = files = 0
    count_error = ""
    for each in counts:
        data, errors, files = data + each.data, errors + each.errors, files + each.files
        count_error = count_error or each.count_error
    return RowCounts(data, errors, files, count_error)


def _list_batches(_: Summary, output: str, run: str, retry_policy: RetryPolicy) -> Iterator[list[str] | RowCounts]:
    """Yield the paths of a run's files in batches of ``MAX_FILES``; if they cannot be listed, the reason instead."""
    with keep_alive(output, run):
        try:
            paths = _retry(lambda: list_run_files(output, run), output, retry_policy)
        except FetchError as error:
            yield RowCounts(count_error=str(error))
            return
    for start in range(0, len(paths), MAX_FILES):
        yield paths[start : start + MAX_FILES]


def _count_batch(batch: list[str] | RowCounts, output: str, run: str, retry_policy: RetryPolicy) -> RowCounts:
    """Count the rows of a batch of files. A batch that is a ``RowCounts`` already is returned as it is."""
    if isinstance(batch, RowCounts):
        return batch
    with keep_alive(output, run):
        return count_rows(batch, retry_policy)


def _retry(action: Callable[[], T], path: str, retry_policy: RetryPolicy) -> T:
    """Return what ``action`` returns, and call it again after any error, because each client raises its own errors.

    Raises:
        FetchError: if the last attempt fails. The message is one line, with the path and the error.
    """

    def attempt(_: float) -> T:
        try:
            return action()
        except Exception as error:
            message = " ".join(f"{path}: {type(error).__name__}: {error}".split())
            raise FetchError(Fault(type(error).__name__, message, retryable=True)) from error

    return retry_policy.call(attempt)
