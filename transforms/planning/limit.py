"""Limit a job to some pictures, the same ones in every run, with all rows of the input for each of them."""

from __future__ import annotations

from typing import NamedTuple

import apache_beam as beam
from apache_beam.pvalue import PCollection

from ..core.records import KEY_DIGITS, ImageRef, Skipped
from ..core.ref_columns import each_ref


class LimitPictures(beam.PTransform[PCollection[ImageRef], PCollection[ImageRef]]):
    """Keep the references to ``size`` pictures, and all that is skipped.

    The references to other pictures become one reference with ``skipped``, which counts them. The input may have
    references as columns too.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def expand(self, refs: PCollection[ImageRef]) -> PCollection[ImageRef]:
        """Return the references that are kept, and those that count what is left out."""
        refs = refs | "One by one" >> beam.FlatMap(each_ref)
        pictures = refs | "Pictures" >> beam.Filter(lambda ref: not ref.skipped)
        skipped = refs | "Skipped" >> beam.Filter(lambda ref: bool(ref.skipped))
        chosen = (
            pictures
            | "Choose" >> beam.CombineGlobally(_SmallestPictures(self.size))
            | "Flatten" >> beam.FlatMap(lambda chosen: chosen)
        )
        return (chosen, skipped) | "Limited" >> beam.Flatten()


class _Chosen(NamedTuple):
    """References by the order of their picture, and how many others are left out, with the first of their names."""

    refs: dict[str, list[ImageRef]]
    left_out: int = 0
    example: str = ""


class _SmallestPictures(beam.CombineFn):
    """Choose the ``size`` pictures that are first in order. At most twice as many pictures are in memory."""

    def __init__(self, size: int) -> None:
        self.size = size

    def create_accumulator(self) -> _Chosen:
        return _Chosen({})

    def add_input(self, chosen: _Chosen, ref: ImageRef) -> _Chosen:
        chosen.refs.setdefault(_order(ref), []).append(ref)
        return self._reduce(chosen) if len(chosen.refs) > 2 * self.size else chosen

    def merge_accumulators(self, parts: list[_Chosen]) -> _Chosen:
        merged = self.create_accumulator()
        for refs, left_out, example in parts:
            for order, same in refs.items():
                merged.refs.setdefault(order, []).extend(same)
            merged = self._reduce(_leave_out(merged, left_out, example))
        return merged

    def extract_output(self, chosen: _Chosen) -> list[ImageRef]:
        refs, left_out, example = self._reduce(chosen)
        kept = [ref for same in refs.values() for ref in same]
        if left_out:
            kind = f"pictures or rows of manifests beyond --limit {self.size}"
            kept.append(ImageRef(f"--limit {self.size}", example, skipped=Skipped(kind, left_out, is_input=True)))
        return kept

    def _reduce(self, chosen: _Chosen) -> _Chosen:
        for order in sorted(chosen.refs)[self.size :]:
            same = chosen.refs.pop(order)
            chosen = _leave_out(chosen, len(same), min(ref.filename for ref in same))
        return chosen


def _leave_out(chosen: _Chosen, count: int, example: str) -> _Chosen:
    first = min(filter(None, (chosen.example, example)), default="")
    return chosen._replace(left_out=chosen.left_out + count, example=first)


def _order(ref: ImageRef) -> str:
    """Return the key of a picture, with its second half first.

    The first digits choose the slice, and the last ones the shard. Sorted by the first digits, all pictures would be in
    the first slice.
    """
    key = ref.key
    return key[KEY_DIGITS // 2 :] + key
