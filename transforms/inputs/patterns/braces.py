"""Expand braces in patterns, as shells and WebDataset do: ``set-{000..009}.tar``, ``{train,val}/*.jpg``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

MAX_EXPANDED = 1_000_000
_NUMBERS = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.-?(\d+))?", re.ASCII)
_LETTERS = re.compile(r"([A-Za-z])\.\.([A-Za-z])(?:\.\.-?(\d+))?")


def expand_braces(pattern: str) -> list[str]:
    """Return the names that a pattern stands for, in order; the pattern itself if it has no pair of braces to expand.

    ``{a,b}`` stands for each of its parts, ``{1..3}`` for numbers, ``{01..10}`` for numbers of the same width,
    ``{a..c}`` for letters, and ``{0..9..3}`` takes every third. Braces may be nested. All others are plain text.

    Raises:
        ValueError: if there are more than ``MAX_EXPANDED`` names.
    """
    names = list(islice(_expand(pattern), MAX_EXPANDED + 1))
    if len(names) > MAX_EXPANDED:
        raise ValueError(f"{pattern} stands for more than {MAX_EXPANDED:,} names: write smaller braces, or a glob")
    return names


def _expand(pattern: str) -> Iterator[str]:
    start = pattern.find("{")
    while start >= 0:
        if found := _split(pattern, start):
            parts, end = found
            for part in parts:
                for tail in _expand(pattern[end:]):
                    yield pattern[:start] + part + tail
            return
        start = pattern.find("{", start + 1)
    yield pattern


def _split(pattern: str, start: int) -> tuple[Iterator[str], int] | None:
    """Return the parts of the braces that open at ``start``, and where the text behind them begins; None if plain."""
    depth, at, parts = 0, start + 1, []
    for index in range(start, len(pattern)):
        letter = pattern[index]
        depth += (letter == "{") - (letter == "}")
        if (letter == "," and depth == 1) or depth == 0:
            parts.append(pattern[at:index])
            at = index + 1
        if depth == 0:
            inside = _sequence(parts[0]) if len(parts) == 1 else (each for part in parts for each in _expand(part))
            return (inside, index + 1) if inside is not None else None
    return None


def _sequence(text: str) -> Iterator[str] | None:
    """Return the names of a sequence such as ``001..010`` or ``a..e..2``; None if it is none."""
    if match := _NUMBERS.fullmatch(text):
        first, last, step = int(match[1]), int(match[2]), int(match[3] or 1) or 1
        is_padded = any(re.match(r"-?0\d", end) for end in match.groups()[:2])
        width = max(map(len, match.groups()[:2])) if is_padded else 0
        return (f"{number:0{width}}" for number in _range(first, last, step))
    if match := _LETTERS.fullmatch(text):
        return (chr(code) for code in _range(ord(match[1]), ord(match[2]), int(match[3] or 1) or 1))
    return None


def _range(first: int, last: int, step: int) -> range:
    return range(first, last + 1, step) if first <= last else range(first, last - 1, -step)
