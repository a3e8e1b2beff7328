"""Read CSV and tab-separated text record by record. The two differ in the meaning of a quote."""

from __future__ import annotations

import csv
import io
import posixpath
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from ....images.formats import EXTENSIONS
from ....io.uris import LOCAL, is_utf8, scheme_of
from ..addresses import INVISIBLE
from .lines import MAX_LINE_BYTES, Lines, PlainLines, plain_lines

# Of one tab-separated record. The limit bounds the search for a closing quote.
MAX_RECORD_LINES = 1000
TAB = "\t"
# The delimiters that a header is searched for, in this order, if it lacks that of the file's ending.
OTHER_DELIMITERS = (";", TAB, "|", ",")
# A field in quotes, with each quote inside of it doubled, and a field whose closing quote is on a later line.
_QUOTED = re.compile(r'"([^"]*(?:""[^"]*)*)"(?=\t|\Z)')
_OPEN = re.compile(r'"[^"]*(?:""[^"]*)*\Z')
# A field in quotes whose inner quotes have backslashes before them, as Spark writes them by default.
_BACKSLASHED = re.compile(r'"(?:[^"\\]|\\.)*\\"(?:[^"\\]|\\.)*"')
BACKSLASHED = "a backslash stands before a quote: write each such quote twice (Spark: .option('escape', '\"'))"


class Record(NamedTuple):
    """A record that begins on line ``number``, from 1. If it is broken, ``problem`` says why."""

    number: int
    fields: list[str]
    problem: str = ""


class DelimitedFile:
    """An open file with one record on each line and the names of its columns on the first.

    The delimiter is a tab in ``.tsv`` and else a comma. If the header has none, it is the first of ``OTHER_DELIMITERS``
    that the header has, or the one that a first line ``sep=;`` names. Spaces around names of columns are removed.

    In CSV, quotes enclose fields. In tab-separated text, a quote is a plain character, except around a field that a
    writer of CSV would have enclosed: one that holds a tab, a line end or doubled quotes, that is empty, or that
    begins with ``#``. If the names in the header are in quotes, quotes enclose all fields.

    Raises:
        OSError: if the file can't be read.
        ValueError: if the file has no valid header.
    """

    def __init__(self, path: str, file: Any, is_tsv: bool) -> None:
        head = file.read(64 << 10)
        file.seek(0)
        # Only files of old Macs have CR alone as line end. In other files CR may stand in a field.
        newline = "" if b"\r" in head and b"\n" not in head else "\n"
        # Local file names may have bytes that are not UTF-8: surrogateescape keeps them.
        self._text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline=newline)
        self._lines = Lines(self._text)
        csv.field_size_limit(MAX_LINE_BYTES)
        first = next(self._lines, "")
        if named := re.fullmatch(r"sep=(.)[\r\n]*", first, re.IGNORECASE):
            self.delimiter = named[1]
        else:
            self._lines.push_back([first] if first else [])
            self.delimiter = _delimiter(first, TAB if is_tsv else ",")
        self._quotes_enclose = self.delimiter != TAB or any(map(_QUOTED.fullmatch, first.rstrip("\r\n").split(TAB)))
        try:
            self.header = self._read_header(path)
        except BaseException:
            self._text.close()
            raise

    def __enter__(self) -> DelimitedFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._text.close()

    def records(self) -> Iterator[Record]:
        """Yield the records after the header, in order. Blank lines are left out."""
        return self._enclosed(len(self.header)) if self._quotes_enclose else self._tabbed()

    def blocks(self, column: int) -> Iterator[Record | PlainLines]:
        """Yield the records that ``records`` yields: many at once where all lines are plain.

        Args:
            column: the place of the fields that are the ``values`` of plain lines.
        """
        while block := self._lines.next_block():
            found = plain_lines(block, self._lines.number + 1, self.delimiter, len(self.header), column)
            if found:
                self._lines.number += len(block)
                yield found
                continue
            self._lines.push_ahead(block)
            # A record is yielded before the next line is read.
            for record in self.records():
                yield record
                if not self._lines.has_ahead:
                    break

    def _read_header(self, path: str) -> list[str]:
        # Without a width, each record is as wide as it is.
        first = next(self._enclosed(), None) if self._quotes_enclose else None
        names = first.fields if first else next(self._lines, "").rstrip("\r\n").split(TAB)
        header = [name.strip(INVISIBLE) for name in names]
        if not any(header) or len(set(header)) < len(header) or (first and first.problem):
            raise ValueError(f"manifest {path}: its first line must name its columns, each once")
        if not all(map(is_utf8, header)) or "\0" in "".join(header):
            raise ValueError(f"manifest {path}: its first line is no UTF-8: save the file as UTF-8")
        return header

    def _enclosed(self, width: int = 0) -> Iterator[Record]:
        """Yield records in which quotes enclose fields. With a ``width``, each must have that many fields.

        After a broken record, its later lines are read on their own if one of them has ``width`` fields.
        """
        taken: list[str] = []
        reader = self._reader(taken)
        while True:
            taken.clear()
            number = self._lines.number + 1
            fields, problem = _next_record(reader)
            if fields is None:
                return
            if fields and width:
                problem = _width_problem(fields, width)
                # Two quotes that are plain characters make the rows between them one record.
                if not problem and len(taken) > 1 and self._are_rows(taken, width):
                    problem = (
                        f"a quote in this line encloses the rows up to line {self._lines.number}: double each quote "
                        "that is a plain character, and put its field in quotes"
                    )
            if not problem:
                if fields:
                    yield Record(number, fields)
                continue
            if '\\"' in taken[0]:
                problem = BACKSLASHED
            if any(line.count(self.delimiter) == width - 1 for line in taken[1:]):
                self._lines.push_back(taken[1:])
            # The old reader may have reached the end of its lines.
            reader = self._reader(taken)
            yield Record(number, [], problem)

    def _reader(self, taken: list[str]) -> Any:
        """Return a reader of CSV that appends each line that it takes to ``taken``."""

        def lines() -> Iterator[str]:
            for line in self._lines:
                taken.append(line)
                if len(line) > MAX_LINE_BYTES:
                    raise csv.Error(TOO_LONG)
                yield line

        return csv.reader(lines(), delimiter=self.delimiter, strict=True)

    def _are_rows(self, lines: list[str], width: int) -> bool:
        """Return whether each line has ``width`` fields, and one of the columns holds an address on each line."""
        if any(line.count(self.delimiter) != width - 1 for line in lines):
            return False
        columns = zip(*(line.split(self.delimiter) for line in lines), strict=True)
        return any(all(map(_is_address, column)) for column in columns)

    def _tabbed(self) -> Iterator[Record]:
        """Yield records in which a quote is a plain character, unless it encloses a field as CSV writers do."""
        width = len(self.header)
        for line in self._lines:
            number = self._lines.number
            if len(line) > MAX_LINE_BYTES:
                yield Record(number, [], TOO_LONG)
            elif line.strip("\r\n"):
                try:
                    fields = self._tab_fields(line, width)
                    problem = BACKSLASHED if any(map(_BACKSLASHED.fullmatch, fields)) else _width_problem(fields, width)
                except ValueError as error:
                    fields, problem = [], str(error)
                yield Record(number, [] if problem else fields, problem)

    def _tab_fields(self, line: str, width: int) -> list[str]:
        """Return the fields of a record that begins with ``line``, which was just read."""
        plain = _without_end(line).split(TAB)
        if '"' not in line:
            return plain
        fields, is_open = _quoted_fields(_without_end(line))
        if is_open and width > 1 and (longer := self._continued(line, width)) is not None:
            return longer
        if len(plain) == width:
            return list(map(_unquoted, plain))
        return plain if is_open else fields

    def _continued(self, text: str, width: int) -> list[str] | None:
        """Return the fields of a record whose field in quotes goes on after the line ``text``.

        Returns:
            None, with the later lines pushed back, if no such record begins here.

        Raises:
            ValueError: if the lines can be one record as well as rows, and no column of addresses decides.
        """
        taken: list[str] = []
        first, is_first_row = text, text.count(TAB) == width - 1
        fields, is_open = _quoted_fields(_without_end(text))
        for line in self._lines:
            taken.append(line)
            text += line
            complete, is_row = len(fields), line.count(TAB) == width - 1
            if '"' in line:
                fields, is_open = _quoted_fields(_without_end(text))
            if not is_open and len(fields) == width:
                if not (is_first_row and is_row):
                    return fields
                if not self._are_rows([first, *taken], width):
                    raise ValueError(
                        f"a quote may enclose the rows up to line {self._lines.number}: write CSV or Parquet"
                    )
            is_within = is_open and not (is_row and len(fields) == complete)
            if not is_within or len(text) > MAX_LINE_BYTES or len(taken) == MAX_RECORD_LINES:
                break
        self._lines.push_back(taken)
        return None


TOO_LONG = f"the line has more than {MAX_LINE_BYTES >> 20} MiB: shorten it, or add line ends"


def _delimiter(header: str, usual: str) -> str:
    """Return the delimiter of a header; see ``DelimitedFile``. ``usual`` is that of the file's ending."""
    names = re.sub(r'"[^"]*"', "", header)
    return next((one for one in (usual, *OTHER_DELIMITERS) if one in names), usual)


def _next_record(reader: Any) -> tuple[list[str] | None, str]:
    """Return the next record of a reader of CSV, None at the end, and why it is broken, or ""."""
    try:
        return next(reader, None), ""
    except csv.Error as error:
        return [], str(error) if str(error) == TOO_LONG else f"this is no CSV: {error}; correct the line"


def _width_problem(fields: list[str], width: int) -> str:
    if len(fields) == width:
        return ""
    return f"the row has {len(fields)} fields, but the header has {width}: correct the row"


def _is_address(field: str) -> bool:
    text = field.strip(INVISIBLE + '"')
    return scheme_of(text) != LOCAL or posixpath.splitext(text)[1].lower() in EXTENSIONS


def _without_end(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r")


def _quoted_fields(text: str) -> tuple[list[str], bool]:
    """Return the fields of tab-separated text, in which quotes may enclose tabs and line ends.

    Returns:
        the complete fields, and whether they are followed by a field whose closing quote is missing.
    """
    fields, at = [], 0
    while True:
        if quoted := _QUOTED.match(text, at):
            fields.append(quoted[1].replace('""', '"'))
            end = quoted.end()
        elif _OPEN.match(text, at):
            return fields, True
        else:
            tab = text.find(TAB, at)
            end = len(text) if tab < 0 else tab
            fields.append(text[at:end])
        if end == len(text):
            return fields, False
        at = end + 1


def _unquoted(field: str) -> str:
    """Return a field without tabs and line ends, without its quotes if a writer of CSV would have added them."""
    quoted = _QUOTED.fullmatch(field)
    # DuckDB and polars write an empty text as "", and DuckDB puts quotes around a text that begins with #.
    if quoted and ('"' in quoted[1] or not quoted[1] or quoted[1].startswith("#")):
        return quoted[1].replace('""', '"')
    return field
