"""Options for the input: errors in one line, and what the rows contain."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moondream_beam.transforms.io.object_stores import base

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def listed(pictures: Path) -> Path:
    """Write a manifest about two of the drawn pictures, with an empty path in its third row."""
    path = pictures / "list.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("file", "thing", "split"), ("a.png", "circle", "train"), ("more/d.bmp", "square", "test")])
        writer.writerow(("", "circle", "train"))
    return path


def rows(out: Path, kind: str = "data") -> list[dict[str, Any]]:
    return [row for path in sorted((out / kind).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def words(out: Path, *more: object) -> tuple[object, ...]:
    return ("annotate", *more, "--model", "tiny", "--output", out, "--max-failure-rate", "1")


def test_prompts_name_columns_of_a_manifest(listed: Path, tmp_path: Path, command: Command) -> None:
    out = tmp_path / "out"
    asked = ("--manifest", listed, "--uri-column", "file", "--detect", "{thing}", "--query", "Is {{it}} a {thing}?")
    status, stdout, _ = command(*words(out, *asked, "--keep-columns", "split, thing"))
    assert status == 0 and "6 requests = 4 in data/ + 2 in errors/: balances" in stdout
    assert {(row["filename"], row["prompt"], row["split"], row["thing"]) for row in rows(out)} == {
        ("a.png", "circle", "train", "circle"),
        ("a.png", "Is {it} a circle?", "train", "circle"),
        ("more/d.bmp", "square", "test", "square"),
        ("more/d.bmp", "Is {it} a square?", "test", "square"),
    }
    assert {(row["stage"], row["filename"]) for row in rows(out, "errors")} == {("list", "list.csv#4")}
    assert "ledger   0 requests" in command(*words(out, *asked, "--keep-columns", "split, thing"))[1]


def test_a_column_can_be_the_question(listed: Path, tmp_path: Path, command: Command) -> None:
    out = tmp_path / "out"
    command(*words(out, "--manifest", listed, "--uri-column", "file", "--prompt-column", "thing"))
    assert {(row["task"], row["prompt"]) for row in rows(out)} == {("query", "circle"), ("query", "square")}


def test_without_a_manifest_braces_are_plain_text(pictures: Path, tmp_path: Path, command: Command) -> None:
    command(*words(tmp_path / "out", pictures / "a.png", "--query", "What is {this} {{that}}?"))
    assert [row["prompt"] for row in rows(tmp_path / "out")] == ["What is {this} {{that}}?"]


def test_one_line_says_that_a_comma_and_a_space_do_not_separate_objects(
    pictures: Path, tmp_path: Path, command: Command
) -> None:
    status, _, stderr = command(*words(tmp_path / "out", pictures / "a.png", "--point", "circle, square"))
    assert status == 0 and "for several objects give --point 'circle' --point 'square'\n" in stderr
    assert [row["prompt"] for row in rows(tmp_path / "out")] == ["circle, square"]


def test_kept_columns_with_names_of_the_rows_get_names_of_their_own(
    pictures: Path, tmp_path: Path, command: Command
) -> None:
    given = {"URL": "a.png", "WIDTH": 1000, "id": "x7", "text": "one", "TEXT": "two"}
    path, out = pictures / "list.parquet", tmp_path / "out"
    pq.write_table(pa.Table.from_pylist([given]), path)
    asked = ("--manifest", path, "--uri-column", "URL", "--caption", "short")
    status, _, stderr = command(*words(out, *asked, "--keep-columns", "WIDTH, id=sku, text, TEXT"))
    (row,) = rows(out)
    assert status == 0 and row["width"] != 1000 and len(row["id"]) == 64
    assert {name: row[name] for name in ("manifest_WIDTH", "sku", "text", "manifest_TEXT")} == {
        "manifest_WIDTH": 1000,
        "sku": "x7",
        "text": "one",
        "manifest_TEXT": "two",
    }
    assert "column WIDTH is kept as manifest_WIDTH" in stderr and "give WIDTH=NAME" in stderr
    assert len({name.casefold() for name in row}) == len(row)
    query = f"SELECT count(*) FROM '{out}/data/*.parquet' WHERE WIDTH < 1000 AND manifest_width = 1000"
    assert duckdb.sql(query).fetchall() == [(1,)]


def test_a_widened_column_is_named_at_the_start_and_a_later_run_fits_into_it(
    pictures: Path, tmp_path: Path, command: Command
) -> None:
    for name, scores in (("one", [1]), ("two", [0.97]), ("three", [3])):
        pq.write_table(pa.table({"url": [f"{name}.png"], "score": scores}), pictures / f"{name}.parquet")
    out, rest = tmp_path / "out", ("--caption", "short", "--keep-columns", "score")
    both = ("--manifest", pictures / "one.parquet", "--manifest", pictures / "two.parquet")
    status, _, stderr = command(*words(out, *both, *rest))
    assert status == 0 and "column score: int64 in " in stderr and "stored as double" in stderr
    status, stdout, stderr = command(*words(out, "--manifest", pictures / "three.parquet", *rest))
    assert status == 0 and "1 request = " in stdout and "score" not in stderr


def test_pictures_and_a_manifest_can_be_combined(listed: Path, tmp_path: Path, command: Command) -> None:
    given = (listed.parent / "c.webp", "--manifest", listed, "--uri-column", "file", "--caption", "short")
    command(*words(tmp_path / "out", *given, "--keep-columns", "split"))
    assert {(row["filename"], row["split"]) for row in rows(tmp_path / "out")} == {
        ("c.webp", None),
        ("a.png", "train"),
        ("more/d.bmp", "test"),
    }


def test_each_row_of_a_manifest_is_a_row_and_the_summary_leads_from_one_to_the_other(
    listed: Path, tmp_path: Path, command: Command
) -> None:
    with listed.open("w", newline="") as file:
        pictures = ("a.png", "./a.png", str(listed.parent / "a.png"), f"file://{listed.parent}/a.png", "more/d.bmp")
        csv.writer(file).writerows(
            [("file", "n"), *((name, n) for name in pictures for n in range(2)), ("gone.png", 0)]
        )
    given = words(tmp_path / "out", "--manifest", listed, "--uri-column", "file", "--caption", "--keep-columns", "n")
    lines = command(*given)[1].splitlines()
    assert lines[0] == "input    11 rows of manifests"
    assert lines[1] == "ledger   3 requests for 11 rows = 10 in data/ + 1 in errors/: balances"
    assert lines[2].startswith("errors   1 in errors/ and 10 in data/ in all")
    found = [(row["filename"], row["n"], row["uri"]) for row in rows(tmp_path / "out")]
    place = str(listed.parent / "a.png")
    assert sorted(found)[:8] == sorted(("a.png", str(n), place) for n in (0, 1) for _ in range(4))
    again = command(*given)[1].splitlines()
    assert again[:2] == ["input    11 rows of manifests", "ledger   0 requests = 0 in data/ + 0 in errors/: balances"]
    assert again[2].startswith("errors   1 in errors/ and 10 in data/ in all, 1 of the errors from earlier runs;")
    assert "done     11 more rows are there from earlier runs, in data/ or errors/" in again
    assert "11 of 11 rows (100 %)" in command("status", tmp_path / "out")[1]


def test_a_limit_is_of_pictures_and_the_first_line_says_what_it_leaves_out(
    listed: Path, tmp_path: Path, command: Command
) -> None:
    listed.write_text(
        "file,n\n" + "".join(f"{name},{n}\n" for name in ("a.png", "c.webp", "gone.png") for n in range(3))
    )
    given = words(tmp_path / "out", "--manifest", listed, "--uri-column", "file", "--caption", "--keep-columns", "n")
    first, second = command(*given, "--limit", "1")[1].splitlines()[:2]
    assert first.startswith(
        "input    9 rows of manifests; left out: 6 x pictures or rows of manifests beyond --limit 1"
    )
    assert second.startswith("ledger   1 request for 3 rows = ")


def test_names_without_extension_are_found_in_the_root(listed: Path, tmp_path: Path, command: Command) -> None:
    ids = tmp_path / "lists" / "train.csv"
    ids.parent.mkdir()
    ids.write_text("id,label\na,1\nmore/d,2\nnone,3\n")
    asked = ("--manifest", ids, "--uri-column", "id", "--root", listed.parent, "--caption", "--keep-columns", "label")
    assert "3 requests = 2 in data/ + 1 in errors/" in command(*words(tmp_path / "out", *asked))[1]
    assert {(row["filename"], row["label"]) for row in rows(tmp_path / "out")} == {("a.png", "1"), ("more/d.bmp", "2")}
    (missing,) = rows(tmp_path / "out", "errors")
    assert missing["filename"] == "none" and f"no picture in {listed.parent} is named none.*" in missing["message"]


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (("--manifest", "{list}", "--uri-column", "file", "--query", "{what}?"), "no column 'what'"),
        (("--manifest", "{list}", "--uri-column", "file", "--keep-columns", "what"), "no column 'what'"),
        (
            ("--manifest", "{list}"),
            "no column 'url'; it has 'file', 'thing', 'split': name its column of paths or URLs with --uri-column",
        ),
        (
            ("--manifest", "{list}", "--uri-column", "file", "--keep-columns", "split,thing, split"),
            "--keep-columns names split twice",
        ),
        (("--manifest", "{list}", "--uri-column", "file", "--keep-columns", "split=Width"), "a column width"),
        (("--manifest", "{list}", "--uri-column", "file", "--keep-columns", "split=a,thing=A"), "thing can't be kept"),
        (("--manifest", "{list}", "--uri-column", "file", "--keep-columns", "split="), "SOURCE=NAME to rename it"),
        (("--manifest", "{list}", "--uri-column", "file", "--query", "{"), "write {{ and }}"),
        (
            ("--manifest", "{list}", "--uri-column", "file", "--query", '{{thing}} as {"b"}?'),
            "'thing', 'split': correct the prompt, and write {{ and }} for braces",
        ),
        (("--manifest", "{folder}/none.csv"), "no such file"),
        (("--manifest", "{folder}\\list.csv"), "no such file; backslashes separate folders only on Windows"),
        (
            ("www.pictures.example/a.jpg",),
            "an address on the web needs its scheme: write https://www.",
        ),
        (("C:\\photos",), "this is a path on a Windows machine"),
        (("--manifest", "{folder}/a.png"), "none of .csv"),
        (("{folder}/a.png", "--keep-columns", "split"), "column split: no picture has a .json file beside it"),
        (("{folder}/a.png", "--prompt-column", "thing"), "column thing: no picture has a .json file beside it"),
        (("{folder}/a.png", "--manifest", "{list}", "--uri-column", "file", "--query", "{thing}?"), "manifests only"),
        (("{folder}/a.png", "--image-column", "image"), "--image-column needs a --manifest"),
        (("{folder}/a.png", "--root", "{folder}"), "--root needs a --manifest"),
        (("--manifest", "{list}", "--uri-column", "file", "--root", "{folder}/none"), "none: no such folder"),
        (("--manifest", "{list}", "--image-column", "file", "--root", "{folder}"), "leave out --root"),
        (("--manifest", "{list}", "--uri-column", "file", "--image-column", "file"), "give one of the two"),
        (("--manifest", "{list}", "--image-column", "file"), "no Parquet or Arrow file"),
        (("{list}",), "this is a table; give it as --manifest"),
        (("ftp://h/a.jpg",), "ftp:// is not supported"),
        (("https://me:hunter2@h/a.jpg",), "password"),
        ((), "no input"),
    ],
)
def test_bad_inputs_are_one_line_of_error_before_any_work(
    listed: Path, tmp_path: Path, command: Command, given: tuple[str, ...], complaint: str
) -> None:
    places = {"{list}": str(listed), "{folder}": str(listed.parent)}
    filled = [word if "{" not in word else _placed(word, places) for word in given]
    status, stdout, stderr = command(*words(tmp_path / "out", *filled))
    assert status == 2 and stdout == "" and complaint in stderr and stderr.count("\n") == 1
    assert "hunter2" not in stderr and not (tmp_path / "out").exists()


def test_a_missing_client_of_a_later_row_stops_the_run_and_names_the_package(
    listed: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(base.CLIENTS, "az", ("azure", "no_such_module", "moondream-beam[azure]"))
    there = listed.read_text()
    listed.write_text(there + "az://container/e.png,circle,train\n")
    given = words(tmp_path / "out", "--manifest", listed, "--uri-column", "file", "--caption", "short")
    status, _, stderr = command(*given)
    assert status == 1 and "Traceback" not in stderr
    (line,) = [line for line in stderr.splitlines() if "stopped" in line]
    assert "az:// needs no_such_module: pip install 'moondream-beam[azure]'" in line
    listed.write_text(there)
    # The row that had failed before was kept.
    stdout = command(*given)[1]
    assert "2 requests = 2 in data/ + 0 in errors/: balances" in stdout and "done     1 more rows" in stdout
    assert len(rows(tmp_path / "out")) == 2


def _placed(word: str, places: dict[str, str]) -> str:
    for name, place in places.items():
        word = word.replace(name, place)
    return word


def test_a_bucket_without_its_client_names_the_extra(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for scheme, module, extra in (("s3", "boto3", "aws"), ("gs", "google.cloud.storage", "gcp")):
        monkeypatch.setitem(sys.modules, module, None)
        status, _, stderr = command(*words(tmp_path / "out", f"{scheme}://bucket/photos"))
        assert status == 2 and f"pip install 'moondream-beam[{extra}]'" in stderr and stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("output", "cure"),
    [
        ("az://box/out", "azfs://ACCOUNT/box/out"),
        ("https://h/out", "s3://, gs://"),
        ("s3://bucket/out", "pip install 'moondream-beam[aws]'"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_with_the_cure(
    pictures: Path, command: Command, monkeypatch: pytest.MonkeyPatch, output: str, cure: str
) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    status, _, stderr = command("annotate", pictures, "--model", "tiny", "--output", output)
    assert status == 2 and cure in stderr and stderr.count("\n") == 1


def test_private_addresses_are_refused_without_the_option(tmp_path: Path, command: Command) -> None:
    out, url = tmp_path / "out", "http://127.0.0.1:9/a.jpg"
    command(*words(out, url))
    (refused,) = rows(out, "errors")
    assert (refused["error"], refused["stage"], refused["uri"]) == ("PermissionError", "fetch", url)
    assert "--allow-private-addresses" in refused["message"]
