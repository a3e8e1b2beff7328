"""Digests of the values that rows keep from a manifest. Equal values have equal digests on every machine."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID


def kept_digest(values: Sequence[Any]) -> str:
    """Return a sha256 of the values, 64 hex digits, or "" if all are None.

    Values of every Arrow type, as Python values, have digests. Numbers that are equal have the same digest whatever
    their type is, and so have timestamps of the same instant in different time zones.

    Raises:
        TypeError: if a value is of a class that stands for no Arrow type.
    """
    if all(value is None for value in values):
        return ""
    return hashlib.sha256(json.dumps([_plain(value) for value in values]).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it. Each kind that JSON lacks is an object with the name of the kind."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        # A whole number is an int in JSON Lines, and a float in Parquet.
        return int(value) if value.is_integer() else value
    if isinstance(value, Decimal):
        return _plain_decimal(value)
    if isinstance(value, Mapping):
        # A field that is null in one file may be absent in another.
        return {"struct": {str(name): _plain(value[name]) for name in sorted(value) if value[name] is not None}}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"bytes": bytes(value).hex()}
    if isinstance(value, (datetime, date, time, timedelta, UUID)):
        return _plain_time(value)
    if hasattr(value, "tolist"):
        # A number or an array of NumPy.
        return _plain(value.tolist())
    if hasattr(value, "as_py"):
        return _plain(value.as_py())
    raise TypeError(f"{value!r} is {type(value).__name__}, which can't be kept: convert it to text or a number")


def _plain_decimal(value: Decimal) -> Any:
    if not value.is_finite():
        return {"decimal": str(value)}
    if value == value.to_integral_value():
        return int(value)
    # Not normalize(), which rounds to 28 digits.
    return {"decimal": f"{value:f}".rstrip("0")}


def _plain_time(value: Any) -> Any:
    if isinstance(value, timedelta):
        # Nanoseconds are an attribute of durations of pandas, which Arrow returns where pandas is installed.
        parts = (value.days, value.seconds, value.microseconds, getattr(value, "nanoseconds", 0))
        return {"duration": parts}
    if isinstance(value, datetime) and value.tzinfo is not None:
        # An instant at the edge of the years 1 to 9999 stays in its own time zone.
        with contextlib.suppress(OverflowError):
            value = value.astimezone(timezone.utc)
    if isinstance(value, datetime):
        return {"timestamp": value.isoformat()}
    return {type(value).__name__: str(value)}
