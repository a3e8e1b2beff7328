"""File names of an output and names of runs are parsed back, and each image is in one slice."""

from __future__ import annotations

import contextlib
import os
import time
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from moondream_beam.transforms.core.records import ImageRef
from moondream_beam.transforms.core.summary import Count
from moondream_beam.transforms.io.containers.location import ImageCell, Member, cell_uri
from moondream_beam.transforms.output import layout
from moondream_beam.transforms.output.files import open_atomic
from moondream_beam.transforms.output.layout import Slice, can_run_together
from moondream_beam.transforms.output.locks import lock
from moondream_beam.transforms.output.locks.lock import OutputLockedError, run_lock
from moondream_beam.transforms.planning.completed import other_runs_parts
from moondream_beam.transforms.planning.locality import in_slice
from moondream_beam.transforms.planning.plan import shard_of

REFS = [ImageRef(f"/pictures/{number}.png", f"{number}.png") for number in range(2000)]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64, 1000])
def test_each_image_is_in_one_slice(count):
    slices = [Slice(number, count) for number in range(count)]
    for ref in REFS[:100]:
        assert sum(in_slice(part, ref) for part in slices) == 1


def test_slices_have_about_the_same_size():
    sizes = [sum(in_slice(part, ref) for ref in REFS) for part in (Slice(number, 4) for number in range(4))]
    assert sum(sizes) == 2000 and min(sizes) > 400


def test_images_of_a_compressed_archive_or_of_a_thousand_parquet_rows_are_in_one_slice():
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


def test_a_slice_fills_all_its_shards():
    mine = [ref for ref in REFS if in_slice(Slice(1, 4), ref)]
    count = Count(pictures=len(mine))
    assert {shard_of(ref.key, count, 60, 1) for ref in mine} == set(range(-(-len(mine) // 60)))


@pytest.mark.parametrize("text", ["", "1", "4/4", "5/4", "0/0", "-1/4", "1/4/2", "a/b", "1 /4", "1/4\n", "٠/٤"])
def test_a_malformed_slice_is_refused_with_the_right_form(text):
    with pytest.raises(ValueError, match="give NUMBER/COUNT, from 0/16 to 15/16"):
        Slice.parse(text)


def test_the_slice_is_in_the_name_of_a_run():
    run = Slice.parse("3/16").run_name("20260101T000000-abcd")
    assert run == "20260101T000000-abcd-3of16"
    assert Slice.from_run_name(run) == (3, 16)
    assert Slice.from_run_name("20260101T000000-abcd") is None


# Names of runs that contain what separates the parts of file names.
RUNS = ["one", "20260101T000000-abcd-3of16", "one.x", "one-00000", "one.draft-2", "part-one-00000", "one.lock"]


@pytest.mark.parametrize("run", RUNS)
def test_a_part_names_its_run(run):
    assert layout.part_name(run, 7) == f"part-{run}-00007.parquet"
    assert layout.part_name(run, 7, 12) == f"part-{run}-00007-12.parquet"
    for shard, number in ((7, 0), (7, 12), (123456, 0)):
        name = layout.part_name(run, shard, number)
        assert layout.run_of_part(name) == run
        assert fnmatchcase(name, layout.run_parts(run)) and fnmatchcase(name, layout.ALL_PARTS)
        assert any(fnmatchcase(name, pattern) for pattern in layout.shard_parts(run, shard))
        assert not any(fnmatchcase(name, pattern) for pattern in layout.shard_parts(run, 1234567))


def test_names_of_runs_within_a_second_are_in_the_order_of_their_beginnings():
    names = []
    for _ in range(50):
        names.append(layout.new_run_name())
        time.sleep(0.0005)
    assert names == sorted(set(names)), "the latest run of two within a second was not the one with the later name"


@pytest.mark.parametrize("run", RUNS)
def test_every_temporary_file_of_a_run_names_its_run(run):
    numbered = f"{layout.content_keys_prefix('out', run)}3"
    unique = "0a" * 16
    paths = [
        layout.lock_path("out", run),
        layout.progress_folder("out", run),
        layout.plan_path("out", run),
        layout.stop_path("out", run),
        numbered,
        layout.unpublished_part_path("out", run, 7),
        layout.commit_path("out", run, 7),
        layout.draft_path("out", run),
        f"{layout.payment_drafts_prefix('out', run)}{unique}.json.draft",
        # The drafts of files that are created exclusively.
        f"{numbered}-{unique}",
        f"{layout.plan_path('out', run)}-{unique}",
        f"{layout.stop_path('out', run)}-{unique}",
        f"{layout.commit_path('out', run, 7)}-{unique}",
    ]
    for folder, name in map(os.path.split, paths):
        assert folder == layout.temporary_folder("out")
        assert layout.run_of_temporary_file(name) == run, name
        assert layout.run_of_part(name) is None and layout.draft_time(name) is None
    assert layout.run_of_lock(f"{run}.lock") == run


def test_a_draft_of_a_command_without_a_run_names_its_time():
    before = int(time.time())
    name = os.path.basename(layout.draft_path("out"))
    assert before <= layout.draft_time(name) <= before + 60
    assert layout.run_of_temporary_file(name) is None


@pytest.mark.parametrize("name", ["part-empty.parquet", "README.md", "part-one-00007 (copy).parquet", "x.parquet"])
def test_other_names_are_of_no_run(name):
    assert layout.run_of_part(name) is None and layout.run_of_temporary_file(name) is None


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
def test_only_other_slices_of_the_same_count_run_together(tmp_path, run, other, together):
    assert can_run_together(run, other) == can_run_together(other, run) == together
    with run_lock(str(tmp_path), run):
        if together:
            with run_lock(str(tmp_path), other):
                pass
        else:
            with pytest.raises(OutputLockedError, match=run), run_lock(str(tmp_path), other):
                pass


def test_a_slice_keeps_the_files_of_active_slices_and_deletes_those_of_dead_runs(tmp_path):
    out, temporary = str(tmp_path), tmp_path / "_temporary"
    old = "draft-1000000000-" + 32 * "0"
    with run_lock(out, "a-0of2"):
        kept = [
            layout.unpublished_part_path(out, "a-0of2", 0),
            layout.draft_path(out, "a-0of2"),
            layout.draft_path(out),
        ]
        dead = [
            layout.unpublished_part_path(out, "dead-1of2", 0),
            layout.draft_path(out, "dead-1of2"),
            layout.commit_path(out, "dead", 3),
        ]
        for path in (*kept, *dead, temporary / old, temporary / "unknown"):
            Path(path).touch()
        for run in ("a-0of2", "dead-1of2"):
            Path(layout.progress_folder(out, run)).mkdir()
        with run_lock(out, "b-1of2"):
            left = {path.name for path in temporary.iterdir() if path.suffix != ".lock"}
    assert left == {*map(os.path.basename, kept), "a-0of2.progress", "unknown"}
    with run_lock(out, "c-1of2"):
        assert {path.name for path in temporary.iterdir()} == {"c-1of2.lock", os.path.basename(kept[2]), "unknown"}


def test_a_run_deletes_no_temporary_file_of_another_program(tmp_path):
    """Spark and Hadoop write to a folder of this name before they commit."""
    others = [tmp_path / "_temporary" / "0" / "_temporary" / "attempt_0" / "part-00000.parquet"]
    others += [tmp_path / "_temporary" / name for name in ("notes.txt", "part-00000-abc.snappy.parquet", "draft-1")]
    for path in others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"another program")
    with run_lock(str(tmp_path), "one"):
        pass
    assert all(path.read_bytes() == b"another program" for path in others)


def test_drafts_of_earlier_versions_are_deleted_too(tmp_path):
    draft = tmp_path / "_temporary" / f"part-dead-00000-{'0a' * 16}.parquet"
    draft.parent.mkdir()
    draft.touch()
    with run_lock(str(tmp_path), "one"):
        assert not draft.exists()


@pytest.mark.parametrize("others", [(), ("a-0of2",)])
def test_a_run_that_begins_does_not_delete_the_draft_of_a_report(tmp_path, others):
    """The command `report` has no lock. Its draft was deleted, and never cleaned up while slices were active."""
    out = str(tmp_path)
    with contextlib.ExitStack() as stack:
        for other in others:
            stack.enter_context(run_lock(out, other))
        with open_atomic(f"{out}/{layout.REPORT_NAME}", layout.draft_path(out)) as page:
            page.write(b"page")
            with run_lock(out, "b-1of2"):
                assert len(list((tmp_path / "_temporary").glob("draft-*"))) == 1
        assert (tmp_path / "report.html").read_bytes() == b"page"
        (tmp_path / "_temporary").mkdir(exist_ok=True)
        dead = Path(layout.draft_path(out))
        dead.touch()
        with run_lock(out, "c-1of2"):
            assert dead.exists()
        begun = layout.draft_time(dead.name)
        dead = dead.rename(dead.with_name(dead.name.replace(str(begun), str(begun - lock.MAX_DRAFT_AGE_S - 1))))
        with run_lock(out, "d-1of2"):
            assert not dead.exists()


def test_a_slice_does_not_read_files_of_slices_that_run_together_with_it(tmp_path):
    (tmp_path / "data").mkdir()
    for run in ("a-0of2", "b-1of2", "c-1of3", "d"):
        (tmp_path / "data" / f"part-{run}-00000.parquet").touch()
    names = {Path(path).name for path in other_runs_parts(str(tmp_path), run="new-0of2")}
    assert names == {"part-a-0of2-00000.parquet", "part-c-1of3-00000.parquet", "part-d-00000.parquet"}
