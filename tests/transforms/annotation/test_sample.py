"""A sample, annotated for the sake of knowing how long all would take."""

from __future__ import annotations

from types import SimpleNamespace

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from PIL import Image
from support.data.echo import Echo

from moondream_beam.models.tasks import DEFAULT_SAMPLING, Caption, Detect, Query
from moondream_beam.transforms.annotation import sample as sampling
from moondream_beam.transforms.annotation.sample import measure, read_sample, sample
from moondream_beam.transforms.core.records import ImageRef, Skipped
from moondream_beam.transforms.images.fetch import Fetcher
from moondream_beam.transforms.inputs.patterns.patterns import list_images


class Timed(Echo):
    """Takes a minute to load and two seconds for a request, by a clock that stands still otherwise."""

    now = 0.0

    def answer(self, requests):
        if not self.now:
            self.now = 60.0
        for outcome in super().answer(requests):
            self.now += 2
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


def test_the_load_of_the_model_is_not_part_of_the_time_of_the_sample(refs, monkeypatch):
    annotator = Timed()
    monkeypatch.setattr(sampling, "time", SimpleNamespace(perf_counter=lambda: annotator.now))
    readable = [ref for ref in refs if "broken" not in ref.uri]
    measured = measure(readable, [Caption(), Query("Why?")], annotator, DEFAULT_SAMPLING, Fetcher())
    assert (measured.start_seconds, measured.seconds) == (60 + 2 * 2 * sampling.NUM_WARMUP_PICTURES, 2 * 40)


def test_where_nothing_is_answered_there_is_no_backend():
    measured = measure([ImageRef("/no/such.png", "such.png")], [Caption()], Echo(), DEFAULT_SAMPLING, Fetcher())
    assert (measured.failures, measured.backend) == (1, "")


def test_nothing_can_be_measured_with_nothing():
    with pytest.raises(ValueError, match="no picture"):
        measure([], [Caption()], Echo(), DEFAULT_SAMPLING, Fetcher())
