"""What a shard, and a whole run, amounted to: sums over rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from .records import Annotation, Row

SUMMED_COLUMNS = ("input_tokens", "output_tokens", "timings")


class Summary(NamedTuple):
    """Rows, tokens and milliseconds, as sums."""

    annotations: int = 0
    failures: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    encode_ms: float = 0.0
    generate_ms: float = 0.0

    @property
    def rows(self) -> int:
        """Rows of both kinds."""
        return self.annotations + self.failures

    def plus(self, row: Row) -> Summary:
        """These sums and one more row."""
        if not isinstance(row, Annotation):
            return self._replace(failures=self.failures + 1)
        return Summary(
            annotations=self.annotations + 1,
            failures=self.failures,
            input_tokens=self.input_tokens + row.input_tokens,
            output_tokens=self.output_tokens + row.output_tokens,
            encode_ms=self.encode_ms + row.timings.encode_ms,
            generate_ms=self.generate_ms + row.timings.generate_ms,
        )

    @classmethod
    def of_table(cls, table: pa.Table) -> Summary:
        """The sums over rows of ``data/``, of which at least ``SUMMED_COLUMNS`` were read."""
        flat = table.flatten()

        def total(column: str) -> Any:
            return pc.sum(flat[column], min_count=0).as_py()

        return cls(
            annotations=len(table),
            input_tokens=total("input_tokens"),
            output_tokens=total("output_tokens"),
            encode_ms=total("timings.encode_ms"),
            generate_ms=total("timings.generate_ms"),
        )


def sum_summaries(summaries: Iterable[Summary]) -> Summary:
    """The sum of many, field by field."""
    return Summary(*(sum(column) for column in zip(Summary(), *summaries, strict=True)))
