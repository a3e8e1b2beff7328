"""Count the distinct character n-grams of many texts at once. A text with few of them repeats itself."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

# The factor of a polynomial hash modulo 2^64. It is odd, so that each character of an n-gram affects the hash.
_FACTOR = 0x9E3779B97F4A7C15
# Texts in one array: 0.5 MB of hashes, if the texts have 1,000 characters.
ROWS_AT_ONCE = 64

Integers = np.ndarray[tuple[int], np.dtype[np.int64]]


def count_distinct_ngrams(texts: pa.Array, n: int) -> pa.Array:
    """Return the number of distinct n-grams of ``n`` characters in each text, as int64; 0 for a shorter text or null.

    N-grams overlap: one begins at each character. They are compared by a 64-bit hash, so two n-grams count as one with
    a probability of about 1e-19.
    """
    strings = [text or "" for text in texts.to_pylist()]
    lengths = np.fromiter(map(len, strings), np.int64, len(strings))
    counts = np.zeros(len(strings), np.int64)
    # Texts of about the same length together, because the rows of an array are as wide as the longest.
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), ROWS_AT_ONCE):
        rows = order[start : start + ROWS_AT_ONCE]
        if lengths[rows[-1]] >= n:
            counts[rows] = _count([strings[row] for row in rows], lengths[rows], n)
    return pa.array(counts)


def _count(strings: list[str], lengths: Integers, n: int) -> Integers:
    """Return the number of distinct n-grams of texts with these lengths."""
    starts = np.cumsum(lengths) - lengths
    num_ngrams = np.maximum(lengths - (n - 1), 0)
    # One row for each text. Rows are padded with the largest hash, which sorts last and is not counted.
    counted = np.arange(num_ngrams.max()) < num_ngrams[:, None]
    found = _hashes("".join(strings), n)
    places = np.minimum(starts[:, None] + np.arange(counted.shape[1]), len(found) - 1)
    hashes = np.where(counted, found[places], np.iinfo(np.uint64).max)
    hashes.sort(axis=1)
    changes = (hashes[:, 1:] != hashes[:, :-1]) & counted[:, 1:]
    distinct: Integers = changes.sum(axis=1) + (num_ngrams > 0)
    return distinct


def _hashes(text: str, n: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """Return the hash of the n-gram that begins at each character. The text is padded with n - 1 zeros."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    points = np.append(points, np.zeros(n - 1, np.uint64))
    hashes = np.zeros(len(text), np.uint64)
    for offset in range(n):
        hashes += points[offset : offset + len(text)] * np.uint64(pow(_FACTOR, offset, 1 << 64))
    return hashes
