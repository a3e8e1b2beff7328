"""How long to wait before a retry: the Retry-After header, and random exponential backoff."""

from __future__ import annotations

import math
import random
from datetime import timezone
from email.utils import parsedate_to_datetime
from time import time


def parse_retry_after(header: str | None, max_s: float = math.inf) -> float | None:
    """Return the seconds that a ``Retry-After`` header asks to wait, at most ``max_s``.

    The header is a number of seconds or an HTTP date; a date in the past means 0 seconds.

    Returns:
        None if the header is missing, negative, infinite, NaN, or neither a number nor a date.
    """
    text = (header or "").strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            date = parsedate_to_datetime(text)
            # An HTTP date is in UTC, also where it does not name the zone.
            seconds = max(0.0, (date if date.tzinfo else date.replace(tzinfo=timezone.utc)).timestamp() - time())
        except (ValueError, TypeError, OverflowError):
            return None
    return min(seconds, max_s) if 0 <= seconds < math.inf else None


def backoff(attempts: int, initial_s: float, max_s: float) -> float:
    """Return the seconds to wait after ``attempts`` failed attempts: random, so that clients do not retry together.

    The seconds are between 0 and ``initial_s * 2 ** (attempts - 1)``, at most ``max_s``.
    """
    return random.uniform(0.0, min(max_s, initial_s * 2.0 ** min(attempts - 1, 60)))
