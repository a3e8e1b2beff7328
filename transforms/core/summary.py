"""Counts of the work to do, and sums over the rows of a shard or a run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from .records import Annotation, Row

SUMMED_COLUMNS = ("input_tokens", "output_tokens", "timings", "hosted")
BILLED_COLUMNS = ("hosted",)


class Count(NamedTuple):
    """How much work there is: pictures with pending requests, and requests (one task on one picture) by state.

    ``pending`` requests are to be made, ``done`` ones are in the output already. ``retried`` of the pending ones failed
    in an earlier run.
    """

    pictures: int = 0
    pending: int = 0
    done: int = 0
    retried: int = 0


class Summary(NamedTuple):
    """Sums over rows: rows by kind, tokens, milliseconds, and what hosted APIs billed: units and US dollars."""

    annotations: int = 0
    failures: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    encode_ms: float = 0.0
    generate_ms: float = 0.0
    billed_units: float = 0.0
    usd: float = 0.0

    @property
    def rows(self) -> int:
        """The number of rows, annotations and failures."""
        return self.annotations + self.failures

    def plus(self, row: Row) -> Summary:
        """Return these sums with one more row added."""
        billed_units = self.billed_units + (row.hosted.units if row.hosted else 0.0)
        usd = self.usd + ((row.hosted.usd or 0.0) if row.hosted else 0.0)
        if not isinstance(row, Annotation):
            return self._replace(failures=self.failures + 1, billed_units=billed_units, usd=usd)
        return Summary(
            annotations=self.annotations + 1,
            failures=self.failures,
            input_tokens=self.input_tokens + row.input_tokens,
            output_tokens=self.output_tokens + row.output_tokens,
            encode_ms=self.encode_ms + row.timings.encode_ms,
            generate_ms=self.generate_ms + row.timings.generate_ms,
            billed_units=billed_units,
            usd=usd,
        )

    @classmethod
    def from_annotations(cls, table: pa.Table) -> Summary:
        """Return the sums over a table of rows of ``data/`` with at least ``SUMMED_COLUMNS``."""
        flat = table.flatten()

        def total(column: str) -> Any:
            return pc.sum(flat[column], min_count=0).as_py()

        return cls(
            annotations=len(table),
            input_tokens=total("input_tokens"),
            output_tokens=total("output_tokens"),
            encode_ms=total("timings.encode_ms"),
            generate_ms=total("timings.generate_ms"),
            **_billed(table),
        )

    @classmethod
    def from_failures(cls, table: pa.Table) -> Summary:
        """Return the sums over a table of rows of ``errors/`` with at least ``BILLED_COLUMNS``."""
        return cls(failures=len(table), **_billed(table))


def _billed(table: pa.Table) -> dict[str, Any]:
    hosted = table["hosted"].combine_chunks()
    columns = {"billed_units": "units", "usd": "usd"}
    return {name: pc.sum(pc.struct_field(hosted, column), min_count=0).as_py() for name, column in columns.items()}


def sum_summaries(summaries: Iterable[Summary]) -> Summary:
    """Return the sum of many summaries, field by field."""
    return Summary(*(sum(column) for column in zip(Summary(), *summaries, strict=True)))


def sum_counts(counts: Iterable[Count]) -> Count:
    """Return the sum of many counts, field by field."""
    return Count(*(sum(column) for column in zip(Count(), *counts, strict=True)))
