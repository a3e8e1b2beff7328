"""Read the published files of an output."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pyarrow.parquet as pq
from apache_beam.io.aws.s3io import S3IO
from apache_beam.io.filesystems import FileSystems

from ...models.billing import Billing
from ..core.records import Failure
from ..io.uris import scheme_of
from .files import glob_files


class Reader:
    """Opens files of an output to read them. Threads may share it.

    In S3 it has a client for each thread: Beam would make one for each file, which takes a fifth of a second.
    """

    def __init__(self) -> None:
        self._clients = threading.local()

    def open(self, path: str) -> Any:
        """The file, to be read; it can be closed, and is by ``with``."""
        if scheme_of(path) != "s3":
            return FileSystems.open(path, compression_type="uncompressed")
        if not hasattr(self._clients, "s3"):
            # With the options that Beam was given, as its own way of opening has it.
            self._clients.s3 = S3IO(options=getattr(FileSystems.get_filesystem(path), "_options"))  # noqa: B009
        return self._clients.s3.open(path)


def published(output: str, names: str) -> list[str]:
    """The files of ``data/`` and ``errors/`` whose names this glob matches."""
    return glob_files(*(FileSystems.join(output, kind, names) for kind in ("data", "errors")))


def read_failures(output: str, run: str) -> Iterator[Failure]:
    """The failures that a run has published."""
    for path in glob_files(FileSystems.join(output, "errors", f"part-{run}-*.parquet")):
        with FileSystems.open(path) as file:
            for batch in pq.ParquetFile(file).iter_batches():
                for values in batch.to_pylist():
                    hosted = values.pop("hosted")
                    failure = Failure(**values, hosted=Billing(**hosted) if hosted else None)
                    # The name of a run may be the beginning of another's.
                    if failure.run == run:
                        yield failure
