"""Quotes, delimiters and line ends of CSV and tab-separated text, as the usual writers leave them."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pandas
import polars
import pytest

from moondream_beam.transforms.inputs.lists.blocks import delimited as module
from moondream_beam.transforms.inputs.lists.blocks.delimited import MAX_RECORD_LINES, DelimitedFile, Record
from moondream_beam.transforms.inputs.lists.tables import read_rows, schema_of

CAPTIONS = [
    '"open"',
    "a, b",
    "tab\there",
    "two\nlines",
    'in "quotes" here',
    "",
    "#tag",
    '"begins',
    'two\n"quoted"\tlines',
]
TABLE = {"caption": CAPTIONS, "url": [f"{number}.jpg" for number in range(len(CAPTIONS))]}


def read(path: Path) -> list[Record]:
    with path.open("rb") as file, DelimitedFile(str(path), file, path.suffix == ".tsv") as table:
        return list(table.records())


def fields(path: Path) -> list[list[str]]:
    assert not [record.problem for record in read(path) if record.problem]
    return [record.fields for record in read(path)]


def by_pandas(path: Path, quoting: int = csv.QUOTE_MINIMAL) -> None:
    pandas.DataFrame(TABLE).to_csv(path, sep="\t", index=False, quoting=quoting)


def by_polars(path: Path, style: Any = "necessary") -> None:
    polars.DataFrame(TABLE).write_csv(path, separator="\t", quote_style=style)


def by_duckdb(path: Path, options: str = "") -> None:
    table = polars.DataFrame(TABLE)
    with duckdb.connect() as connection:
        connection.register("given", table)
        connection.execute(f"copy given to '{path}' (format csv, delimiter '\t', header{options})")


WRITERS: dict[str, Callable[[Path], None]] = {
    "pandas": by_pandas,
    "pandas, all in quotes": lambda path: by_pandas(path, csv.QUOTE_ALL),
    "pandas, texts in quotes": lambda path: by_pandas(path, csv.QUOTE_NONNUMERIC),
    "polars": by_polars,
    "polars, all in quotes": lambda path: by_polars(path, "always"),
    "duckdb": by_duckdb,
    "duckdb, all in quotes": lambda path: by_duckdb(path, ", force_quote *"),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_tab_separated_files_of_writers_that_quote_give_the_values_back(tmp_path: Path, writer: str) -> None:
    path = tmp_path / "list.tsv"
    WRITERS[writer](path)
    assert fields(path) == [list(row) for row in zip(*TABLE.values(), strict=True)]


@pytest.mark.parametrize(
    "captions",
    [
        ['"open', "b", 'c"', "d"],
        ['"a sign', "b", "c", "d"],
        ['"sunset" by the sea', "b", "c", "d"],
        ['"sunset"', 'a 5" nail', '"Stop", it says', '"'],
        ['it says "a', 'b"', '"c', "d"],
        ["a", '"open', 'c"', "d"],
        ["a", '"open', '"', "d"],
    ],
)
@pytest.mark.parametrize("is_last", [False, True])
def test_quotes_in_tab_separated_text_are_plain_characters(tmp_path: Path, captions: list[str], is_last: bool) -> None:
    rows = [[f"{number}.jpg", text] if is_last else [text, f"{number}.jpg"] for number, text in enumerate(captions)]
    path = tmp_path / "list.tsv"
    path.write_text("first\tsecond\n" + "".join("\t".join(row) + "\n" for row in rows))
    assert fields(path) == rows


def test_a_field_over_several_lines_may_be_the_first_the_last_or_both(tmp_path: Path) -> None:
    rows = [["a\nb", "1", "x"], ["2", "c\n\nd\n", "y\r\nz"], ['say "e"\nf', "3", 'g\n"h"'], ["i", "4", "j"]]
    path = tmp_path / "list.tsv"
    with path.open("w", newline="") as file:
        csv.writer(file, "excel-tab", lineterminator="\n").writerows([["first", "second", "third"], *rows])
    assert fields(path) == rows
    assert [record.number for record in read(path)] == [2, 4, 9, 12]


def test_a_ragged_tab_separated_row_with_a_quote_costs_no_other_row(tmp_path: Path) -> None:
    path = tmp_path / "list.tsv"
    path.write_text('caption\turl\n"a sign\nb\t1.jpg\nc\t2.jpg\n"d\te"\t3.jpg\tmore\n\nf"\t4.jpg\n')
    told = [(record.number, record.fields, record.problem[:22]) for record in read(path)]
    assert told == [
        (2, [], "the row has 1 fields, "),
        (3, ["b", "1.jpg"], ""),
        (4, ["c", "2.jpg"], ""),
        (5, [], "the row has 3 fields, "),
        (7, ['f"', "4.jpg"], ""),
    ]


def test_a_field_may_hold_tabs_and_line_ends_and_what_can_not_be_decided_is_a_problem(tmp_path: Path) -> None:
    rows = [["0", "a\tb\nc", "x"], ["1", "a\nb\tc", "x"], ["2", "\n\t\n", "x"]]
    path = tmp_path / "list.tsv"
    with path.open("w", newline="") as file:
        csv.writer(file, "excel-tab", lineterminator="\n").writerows([["id", "text", "more"], *rows])
    assert fields(path) == rows
    path.write_text('text\tid\n"a\tb\nc"\t0\nd\t1\n')
    first, second = read(path)
    assert first.number == 2 and "may enclose the rows up to line 3: write CSV" in first.problem
    assert second == Record(4, ["d", "1"])


def test_the_search_for_a_closing_quote_ends_after_some_lines(tmp_path: Path) -> None:
    path = tmp_path / "list.tsv"
    path.write_text('caption\turl\n"a\n' + "line\n" * MAX_RECORD_LINES + 'b"\t1.jpg\nc\t2.jpg\n')
    records = read(path)
    assert [record.fields for record in records if not record.problem] == [['b"', "1.jpg"], ["c", "2.jpg"]]
    assert len(records) == MAX_RECORD_LINES + 3


@pytest.mark.parametrize("name", ["list.csv", "list.tsv"])
def test_a_line_above_the_limit_is_one_broken_record(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_LINE_BYTES", 1 << 10)
    path, mark = tmp_path / name, "," if name == "list.csv" else "\t"
    path.write_text(f"caption{mark}url\n" + "x" * (3 << 10) + f"{mark}1.jpg\nb{mark}2.jpg\n")
    first, second = read(path)
    assert first.number == 2 and "shorten it" in first.problem and second == Record(3, ["b", "2.jpg"])


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_the_delimiter_is_found_in_the_header(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "list.csv"
    path.write_text(f'url{mark}n\r\na.jpg{mark}"1,5"\r\n'.replace('"', "" if mark == "\t" else '"'))
    assert fields(path) == [["a.jpg", "1,5"]]
    path = tmp_path / "list.tsv"
    path.write_text('url,"n;m"\na.jpg,1\n')
    assert schema_of(str(path)).names == ["url", "n;m"] and fields(path) == [["a.jpg", "1"]]


def test_a_first_line_of_excel_names_the_delimiter(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("\ufeffsep=;\r\nurl, in full;n\r\na.jpg;1\r\n", newline="")
    assert schema_of(str(path)).names == ["url, in full", "n"] and read(path) == [Record(3, ["a.jpg", "1"])]


@pytest.mark.parametrize("name", ["list.csv", "list.tsv"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_line_end_and_a_byte_order_mark_are_understood(tmp_path: Path, name: str, end: str) -> None:
    path, mark = tmp_path / name, "," if name == "list.csv" else "\t"
    path.write_bytes(end.join(["\ufeff\ufeffurl" + mark + "n", "a.jpg" + mark + "1", "", "b.jpg" + mark]).encode())
    assert schema_of(str(path)).names == ["url", "n"] and fields(path) == [["a.jpg", "1"], ["b.jpg", ""]]


def test_spaces_around_the_names_of_columns_are_removed_and_those_around_values_stay(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text(" url , a caption\u200b\na.jpg, x \n")
    assert next(read_rows(str(path), [])).values == {"url": "a.jpg", "a caption": " x "}


def test_two_stray_quotes_in_csv_hide_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text('caption,url\n"open,https://h/0\nb,https://h/1\nc",https://h/2\nd,https://h/3\n')
    first, *others = read(path)
    assert first.number == 2 and "encloses the rows up to line 4" in first.problem
    assert [record.fields[0] for record in others] == ["b", 'c"', "d"]


@pytest.mark.parametrize("comma", [",", ";"])
def test_captions_of_several_lines_with_delimiters_are_one_value(tmp_path: Path, comma: str) -> None:
    rows = [[f"a dog{comma} running\non grass", "0.jpg"], [f"a{comma}b\nc{comma}d\n", "1.jpg"]]
    path = tmp_path / "list.csv"
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=comma).writerows([["caption", "url"], *rows])
    assert fields(path) == rows


def test_a_broken_record_of_csv_costs_only_its_own_row(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text('caption,url\n"a sign,0.jpg\nb,1.jpg\nc "d" e,2.jpg\n"f" g,3.jpg\nh,4.jpg\n')
    told = [(record.number, record.fields) for record in read(path)]
    assert told == [(2, []), (3, ["b", "1.jpg"]), (4, ['c "d" e', "2.jpg"]), (5, []), (6, ["h", "4.jpg"])]


@pytest.mark.parametrize(("name", "mark"), [("list.csv", ","), ("list.tsv", "\t")])
def test_quotes_behind_backslashes_are_a_problem_with_the_cure(tmp_path: Path, name: str, mark: str) -> None:
    path = tmp_path / name
    path.write_text(f'caption{mark}url\n"say \\"hi\\""{mark}0.jpg\nC:\\b{mark}1.jpg\n')
    first, second = read(path)
    assert "option('escape', '\"')" in first.problem and second == Record(3, ["C:\\b", "1.jpg"])
