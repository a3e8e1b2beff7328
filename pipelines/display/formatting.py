"""Numbers and moments as people read them."""

from __future__ import annotations

import json
import math
from datetime import datetime, timezone
from typing import Any

from ...transforms.dataset.gallery import PLACES_OF_A_ROW, TEXT_CHARACTERS


def count(value: int) -> str:
    """A whole number with commas."""
    return f"{value:,}"


def number(value: float) -> str:
    """A number with three digits that count, and with commas."""
    if not value or not math.isfinite(value):
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def dollars(value: float) -> str:
    """A sum of money: cents, and smaller parts of sums below a dollar."""
    return f"${value:,.2f}" if value >= 1 or not value else f"${number(value)}"


def share(part: float, whole: float) -> str:
    """A share in percent; a little is not nothing, and almost all is not all."""
    percent = 100 * part / whole if whole else 0.0
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.1f}".removesuffix(".0") + " %"


def milliseconds(value: float) -> str:
    """A duration in the largest unit that makes it more than one."""
    for unit, size in (("h", 3_600_000), ("min", 60_000), ("s", 1000)):
        if value >= size:
            return f"{number(value / size)} {unit}"
    return f"{number(value)} ms"


def duration(seconds: float) -> str:
    """A time to come, no finer than one can know it."""
    for unit, size, smaller, part in (("d", 86_400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= size:
            rest = int(seconds % size // part)
            return f"{int(seconds // size)} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{seconds:.0f} s"


def moment(value: datetime | float) -> str:
    """A moment in UTC, to the minute; a number is milliseconds since 1970."""
    if not isinstance(value, datetime):
        value = datetime.fromtimestamp(value / 1000, timezone.utc)
    return f"{value.astimezone(timezone.utc):%d %b %Y, %H:%M} UTC"


def place(fraction: float, units: float) -> str:
    """A fraction of a side in units of the drawing; what is no fraction lies at the edge."""
    return f"{min(max(fraction, 0.0), 1.0) * units:.0f}" if math.isfinite(fraction) else "0"


def places(found: list[dict[str, float]] | None) -> list[dict[str, float]]:
    """The places of a row that are drawn."""
    return (found or [])[:PLACES_OF_A_ROW]


def option(value: Any) -> str:
    """An option's value as it was given, not endless."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= TEXT_CHARACTERS else text[:TEXT_CHARACTERS] + " …"
