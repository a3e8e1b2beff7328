"""A sample, annotated for the sake of knowing how long all would take."""

from __future__ import annotations

import time

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from PIL import Image
from support.data.echo import Echo

from moondream_beam.models.tasks import DEFAULT_SAMPLING, Caption, Detect, Query
from moondream_beam.transforms.annotation.job import AnnotateToParquet
from moondream_beam.transforms.annotation.sample import measure, read_sample, sample
from moondream_beam.transforms.core.records import ImageRef, Skipped
from moondream_beam.transforms.images.fetch import Fetcher
from moondream_beam.transforms.inputs.patterns.patterns import list_images
from moondream_beam.transforms.output.run_record import read_record


class Unhurried(Echo):
    """Takes its time for each request."""

    def answer(self, requests):
        for outcome in super().answer(requests):
            time.sleep(0.03)
            yield outcome


@pytest.fixture
def refs(tmp_path):
    """Twenty pictures and one that is none."""
    for index in range(20):
        Image.new("RGB", (8 + index, 8)).save(tmp_path / f"{index}.png")
    (tmp_path / "broken.png").write_bytes(b"no")
    return sorted(list_images(str(tmp_path)), key=lambda ref: ref.key)


def test_a_sample_are_the_first_by_key_beside_the_counts_of_all(refs, tmp_path):
    own = refs[0]._replace(tasks=(Query("One?"), Query("Two?"), Query("Three?")))
    with beam.Pipeline(FnApiRunner()) as pipeline:
        sample(pipeline | beam.Create([own, *refs[1:]]), [Caption(), Detect("dog")], 5, tmp_path)
    sampled = read_sample(tmp_path)
    assert [ref.key for ref in sampled.refs] == [ref.key for ref in refs[:5]] and sampled.refs[0].tasks == own.tasks
    assert (sampled.pictures, sampled.requests) == (21, 3 + 20 * 2)


def test_rows_that_ask_the_same_are_one_request_of_one_picture(refs, tmp_path):
    rows = [ref._replace(tasks=(Caption(), Query("Why?")), columns=((n,), (n,))) for ref in refs for n in range(5)]
    with beam.Pipeline(FnApiRunner()) as pipeline:
        sample(pipeline | beam.Create(rows), [Caption()], 3, tmp_path)
    sampled = read_sample(tmp_path)
    assert (len(sampled.refs), sampled.pictures, sampled.requests) == (3, 21, 42)
    assert measure(sampled.refs, [Caption()], Echo(), DEFAULT_SAMPLING, Fetcher()).rows == 6


def test_what_the_input_leaves_out_is_not_in_the_sample(refs, tmp_path):
    left_out = ImageRef("/photos/*.txt", "notes.txt", skipped=Skipped("files ending in .txt", 3))
    with beam.Pipeline(FnApiRunner()) as pipeline:
        sample(pipeline | beam.Create([left_out, *refs]), [Caption()], 100, tmp_path)
    sampled = read_sample(tmp_path)
    assert (len(sampled.refs), sampled.pictures, sampled.requests) == (21, 21, 21)


def test_rows_failures_and_tokens_are_counted(refs):
    measured = measure(refs, [Caption(), Query("Why?")], Echo(), DEFAULT_SAMPLING, Fetcher())
    assert (measured.pictures, measured.rows, measured.failures) == (21, 42, 2)
    assert (measured.input_tokens, measured.output_tokens) == (40 * 7, 40 * 3)
    assert measured.seconds > 0 and measured.start_seconds > 0 and measured.backend == "plain rules"


@pytest.mark.slow
def test_a_run_takes_about_as_long_as_was_estimated(tmp_path):
    for index in range(300):
        Image.new("RGB", (8 + index, 8)).save(tmp_path / f"{index}.png")
    refs = sorted(list_images(str(tmp_path)), key=lambda ref: ref.key)
    # Its time is its own, whatever else the machine does.
    annotator = Unhurried()
    measured = measure(refs[:60], [Caption()], annotator, DEFAULT_SAMPLING, Fetcher())
    estimated = len(refs) * measured.seconds / measured.pictures
    with beam.Pipeline(FnApiRunner()) as pipeline:
        _ = pipeline | beam.Create(refs) | AnnotateToParquet([Caption()], annotator, str(tmp_path / "out"), run="one")
    assert estimated == pytest.approx(read_record(str(tmp_path / "out"), "one")["wall_seconds"], rel=0.25)


def test_where_nothing_is_answered_there_is_no_backend():
    measured = measure([ImageRef("/no/such.png", "such.png")], [Caption()], Echo(), DEFAULT_SAMPLING, Fetcher())
    assert (measured.failures, measured.backend) == (1, "")


def test_nothing_can_be_measured_with_nothing():
    with pytest.raises(ValueError, match="no picture"):
        measure([], [Caption()], Echo(), DEFAULT_SAMPLING, Fetcher())
