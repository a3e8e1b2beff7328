"""Every row of a manifest becomes a reference, or a reference with a problem."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.data.echo import Echo
from support.running.beam_runs import collect
from support.servers.object_stores import Bucket

from moondream_beam.models.tasks import Caption, Query, Task
from moondream_beam.transforms.annotation.job import AnnotateToParquet
from moondream_beam.transforms.core.records import ImageRef
from moondream_beam.transforms.inputs.lists.table_files import list_manifests
from moondream_beam.transforms.inputs.manifest import ReadManifests, read_manifest
from moondream_beam.transforms.inputs.manifest_columns import Columns, check_columns

SPLIT = pa.field("split", pa.string())


def manifest(folder: Path, *rows: dict[str, Any], name: str = "urls.jsonl") -> str:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / name)


def references(path: str, *tasks: Task, **options: Any) -> list[ImageRef]:
    return list(read_manifest(path, Columns("url", tasks=tasks, **options)))


def test_a_row_becomes_a_reference(tmp_path: Path) -> None:
    path = manifest(tmp_path, {"url": "https://h/x/a%20b.jpg?s=1"}, {"url": "s3://b/c.jpg"}, {"url": "/d/e.jpg"})
    assert references(path) == [
        ImageRef("https://h/x/a%20b.jpg?s=1", "a b.jpg"),
        ImageRef("s3://b/c.jpg", "c.jpg"),
        ImageRef("/d/e.jpg", "e.jpg"),
    ]


def test_a_relative_path_is_relative_to_the_manifest(tmp_path: Path) -> None:
    (ref,) = references(manifest(tmp_path, {"url": "train/./a.jpg"}))
    assert ref == ImageRef(f"{tmp_path}/train/a.jpg", "train/a.jpg")


@pytest.mark.parametrize("name", ["e[1].jpg", "all*.jpg", "what?.jpg"])
def test_an_existing_name_with_wildcards_matches_itself(tmp_path: Path, name: str) -> None:
    (ref,) = references(manifest(tmp_path, {"url": name}))
    assert ref.uri == f"{tmp_path}/{name}"


def test_the_file_name_may_come_from_a_column(tmp_path: Path) -> None:
    path = manifest(tmp_path, {"url": "a.jpg", "id": 17}, {"url": "b.jpg"})
    named, unnamed = references(path, filename="id")
    assert named.filename == "17" and "column id is empty" in unnamed.problem


def test_prompts_are_filled_in_row_by_row(tmp_path: Path) -> None:
    path = manifest(tmp_path, {"url": "a.jpg", "what": "shoe"}, {"url": "b.jpg", "what": "hat"})
    refs = references(path, Caption(), Query("Is {what} there?"))
    assert [ref.tasks for ref in refs] == [(Caption(), Query(f"Is {what} there?")) for what in ("shoe", "hat")]


def test_without_columns_in_prompts_references_carry_no_tasks(tmp_path: Path) -> None:
    (ref,) = references(manifest(tmp_path, {"url": "a.jpg"}), Query("What is {{this}}?"))
    assert ref.tasks == ()


def test_kept_columns_are_repeated_for_each_task(tmp_path: Path) -> None:
    path = manifest(tmp_path, {"url": "a.jpg", "split": "train"}, {"url": "b.jpg"})
    refs = references(path, Caption(), Query("Why?"), kept=(SPLIT,))
    assert [ref.columns for ref in refs] == [(("train",), ("train",)), ((None,), (None,))]


@pytest.mark.parametrize(
    ("row", "uri", "prompt", "why"),
    [
        ({"url": "", "what": "hat"}, "", "hat?", "column url is empty"),
        ({"url": None, "what": "hat"}, "", "hat?", "column url is empty"),
        ({"what": "hat"}, "", "hat?", "column url is empty"),
        ({"url": 3, "what": "hat"}, "", "hat?", "no text"),
        ({"url": "ftp://h/a.jpg", "what": "hat"}, "ftp://h/a.jpg", "hat?", "ftp://"),
        ({"url": "http://", "what": "hat"}, "http://", "hat?", "no host"),
        ({"url": "https://me:hunter2@h/a.jpg", "what": "hat"}, "https://h/a.jpg", "hat?", "password"),
        ({"url": "www.h.com/a.jpg?token=hunter2"}, "www.h.com/a.jpg?token=sha256:f52fbd32b2b3b86f", "?", "scheme"),
        ({"url": "\ud800.jpg", "what": "hat"}, "\ud800.jpg", "hat?", "surrogate"),
        ({"url": "b/a.jpg", "n": "x", "what": "hat"}, "FOLDER/b/a.jpg", "hat?", "column n"),
        ({"url": "b/a.jpg", "n": 1, "what": " "}, "FOLDER/b/a.jpg", " ?", "column what is empty"),
    ],
)
def test_a_row_that_fails_has_its_own_address_and_prompt_and_a_message_with_file_and_line(
    tmp_path: Path, row: dict[str, Any], uri: str, prompt: str, why: str
) -> None:
    path = manifest(tmp_path, {"url": "a.jpg", "n": 1, "what": "shoe"}, row)
    good, bad = references(path, Query("{what}?"), kept=(pa.field("n", pa.int64()),))
    assert not good.problem and not good.problems
    assert bad.uri == (uri.replace("FOLDER", str(tmp_path)) or f"{path}#2")
    (problem,) = bad.problems
    assert problem is not None and problem.prompt == prompt
    assert problem.message.startswith("urls.jsonl#2: ") and why in problem.message
    assert "hunter2" not in str(bad)


def test_an_empty_question_takes_only_its_own_task(tmp_path: Path) -> None:
    path = manifest(tmp_path, {"url": "a.jpg", "what": ""})
    (ref,) = references(path, Caption(), Query("{what}"), Query("Is {what} red?"))
    caption, *questions = ref.rows(())
    assert caption.task == Caption() and caption.problem is None and not ref.has_nothing_to_ask
    assert [row.problem and row.problem.prompt for row in questions] == ["", "Is  red?"]


def test_a_row_that_can_not_be_read_has_the_prompt_of_all_rows_and_no_kept_values(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("url,what,split\na.jpg,hat,x,y\n")
    (ref,) = references(f"{tmp_path}/a.csv", Query("{what}?"), kept=(SPLIT,))
    (row,) = ref.rows(())
    assert (ref.uri, row.columns) == (f"{tmp_path}/a.csv#2", (None,)) and ref.has_nothing_to_ask
    assert row.problem is not None and row.problem.prompt == "{what}?"


def test_a_pipeline_reads_many_manifests_each_once(tmp_path: Path) -> None:
    for index in range(3):
        manifest(tmp_path, {"url": f"{index}.jpg"}, name=f"part-{index}.jsonl")
    patterns = [f"{tmp_path}/part-*.jsonl", f"{tmp_path}/part-1.jsonl"]
    refs = collect(lambda pipeline: pipeline | ReadManifests(patterns, Columns("url")))
    assert sorted(ref.filename for ref in refs) == ["0.jpg", "1.jpg", "2.jpg"]


@pytest.mark.parametrize("kind", ["s3", "gs", "az"])
def test_manifests_are_read_from_buckets(kind: str, bucket_of: Callable[[str], Bucket]) -> None:
    bucket = bucket_of(kind)
    bucket.put("lists/a.csv", b"url,n\nx.jpg,1\n")
    table = pa.BufferOutputStream()
    pq.write_table(pa.table({"url": ["y.jpg"]}), table)
    bucket.put("lists/b.parquet", table.getvalue().to_pybytes())
    bucket.put("more/c.csv", b"url,n\nz.jpg,1\n")
    bucket.put("more/notes.txt", b"no manifest")
    assert list(list_manifests(f"{bucket.root}/more")) == [f"{bucket.root}/more/c.csv"]
    paths = list(list_manifests(f"{bucket.root}/lists/*"))
    assert paths == [f"{bucket.root}/lists/a.csv", f"{bucket.root}/lists/b.parquet"]
    refs = [ref for path in paths for ref in references(path)]
    assert [ref.uri for ref in refs] == [f"{bucket.root}/lists/x.jpg", f"{bucket.root}/lists/y.jpg"]


def test_an_unknown_column_and_a_missing_manifest_are_refused_before_any_work(tmp_path: Path) -> None:
    path = manifest(tmp_path, {"url": "a.jpg", "split": "x"})
    for columns, keep, name in (
        (Columns("uri"), [], "uri"),
        (Columns("url", "name"), [], "name"),
        (Columns("url", tasks=(Query("{what}?"),)), [], "what"),
        (Columns("url"), ["splat"], "splat"),
    ):
        with pytest.raises(ValueError, match=f"no column '{name}'; it has 'url', 'split'"):
            check_columns([path], columns, keep)
    with pytest.raises(ValueError, match="no such file"):
        check_columns([f"{tmp_path}/none*.csv"], Columns("url"), [])


def test_kept_columns_have_their_type_in_parquet(tmp_path: Path) -> None:
    table = pa.table({"url": ["a"], "n": pa.array([1], pa.int16()), "d": pa.array(["x"]).dictionary_encode()})
    pq.write_table(table, tmp_path / "a.parquet")
    columns = check_columns([f"{tmp_path}/a.parquet"], Columns("url"), ["n", "d"])
    assert columns.kept == (pa.field("n", pa.int16()), pa.field("d", pa.string()))


def rows(out: Path, kind: str = "data") -> list[dict[str, Any]]:
    return [row for path in sorted((out / kind).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def annotate(path: str, out: Path, columns: Columns, keep: list[str]) -> dict[str, Any]:
    columns = check_columns([path], columns, keep)
    job = AnnotateToParquet(columns.tasks, Echo(), str(out), columns=columns.kept)
    (record,) = collect(lambda pipeline: pipeline | ReadManifests([path], columns) | job)
    return record


ERROR_COLUMNS = ("uri", "filename", "stage", "prompt", "truth")


def test_the_whole_job_fills_prompts_by_row_and_keeps_columns(tmp_path: Path) -> None:
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    questions = [("Why?", "because"), ("Who?", "me"), ("", "nobody"), ("Why?", "because")]
    listed = [{"url": "a.png", "question": question, "truth": truth} for question, truth in questions]
    path = manifest(tmp_path, *listed, {"url": "gone.png", "question": "Where?", "truth": "here"})
    columns = Columns("url", tasks=(Query("{question}"),))
    record = annotate(path, tmp_path / "out", columns, ["truth"])
    assert record["balanced"] and record["counts"]["pending"] == 5 and record["requests"] == 4
    assert {(row["prompt"], row["caption"], row["truth"]) for row in rows(tmp_path / "out")} == {
        ("Why?", "Why?", "because"),
        ("Who?", "Who?", "me"),
    }
    told = {tuple(row[name] for name in ERROR_COLUMNS) for row in rows(tmp_path / "out", "errors")}
    folder = str(tmp_path)
    assert told == {
        (f"{folder}/a.png", "a.png", "list", "", "nobody"),
        (f"{folder}/gone.png", "gone.png", "fetch", "Where?", "here"),
    }
    again = annotate(path, tmp_path / "out", columns, ["truth"])
    assert again["counts"]["pending"] == 0 and again["counts"]["done"] == 5


def test_a_manifest_whose_header_is_broken_is_one_row_with_a_problem(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("url,url\na.png,b.png\n")
    (ref,) = references(f"{tmp_path}/a.csv")
    assert ref.uri == f"{tmp_path}/a.csv" and "must name its columns, each once" in ref.problem


def test_captions_with_quotes_in_tab_separated_text_reach_the_result_unchanged(tmp_path: Path) -> None:
    captions = ['"open', "b", 'c"', '"d" e']
    for number in range(4):
        Image.new("RGB", (4, 3), (number, 0, 0)).save(tmp_path / f"{number}.png")
    lines = [f"{caption}\t{number}.png\n" for number, caption in enumerate(captions)]
    (tmp_path / "a.tsv").write_text("truth\turl\n" + "".join(lines))
    columns = Columns("url", tasks=(Query("Is it {truth}?"),))
    record = annotate(f"{tmp_path}/a.tsv", tmp_path / "out", columns, ["truth"])
    assert record["balanced"] and record["counts"]["pending"] == 4
    told = {(row["filename"], row["prompt"], row["truth"]) for row in rows(tmp_path / "out")}
    assert told == {(f"{number}.png", f"Is it {text}?", text) for number, text in enumerate(captions)}


def test_an_output_with_other_kept_columns_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    path = manifest(tmp_path, {"url": "a.png", "split": "x"})
    annotate(path, tmp_path / "out", Columns("url", tasks=(Caption(),)), ["split"])
    with pytest.raises(ValueError, match="the kept columns split"):
        annotate(path, tmp_path / "out", Columns("url", tasks=(Caption(),)), [])
    other = manifest(tmp_path, {"url": "a.png", "split": 3}, name="numbers.jsonl")
    with pytest.raises(ValueError, match=r"the kept columns split \(string\)\. .* of the same types"):
        annotate(other, tmp_path / "out", Columns("url", tasks=(Caption(),)), ["split"])


def test_an_output_without_a_column_of_this_version_is_refused_by_its_name(tmp_path: Path) -> None:
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    path = manifest(tmp_path, {"url": "a.png"})
    annotate(path, tmp_path / "out", Columns("url", tasks=(Caption(),)), [])
    (file,) = (tmp_path / "out" / "data").iterdir()
    pq.write_table(pq.read_table(file).drop_columns(["reasoning"]), file)
    with pytest.raises(ValueError, match="out: its rows lack the column reasoning, .* Choose another output"):
        annotate(path, tmp_path / "out", Columns("url", tasks=(Caption(),)), [])


def test_a_second_run_accepts_the_same_kept_columns_of_every_type(tmp_path: Path) -> None:
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    moment = datetime(2026, 1, 2, 3, 4, 5, 678)
    kept: dict[str, tuple[Any, pa.DataType]] = {
        "list": ([1, 2], pa.list_(pa.int8())),
        "struct": ({"a": [{"b": "x"}]}, pa.struct({"a": pa.list_(pa.struct({"b": pa.string()}))})),
        "moment": (moment, pa.timestamp("us", "Europe/Paris")),
        "second": (moment, pa.timestamp("s")),
        "large": ("x", pa.large_string()),
        "map": ([("k", 1)], pa.map_(pa.string(), pa.int32())),
        "tiny": (3, pa.uint8()),
        "none": (None, pa.null()),
        "day": (moment.date(), pa.date32()),
        "money": (Decimal("1.20"), pa.decimal128(5, 2)),
    }
    table = {"url": ["a.png"], **{name: pa.array([value], kind) for name, (value, kind) in kept.items()}}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    columns = Columns("url", tasks=(Caption(),))
    for done in (0, 1):
        record = annotate(f"{tmp_path}/a.parquet", tmp_path / "out", columns, list(kept))
        assert record["balanced"] and record["counts"]["done"] == done


def test_file_names_that_are_not_utf8_are_read(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    Image.new("RGB", (4, 3)).save(tmp_path / "x.png")
    (tmp_path / "x.png").rename(tmp_path / name)
    (tmp_path / "a.csv").write_bytes(b"url\ncaf\xe9.png\n")
    record = annotate(f"{tmp_path}/a.csv", tmp_path / "out", Columns("url", tasks=(Caption(),)), [])
    assert record["balanced"] and len(rows(tmp_path / "out")) == 1
