"""The lines of delimited text: one at a time, or many at once where none of them needs a parser."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple

import pyarrow as pa
from pyarrow import csv

# Of one line. A longer one means that the file has no line ends, or embeds an image.
MAX_LINE_BYTES = 8 << 20
# The characters of a block, and the lines that are read before the length of the block is looked at again.
BLOCK_CHARS = 1 << 20
MAX_LINES_AT_ONCE = 256


class Lines:
    """The lines of a text with their ends. ``number`` is that of the latest line, from 1.

    Of a line above ``MAX_LINE_BYTES``, one character more than that is returned, and the rest is skipped.
    """

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text, self._ahead, self.number = text, deque[str](), 0
        self._error: Exception | None = None

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._ahead.popleft() if self._ahead else self._read()
        if not line:
            raise StopIteration
        self.number += 1
        return line

    @property
    def has_ahead(self) -> bool:
        """Whether lines are held that were pushed back."""
        return bool(self._ahead)

    def push_back(self, lines: list[str]) -> None:
        """Return the latest lines, in their order, so that they are read again."""
        self.push_ahead(lines)
        self.number -= len(lines)

    def push_ahead(self, lines: list[str]) -> None:
        """Return the lines of the latest block, so that they are read one at a time."""
        self._ahead.extendleft(reversed(lines))

    def next_block(self) -> list[str]:
        """Return the next lines, about ``BLOCK_CHARS`` characters; empty at the end. They are not counted yet.

        Content before damaged content is returned first.

        Raises:
            Exception: any error of the file, if there is no line before it.
        """
        lines, self._ahead = list(self._ahead), deque()
        num_chars, at_once = 0, 1
        each = iter(partial(self._text.readline, MAX_LINE_BYTES + 1), "")
        while num_chars < BLOCK_CHARS and not self._error:
            start = len(lines)
            try:
                # Lines before an error stay in the list.
                lines.extend(islice(each, at_once))
            except Exception as error:
                self._error = error
            new = [len(line) for line in lines[start:]]
            if not new:
                break
            num_chars += sum(new)
            at_once = min(2 * at_once, MAX_LINES_AT_ONCE, BLOCK_CHARS // max(new) + 1)
            if max(new) > MAX_LINE_BYTES:
                lines[start:] = self._without_rests(lines[start:])
        if not lines and self._error:
            raise self._error
        return lines

    def _without_rests(self, lines: list[str]) -> list[str]:
        """Return lines without the rests of those that are too long."""
        kept, is_rest = [], False
        for line in lines:
            if not is_rest:
                kept.append(line)
            is_rest = _is_cut(line)
        while is_rest and not self._error:
            is_rest = _is_cut(self._text.readline(MAX_LINE_BYTES + 1))
        return kept

    def _read(self) -> str:
        if self._error:
            raise self._error
        line = rest = self._text.readline(MAX_LINE_BYTES + 1)
        while _is_cut(rest):
            rest = self._text.readline(MAX_LINE_BYTES + 1)
        return line


class PlainLines(NamedTuple):
    """Consecutive records, each on a line of its own, without quotes.

    Attributes:
        lines: the lines, with their ends; none is empty.
        numbers: their numbers.
        values: their fields in one column.
    """

    lines: list[str]
    numbers: Sequence[int]
    values: pa.Array

    def fields(self, place: int, delimiter: str) -> list[str]:
        """Return all fields of the line at ``place``."""
        return self.lines[place].removesuffix("\n").removesuffix("\r").split(delimiter)


def plain_lines(lines: list[str], number: int, delimiter: str, width: int, column: int) -> PlainLines | None:
    """Return lines as records, without those that are empty. ``column`` is the place of a field, ``number`` the first.

    Returns:
        None if a line has a quote, a carriage return inside, more than ``MAX_LINE_BYTES`` characters, text that is not
        UTF-8, or another number of fields than ``width``.
    """
    text = "".join(lines)
    numbers: Sequence[int] = range(number, number + len(lines))
    if '"' in text or not delimiter.isascii() or delimiter == '"' or len(max(lines, key=len)) > MAX_LINE_BYTES:
        return None
    if "\r" in text and "\r" in text.replace("\r\n", "\n"):
        return None
    names = [str(place) for place in range(width)]
    convert = csv.ConvertOptions(include_columns=[names[column]], column_types={names[column]: pa.string()})
    parse = csv.ParseOptions(delimiter=delimiter, quote_char=False, escape_char=False)
    try:
        content = text.encode()
        read = csv.ReadOptions(use_threads=False, block_size=len(content) + 1, column_names=names)
        values = csv.read_csv(pa.BufferReader(content), read, parse, convert).column(0).combine_chunks()
    except (UnicodeEncodeError, pa.ArrowInvalid):
        return None
    if len(values) != len(lines):
        places = [place for place, line in enumerate(lines) if line.strip("\r\n")]
        lines, numbers = [lines[place] for place in places], [number + place for place in places]
    return PlainLines(lines, numbers, values) if len(values) == len(lines) else None


def _is_cut(line: str) -> bool:
    """Return whether a line goes on after ``MAX_LINE_BYTES + 1`` characters."""
    return len(line) > MAX_LINE_BYTES and line[-1] not in "\r\n"
