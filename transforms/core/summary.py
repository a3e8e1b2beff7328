"""Counts of the work to do, and sums over the rows of a shard or a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from ..io.uris import escape_non_utf8
from .records import UNLISTED, Annotation, ImageRef, Row

# Kinds of skipped things that are counted separately. A folder may have a million files with endings of their own.
MAX_SKIPPED_KINDS = 100
SUMMED_COLUMNS = ("input_tokens", "output_tokens", "timings", "hosted", "finish_reason")
BILLED_COLUMNS = ("hosted",)
OTHER = "other things"


def counted(number: int, unit: str) -> str:
    """Return a number with its unit, such as "1 picture" or "2 pictures".

    Args:
        unit: the plural, such as "pictures". Its last letter is the s that the singular lacks.
    """
    return f"{number} {unit[:-1] if number == 1 else unit}"


class SkippedCount(NamedTuple):
    """How many things of one kind the input holds that are left out, and the name of one of them."""

    kind: str
    count: int  # type: ignore[assignment]  # In place of the method of tuples.
    example: str


class Count(NamedTuple):
    """How much work there is: pictures with pending rows, and rows (one task on one picture or manifest row) by state.

    ``pending`` rows are to be made, ``done`` ones are in the output already. ``retried`` of the pending ones failed in
    an earlier run. ``inputs`` is what the input holds: the pictures listed, and the rows of manifests. ``shared`` of
    the pending rows get the answer to the request of another row. ``changed`` of the pending rows had a row whose
    picture has changed since. ``unread`` pictures could not be read to see that, so their rows were kept.
    ``failed_before`` of the ``done`` rows are in ``errors/``, from earlier runs. ``corrected`` rows were removed from
    ``errors/``, because their inputs were corrected. ``skipped`` is what is left out, by kind in alphabetical order.
    """

    pictures: int = 0
    pending: int = 0
    done: int = 0
    retried: int = 0
    inputs: int = 0
    shared: int = 0
    changed: int = 0
    unread: int = 0
    failed_before: int = 0
    corrected: int = 0
    skipped: tuple[SkippedCount, ...] = ()

    @property
    def requests(self) -> int:
        """The number of requests for the pending rows: one for each task on each picture."""
        return self.pending - self.shared

    @property
    def unit(self) -> str:
        """What ``pending`` counts: "requests", or "rows" if several rows share a request."""
        return "rows" if self.shared else "requests"

    @classmethod
    def of_skipped(cls, ref: ImageRef) -> Count:
        """Return the count of a reference that has ``skipped``; zeros for a reference to a picture."""
        if not ref.skipped:
            return cls()
        # The summary is printed, and bytes that are not UTF-8 can't be.
        kind, example = escape_non_utf8(ref.skipped.kind), escape_non_utf8(ref.filename)
        inputs = ref.skipped.count if ref.skipped.is_input else 0
        return cls(inputs=inputs, skipped=(SkippedCount(kind, ref.skipped.count, example),))

    @classmethod
    def from_json(cls, values: Sequence[Any]) -> Count:
        """Return a count from the list that ``json`` makes of it."""
        *numbers, skipped = values
        return cls._make([*numbers, tuple(SkippedCount(*each) for each in skipped)])


class Summary(NamedTuple):
    """Sums over rows: rows by kind, tokens, milliseconds, and what hosted APIs billed: units and US dollars.

    ``cut_off``: answers that ended at a limit of tokens or objects.
    ``shards_left``: shards without a row here, because the device of their worker failed before they were published.
    """

    annotations: int = 0
    failures: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    encode_ms: float = 0.0
    generate_ms: float = 0.0
    billed_units: float = 0.0
    usd: float = 0.0
    shards_left: int = 0
    cut_off: int = 0

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
            cut_off=self.cut_off + (row.finish_reason == "length"),
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
            cut_off=pc.sum(pc.equal(table["finish_reason"], "length"), min_count=0).as_py(),
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
    """Return the sum of many counts, field by field, and skipped things by kind.

    Folders that could not be listed come first. Of more than ``MAX_SKIPPED_KINDS`` kinds the last ones are one kind,
    "other things".
    """
    *numbers, skipped = zip(Count(), *counts, strict=True)
    return Count._make([*map(sum, numbers), _sum_skipped(chain(*skipped))])


def _sum_skipped(parts: Iterable[SkippedCount]) -> tuple[SkippedCount, ...]:
    by_kind: dict[str, SkippedCount] = {}
    for kind, count, example in parts:
        known = by_kind.setdefault(kind, SkippedCount(kind, 0, example))
        by_kind[kind] = SkippedCount(kind, known.count + count, min(known.example, example))
    # Folders that could not be listed change the exit status, so they must not become other things.
    kinds = sorted(by_kind.values(), key=lambda each: (each.kind == OTHER, not each.kind.startswith(UNLISTED), each))
    ours, others = kinds[:MAX_SKIPPED_KINDS], kinds[MAX_SKIPPED_KINDS:]
    if others:
        ours.append(SkippedCount(OTHER, sum(each.count for each in others), others[0].example))
    return tuple(ours)
