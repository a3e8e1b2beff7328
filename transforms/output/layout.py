"""Slices of one input for independent commands: which pictures are in one, and how its runs are told apart by name.

The name of a run says its slice. So whoever sees a token, or a file, knows whose it is without reading it.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Slice(NamedTuple):
    """The slice of this ``number`` (from 0) of so many in ``of``: about as many pictures in each."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Slice:
        """A slice from ``"3/16"``.

        Raises:
            ValueError: it is none.
        """
        told = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
        if not told or not int(told[1]) < int(told[2]):
            raise ValueError(f"slice {text}: give NUMBER/COUNT, from 0/16 to 15/16 where there are 16")
        return cls(int(told[1]), int(told[2]))

    @classmethod
    def from_run_name(cls, run: str) -> Slice | None:
        """The slice that a run's name says, if any."""
        told = re.fullmatch(r".+-(\d+)of(\d+)", run, re.ASCII)
        return cls(int(told[1]), int(told[2])) if told else None

    def run(self, run: str) -> str:
        """The name of a run of this slice."""
        return f"{run}-{self.number}of{self.of}"


def can_run_together(run: str, other: str) -> bool:
    """Whether two runs may be at work in an output at once: they are other slices of the same cut."""
    mine, its = Slice.from_run_name(run), Slice.from_run_name(other)
    return bool(mine and its and mine.of == its.of and mine.number != its.number)


def run_of_file(name: str) -> str | None:
    """The run that a file of shards, published or not, is of; None for other files."""
    told = re.match(r"part-(.+)-\d{5,}(-\d+|-[0-9a-f]{32})?\.parquet", name, re.ASCII)
    return told[1] if told else None
