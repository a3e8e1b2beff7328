"""Moondream inside Beam's own RunInference."""

from __future__ import annotations

import io

import apache_beam as beam
import pytest
from apache_beam.ml.inference.base import KeyedModelHandler, RunInference
from PIL import Image
from support.data.echo import Deaf, Echo
from support.data.profiles import DISPLAY_P3
from support.running.beam_runs import collect

from moondream_beam.models.tasks import Caption, Detect, Point, Query
from moondream_beam.transforms.annotation.model_handler import MoondreamModelHandler
from moondream_beam.transforms.core.records import Annotation, Failure

TASKS = (Caption(), Query("Why?"), Detect("dog"), Detect("dog", max_objects=1), Point("dog"))


def png(width: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, 2), "red").save(file, "PNG")
    return file.getvalue()


# Two are the same, two are broken, and those in the same way.
BATCH = [png(1), b"broken", png(2), png(1), b"", png(3), b"broken"]
CAPTIONS = ["1 x 2, (255, 0, 0)", None, "2 x 2, (255, 0, 0)", "1 x 2, (255, 0, 0)", None, "3 x 2, (255, 0, 0)", None]


def captions(results: list) -> list[str | None]:
    return [getattr(rows[0], "caption", None) for rows in results]


@pytest.mark.parametrize("annotator", [Echo(), Echo(batch_size=1), Echo(batch_size=99, in_a_thread=True)])
def test_each_input_has_its_rows_in_the_order_of_batch_and_tasks(annotator: Echo) -> None:
    handler = MoondreamModelHandler(TASKS, annotator)
    results = list(handler.run_inference(BATCH, handler.load_model()))
    assert captions(results) == CAPTIONS
    for rows in results:
        assert [(row.task, row.prompt) for row in rows] == [(task.name, task.prompt) for task in TASKS]
        assert len({row.id for row in rows}) == len(TASKS)
    assert {type(row) for row in results[0]} == {Annotation}
    assert {(type(row), row.stage) for row in results[4]} == {(Failure, "decode")}


def test_the_colours_are_converted_on_request() -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 60, 40)).save(file, "PNG", icc_profile=DISPLAY_P3)
    handlers = MoondreamModelHandler(TASKS, Echo()), MoondreamModelHandler(TASKS, Echo(), colour_profiles="srgb")
    results = [next(handler.run_inference([file.getvalue()], Echo())) for handler in handlers]
    assert captions(results) == ["8 x 8, (200, 60, 40)", "8 x 8, (217, 42, 23)"]
    assert not {row.id for row in results[0]} & {row.id for row in results[1]}
    with pytest.raises(ValueError, match="colour profiles 'p3': give ignore or srgb"):
        MoondreamModelHandler(TASKS, Echo(), colour_profiles="p3")


def test_a_row_names_its_picture_by_its_bytes() -> None:
    ((row, *_),) = MoondreamModelHandler(TASKS, Echo()).run_inference([png(1)], Echo())
    assert row.uri == f"sha256:{row.sha256}"


def test_faults_and_silence_are_values_too() -> None:
    annotator = Echo(faults_on=("normal",), silent_on=("Why?",))
    ((fault, silence, *rest),) = MoondreamModelHandler(TASKS, annotator).run_inference([png(1)], annotator)
    assert [fault.error, silence.error] == ["Tired", "NoAnswer"]
    assert {type(row) for row in rest} == {Annotation}


def test_an_empty_batch_has_no_rows() -> None:
    assert list(MoondreamModelHandler(TASKS, Echo()).run_inference([], Echo())) == []


def test_its_bytes_are_those_of_the_files() -> None:
    assert MoondreamModelHandler(TASKS, Echo()).get_num_bytes([b"12345", b"", b"678"]) == 8


def test_batches_are_full_from_the_first() -> None:
    sizes = MoondreamModelHandler(TASKS, Echo(), batch_size=5).batch_elements_kwargs()
    assert sizes["min_batch_size"] == sizes["max_batch_size"] == 5


def test_in_run_inference_each_key_keeps_its_own_rows_and_nothing_is_lost() -> None:
    def build(pipeline: beam.Pipeline) -> tuple[beam.PCollection, beam.PCollection]:
        handler = MoondreamModelHandler(TASKS, Echo(), batch_size=3)
        plain = pipeline | beam.Create(BATCH) | "Plain" >> RunInference(handler)
        keyed = pipeline | "Keyed" >> beam.Create(list(enumerate(BATCH))) | RunInference(KeyedModelHandler(handler))
        return plain, keyed

    plain, keyed = collect(build)
    assert sorted(map(str, captions(plain))) == sorted(map(str, CAPTIONS))
    assert captions([rows for _, rows in sorted(keyed, key=lambda pair: pair[0])]) == CAPTIONS
    assert [key for key, _ in sorted(keyed, key=lambda pair: pair[0])] == list(range(len(BATCH)))


@pytest.mark.parametrize(("tasks", "message"), [((), "no task"), ((Query(),), "echo can't be asked to query")])
def test_bad_arguments_are_refused_at_once(tasks: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MoondreamModelHandler(tasks, Deaf())
