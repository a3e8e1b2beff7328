"""Slices: a cut of the input in which each picture is once, and runs that tell theirs by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from moondream_beam.transforms.core.records import ImageRef
from moondream_beam.transforms.core.summary import Count
from moondream_beam.transforms.io.containers.location import ImageCell, Member, cell_uri
from moondream_beam.transforms.output.layout import Slice, can_run_together, run_of_file
from moondream_beam.transforms.output.lock import OutputLockedError, run_lock
from moondream_beam.transforms.planning.completed import other_runs_parts
from moondream_beam.transforms.planning.locality import in_slice
from moondream_beam.transforms.planning.plan import shard_of

REFS = [ImageRef(f"/pictures/{number}.png", f"{number}.png") for number in range(2000)]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64, 1000])
def test_each_picture_is_in_one_slice(count):
    slices = [Slice(number, count) for number in range(count)]
    for ref in REFS[:100]:
        assert sum(in_slice(part, ref) for part in slices) == 1


def test_slices_are_about_as_large_as_each_other():
    sizes = [sum(in_slice(part, ref) for ref in REFS) for part in (Slice(number, 4) for number in range(4))]
    assert sum(sizes) == 2000 and min(sizes) > 400


def test_what_is_read_as_a_stream_is_in_one_slice_wherever_it_lies_in_its_file():
    parts = [Slice(number, 7) for number in range(7)]
    places = [Member("/a.tar.gz", place, 9, f"{place}.jpg") for place in range(512, 90_000, 512)]
    cells = [ImageCell("/a.parquet", "image", row + 1, row // 300) for row in range(5000)]
    members = [ImageRef(place.uri, "", inside=place) for place in places]
    rows = [ImageRef(cell_uri(cell, "x.jpg"), "", inside=cell) for cell in cells]
    packed_anew = [
        ref._replace(inside=place._replace(offset=10**6)) for ref, place in zip(members, places, strict=True)
    ]
    grouped_anew = [ref._replace(inside=cell._replace(row_group=0)) for ref, cell in zip(rows, cells, strict=True)]
    of = {
        ref: [part.number for part in parts if in_slice(part, ref)]
        for ref in (*members, *rows, *packed_anew, *grouped_anew)
    }
    assert len({tuple(of[ref]) for ref in members}) == 1 and [of[ref] for ref in members] == [
        of[ref] for ref in packed_anew
    ]
    assert [of[ref] for ref in rows] == [of[ref] for ref in grouped_anew]
    assert {len({tuple(of[ref]) for ref in rows[start : start + 1000]}) for start in range(0, 5000, 1000)} == {1}
    assert len({tuple(of[ref]) for ref in rows}) > 1


def test_a_slice_fills_all_of_its_shards():
    mine = [ref for ref in REFS if in_slice(Slice(1, 4), ref)]
    count = Count(pictures=len(mine))
    assert {shard_of(ref.key, count, 60, 1) for ref in mine} == set(range(-(-len(mine) // 60)))


@pytest.mark.parametrize("text", ["", "1", "4/4", "5/4", "0/0", "-1/4", "1/4/2", "a/b", "1 /4", "1/4\n", "٠/٤"])
def test_what_is_no_slice_is_refused_with_the_cure(text):
    with pytest.raises(ValueError, match="give NUMBER/COUNT, from 0/16 to 15/16"):
        Slice.parse(text)


def test_a_run_tells_its_slice_by_name():
    run = Slice.parse("3/16").run("20260101T000000-abcd")
    assert Slice.from_run_name(run) == (3, 16)
    assert Slice.from_run_name("20260101T000000-abcd") is None
    assert run_of_file(f"part-{run}-00007.parquet") == run
    assert run_of_file(f"part-{run}-00007-12.parquet") == run
    assert run_of_file(f"part-{run}-00007-{'0a' * 16}.parquet") == run
    assert run_of_file("part-empty.parquet") is None


@pytest.mark.parametrize(
    "run, other, together",
    [
        ("a-0of2", "b-1of2", True),
        ("a-0of2", "b-0of2", False),
        ("a-0of2", "b-1of3", False),
        ("a-0of2", "b", False),
        ("a", "b", False),
    ],
)
def test_only_other_slices_of_the_same_cut_go_together(tmp_path, run, other, together):
    assert can_run_together(run, other) == can_run_together(other, run) == together
    with run_lock(str(tmp_path), run):
        if together:
            with run_lock(str(tmp_path), other):
                pass
        else:
            with pytest.raises(OutputLockedError, match=run), run_lock(str(tmp_path), other):
                pass


def test_who_comes_leaves_the_files_of_slices_at_work_and_removes_those_of_dead_ones(tmp_path):
    temporary = Path(tmp_path, "_temporary")
    with run_lock(str(tmp_path), "a-0of2"):
        for name in ("part-a-0of2-00000-" + 32 * "0" + ".parquet", "README.md-draft", "part-dead-1of2-00000.parquet"):
            (temporary / name).touch()
        (temporary / "a-0of2.notes").mkdir()
        (temporary / "dead-1of2.notes").mkdir()
        with run_lock(str(tmp_path), "b-1of2"):
            left = {path.name for path in temporary.iterdir() if path.suffix != ".lock"}
    assert left == {"part-a-0of2-00000-" + 32 * "0" + ".parquet", "README.md-draft", "a-0of2.notes"}
    with run_lock(str(tmp_path), "c-1of2"):
        assert [path.name for path in temporary.iterdir()] == ["c-1of2.lock"]


def test_a_slice_does_not_read_what_others_of_its_cut_wrote(tmp_path):
    (tmp_path / "data").mkdir()
    for run in ("a-0of2", "b-1of2", "c-1of3", "d"):
        (tmp_path / "data" / f"part-{run}-00000.parquet").touch()
    names = {Path(path).name for path in other_runs_parts(str(tmp_path), but_of="new-0of2")}
    assert names == {"part-a-0of2-00000.parquet", "part-c-1of3-00000.parquet", "part-d-00000.parquet"}
