"""Annotate as a step of anybody's own pipeline."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.transforms.window import FixedWindows, SlidingWindows, TimestampedValue
from PIL import Image
from support.data.echo import Deaf, Echo
from support.data.profiles import DISPLAY_P3
from support.running.beam_runs import collect

from moondream_beam.models.tasks import Caption, Detect, Query
from moondream_beam.transforms.annotation import annotate as module
from moondream_beam.transforms.annotation.annotate import Annotate, annotate
from moondream_beam.transforms.core.records import UNLISTED, ImageRef, Row, Skipped
from moondream_beam.transforms.inputs.images import ReadImages
from moondream_beam.transforms.inputs.patterns.patterns import list_images

TASKS = (Caption(), Detect("dog"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven pictures, and one that is none."""
    root = tmp_path / "photos"
    root.mkdir()
    for width in range(1, 8):
        Image.new("RGB", (width, 2), (width, 0, 0)).save(root / f"{width}.png")
    (root / "8.png").write_text("<html>")
    return root


def said(rows: list[Row]) -> list[tuple[object, ...]]:
    return sorted((row.id, row.filename, row.task, getattr(row, "caption", None)) for row in rows)


def test_the_rows_are_those_of_the_plain_generator(photos: Path) -> None:
    annotations, failures = collect(
        lambda pipeline: tuple(pipeline | ReadImages(str(photos)) | Annotate(TASKS, Echo()))
    )
    assert (len(annotations), len(failures)) == (14, 2)
    assert said(annotations + failures) == said(list(annotate(list_images(str(photos)), TASKS, Echo())))


def test_the_colours_are_converted_on_request(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    Image.new("RGB", (8, 8), (200, 60, 40)).save(file, icc_profile=DISPLAY_P3)
    for choice, colour in (("ignore", "(200, 60, 40)"), ("srgb", "(217, 42, 23)")):
        step = Annotate(TASKS[:1], Echo(), colour_profiles=choice)
        (row,), _ = collect(lambda pipeline, step=step: tuple(pipeline | ReadImages(str(file)) | step))
        (same,) = annotate([ImageRef(str(file), "a.png")], TASKS[:1], Echo(), colour_profiles=choice)
        assert row.caption == same.caption == f"8 x 8, {colour}"
        assert row.id == same.id
    with pytest.raises(ValueError, match="colour profiles 'p3': give ignore or srgb"):
        Annotate(TASKS, Echo(), colour_profiles="p3")
    with pytest.raises(ValueError, match="colour profiles 'p3': give ignore or srgb"):
        list(annotate([], TASKS, Echo(), colour_profiles="p3"))


def test_what_the_input_leaves_out_makes_no_row(photos: Path) -> None:
    left_out = ImageRef(f"{photos}/*.txt", "notes.txt", skipped=Skipped("files ending in .txt", 3))
    shut = ImageRef(f"{photos}/shut", "shut", skipped=Skipped(f"{UNLISTED} (Permission denied)"))
    refs = [left_out, *list_images(str(photos)), shut]
    annotations, failures = collect(lambda pipeline: pipeline | beam.Create(refs) | Annotate(TASKS, Echo()))
    assert (len(annotations), len(failures)) == (14, 4)
    # No plan counts it here, so it is a failure.
    assert [row.stage for row in failures if row.filename == "shut" and "Permission denied" in row.message] == [
        "list"
    ] * 2


def test_more_references_than_are_gathered_at_once_all_come_through(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_GATHERED_REFS", 3)
    refs = [
        ref._replace(uri=f"{photos}/./{copy}/../{ref.filename}") for ref in list_images(str(photos)) for copy in "12"
    ]
    for copy in "12":
        (photos / copy).mkdir()
    annotations, failures = collect(lambda pipeline: pipeline | beam.Create(refs) | Annotate(TASKS, Echo()))
    assert (len(annotations), len(failures)) == (28, 4)
    assert len({row.id for row in annotations + failures}) == 32


class Note(beam.DoFn):
    """A row's name with the time and the window that it has."""

    def process(self, row, timestamp=beam.DoFn.TimestampParam, window=beam.DoFn.WindowParam):  # noqa: ANN001, ANN201
        yield row.filename, int(timestamp), int(window.start)


def times(photos: Path, names: list[tuple[str, int]], windows: beam.WindowInto) -> Counter:
    refs = [TimestampedValue(ImageRef(str(photos / name), name), when) for name, when in names]

    def build(pipeline: beam.Pipeline) -> tuple[beam.PCollection, ...]:
        stamped = pipeline | beam.Create(refs) | beam.Map(lambda stamped: stamped) | windows
        rows = stamped | Annotate([Caption()], Echo())
        return rows.annotations | "Note rows" >> beam.ParDo(Note()), rows.failures | "Note none" >> beam.ParDo(Note())

    annotations, failures = collect(build)
    return Counter(annotations + failures)


@pytest.mark.parametrize("at_once", [2, 256])
def test_rows_keep_the_time_and_the_window_of_their_reference(
    photos: Path, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_GATHERED_REFS", at_once)
    names = [("1.png", 3), ("2.png", 17), ("8.png", 18), ("3.png", 25), ("1.png", 26), ("1.png", 26)]
    noted = times(photos, names, beam.WindowInto(FixedWindows(10)))
    # A picture that comes at several times has rows at each of them.
    assert noted == Counter((name, when, when // 10 * 10) for name, when in names)


def test_a_reference_in_several_windows_has_rows_in_each(photos: Path) -> None:
    noted = times(photos, [("1.png", 12), ("8.png", 14)], beam.WindowInto(SlidingWindows(10, 5)))
    assert noted == Counter([("1.png", 12, 5), ("1.png", 12, 10), ("8.png", 14, 5), ("8.png", 14, 10)])


def test_rows_can_be_grouped_downstream_whatever_the_names(photos: Path) -> None:
    (photos / "1.png").rename(Path(str(photos), b"caf\xe9.png".decode(errors="surrogateescape")))
    grouped = collect(
        lambda pipeline: (
            (pipeline | ReadImages(str(photos)) | Annotate(TASKS, Echo())).annotations
            | beam.GroupBy(lambda row: row.task)
            | beam.MapTuple(lambda task, rows: (task, len(list(rows))))
        )
    )
    assert sorted(grouped) == [("caption", 7), ("detect", 7)]


@pytest.mark.parametrize(("tasks", "message"), [((), "no task"), ((Query(),), "echo can't be asked to query")])
def test_bad_arguments_are_refused_when_the_pipeline_is_built(tasks: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Annotate(tasks, Deaf())
