"""Format numbers, durations, times and options for people."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timezone
from typing import Any

# Limits that keep the report below 10 MB.
PLACES_OF_A_ROW, TEXT_CHARACTERS = 30, 600


def format_count(value: int) -> str:
    """Return a whole number with commas, such as "1,234"."""
    return f"{value:,}"


def format_number(value: float) -> str:
    """Return a number with three significant digits and commas, such as "5.64" or "1,234".

    Integer digits are never dropped, and trailing zeros after the point are. NaN and infinity give "0".
    """
    if not value or not math.isfinite(value):
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_usd(value: float) -> str:
    """Return dollars with cents, such as "$2.50". Sums below one dollar have three significant digits: "$0.00123"."""
    return f"${value:,.2f}" if value >= 1 or not value else f"${format_number(value)}"


def format_percent(part: float, whole: float) -> str:
    """Return ``part / whole`` in percent with one decimal, such as "33.3 %"; "0 %" if ``whole`` is 0.

    A share that would round to 0 or 100 without being it is "< 0.1 %" or "> 99.9 %".
    """
    percent = 100 * part / whole if whole else 0.0
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.1f}".removesuffix(".0") + " %"


def format_milliseconds(value: float) -> str:
    """Return milliseconds in the largest of h, min, s and ms that is at least 1, such as "1.5 s"."""
    for unit, size in (("h", 3_600_000), ("min", 60_000), ("s", 1000)):
        if value >= size:
            return f"{format_number(value / size)} {unit}"
    return f"{format_number(value)} ms"


def format_duration(seconds: float) -> str:
    """Return seconds in the two largest units of d, h, min and s, such as "1 h 30 min" or "59 s"."""
    for unit, size, smaller, part in (("d", 86_400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= size:
            rest = int(seconds % size // part)
            return f"{int(seconds // size)} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{seconds:.0f} s"


def format_time(value: datetime | float) -> str:
    """Return a time in UTC to the minute, such as "01 Jan 1970, 00:00 UTC". A number is milliseconds since 1970."""
    if not isinstance(value, datetime):
        value = datetime.fromtimestamp(value / 1000, timezone.utc)
    return f"{value.astimezone(timezone.utc):%d %b %Y, %H:%M} UTC"


def format_coordinate(fraction: float, units: float) -> str:
    """Return a fraction of a side in whole units of a drawing that is ``units`` wide, clamped to 0 and ``units``.

    NaN and infinity give "0".
    """
    return f"{min(max(fraction, 0.0), 1.0) * units:.0f}" if math.isfinite(fraction) else "0"


def drawn_places(found: list[dict[str, float]] | None) -> list[dict[str, float]]:
    """Return the first PLACES_OF_A_ROW boxes or points of a row; an empty list for None."""
    return (found or [])[:PLACES_OF_A_ROW]


def format_option(value: Any) -> str:
    """Return text as it is and any other value as JSON, cut to TEXT_CHARACTERS characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= TEXT_CHARACTERS else text[:TEXT_CHARACTERS] + " …"


def format_table(lines: Sequence[Sequence[str]], right: Collection[int] = ()) -> Iterator[str]:
    """Yield one line of text for each line of cells. A column is as wide as its longest cell.

    Args:
        right: the numbers of the columns that are aligned to the right. The others are aligned to the left.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = zip(range(len(widths)), line, widths, strict=True)
        aligned = (cell.rjust(width) if number in right else cell.ljust(width) for number, cell, width in cells)
        yield "  ".join(aligned).rstrip()
