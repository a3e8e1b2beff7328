"""The lines of delimited text: one at a time, or many at once where none of them needs a parser."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice

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


def plain_fields(lines: Sequence[str], number: int, delimiter: str, width: int) -> list[tuple[int, list[str]]] | None:
    """Return the number and the fields of each line that is not empty. The first line has the number ``number``.

    Returns:
        None if a line has a quote, a carriage return inside, more than ``MAX_LINE_BYTES`` characters, or another number
        of fields than ``width``.
    """
    text = "".join(lines)
    if '"' in text or delimiter == '"' or len(max(lines, key=len)) > MAX_LINE_BYTES:
        return None
    if "\r" in text:
        text = text.replace("\r\n", "\n")
        if "\r" in text:
            return None
    found = [(place, line.split(delimiter)) for place, line in enumerate(text.split("\n"), number) if line]
    return found if all(len(fields) == width for _, fields in found) else None


def _is_cut(line: str) -> bool:
    """Return whether a line goes on after ``MAX_LINE_BYTES + 1`` characters."""
    return len(line) > MAX_LINE_BYTES and line[-1] not in "\r\n"
