"""Divide the pictures of an export into splits, such as train and val, in the same way in every run."""

from __future__ import annotations

import math
import os
import re
from bisect import bisect_right
from collections.abc import Mapping
from hashlib import sha256
from itertools import accumulate
from typing import Any, NamedTuple

_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")
_TOTAL = 1 << 64


class Splits(NamedTuple):
    """The names of splits, and the share of the pictures in each. The shares add up to 1."""

    names: tuple[str, ...] = ("train",)
    shares: tuple[float, ...] = (1.0,)

    def choose(self, row: Mapping[str, Any]) -> str:
        """Return the name of the split of a picture, from its ``sha256``; from its ``key`` if that is empty.

        Pictures with the same bytes are in one split. A run with more pictures leaves all others in their splits.
        """
        if len(self.names) == 1:
            return self.names[0]
        digest = sha256(f"split {row['sha256'] or row['key']}".encode()).digest()
        place = int.from_bytes(digest[:8], "big") / _TOTAL
        # The sum of the shares may be a little less than 1.
        return self.names[min(bisect_right(list(accumulate(self.shares)), place), len(self.names) - 1)]

    def sql(self) -> str:
        """Return the SQL expression of DuckDB for what ``choose`` returns for a row.

        Where the hash is at the border of two splits by less than the precision of a float, the two may differ.
        """
        hexadecimal = "left(sha256('split ' || coalesce(nullif(sha256, ''), key)), 16)"
        ends = [min(int(end * _TOTAL), _TOTAL - 1) for end in accumulate(self.shares)]
        cases = zip(ends[:-1], self.names, strict=False)
        whens = "".join(f"WHEN {hexadecimal} < '{end:016x}' THEN '{name}' " for end, name in cases)
        return f"CASE {whens}ELSE '{self.names[-1]}' END" if whens else f"'{self.names[-1]}'"


ONE_SPLIT = Splits()


def split_files(path: str, splits: Splits) -> dict[str, str]:
    """Return the path of each split's file by split: ``rows-train.jsonl`` for ``rows.jsonl``; the path itself for one.

    The name of a file has an extension.
    """
    if len(splits.names) == 1:
        return {splits.names[0]: path}
    stem, extension = os.path.splitext(path)
    return {name: f"{stem}-{name}{extension}" for name in splits.names}


def parse_splits(text: str) -> Splits:
    """Return the splits that a text such as ``train=0.95,val=0.05`` names.

    Raises:
        ValueError: if it is not such a text, a name stands there twice, or the shares do not add up to 1.
    """
    example = "give names and shares that add up to 1, such as train=0.95,val=0.05"
    names, shares = [], []
    for part in text.split(","):
        name, _, share = part.strip().partition("=")
        try:
            shares.append(float(share))
        except ValueError as error:
            raise ValueError(f"--split {text}: {part.strip()!r} has no share; {example}") from error
        if not _NAME.fullmatch(name):
            raise ValueError(f"--split {text}: {name!r} is no name of small letters and digits; {example}")
        if not 0 < shares[-1] <= 1:
            raise ValueError(f"--split {text}: the share {share} is not between 0 and 1; {example}")
        names.append(name)
    if len(set(names)) < len(names):
        raise ValueError(f"--split {text}: a name stands there twice; {example}")
    if not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise ValueError(f"--split {text}: the shares add up to {sum(shares):g}; {example}")
    return Splits(tuple(names), tuple(shares))
