"""Florence-2: task tokens, coordinates in answers, and boxes."""

import pytest
from support.checkpoints.families import save_checkpoint
from support.checkpoints.requests import mixed_requests, noise

from moondream_beam.models.tasks import Answer, Box, Caption, Detect, Point, Query, Request, Sampling
from moondream_beam.models.transformers.annotator import TransformersModel
from moondream_beam.models.transformers.florence import boxes_in, prompt_of

CAPTIONS = {"short": "Describe this image in one short sentence.", "normal": "Who?", "long": "Why?"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_checkpoint("florence2", tmp_path_factory.mktemp("florence2"))


def model_of(folder, **options):
    return TransformersModel(str(folder), device="cpu", dtype="float32", **options)


def detections(count=8, max_objects=6):
    return [
        Request(f"box {number}", request.picture, Detect("dog " * number + "cat", max_objects))
        for number, request in enumerate(mixed_requests()[:count])
    ]


def results(annotator, requests):
    return {outcome.id: outcome.result for outcome in annotator.answer(requests)}


@pytest.mark.parametrize(
    "task, text",
    [
        (Caption("short"), "<CAPTION>"),
        (Caption("normal"), "Who?"),
        (Query("<OCR>"), "<OCR>"),
        (Detect("a red dog"), "<OPEN_VOCABULARY_DETECTION>a red dog"),
    ],
)
def test_a_prompt_is_a_task_token_or_a_text_of_the_user(task, text):
    assert prompt_of(task, CAPTIONS) == text


@pytest.mark.parametrize("task", [Point("dog"), Query("Why?", reasoning=True)])
def test_points_and_reasoning_are_refused(task):
    with pytest.raises(ValueError, match="give captions, queries and objects"):
        prompt_of(task, CAPTIONS)


@pytest.mark.parametrize(
    "text, boxes",
    [
        ("dog<loc_0><loc_10><loc_499><loc_999>", [(0, 10, 499, 999)]),
        ("dog<loc_1><loc_2><loc_3><loc_4><loc_5><loc_6><loc_7><loc_8>", [(1, 2, 3, 4), (5, 6, 7, 8)]),
        ("dog<loc_1><loc_2><loc_3><loc_4>cat<loc_5><loc_6><loc_7><loc_8>", [(1, 2, 3, 4), (5, 6, 7, 8)]),
        ("dog<loc_3><loc_4><loc_1><loc_2>", [(1, 2, 3, 4)]),
        ("dog<loc_1><loc_2><loc_3><loc_4><loc_5><loc_6>", [(1, 2, 3, 4)]),
        ("dog<loc_1><loc_2>", []),
        ("dog<poly><loc_5><loc_6><loc_1><loc_9><loc_7><loc_2></poly>", [(1, 2, 7, 9)]),
        ("dog<poly><loc_5><loc_6><loc_1><loc_9><loc_7>", [(1, 6, 5, 9)]),
        ("dog<poly></poly>", []),
        ("no dog", []),
    ],
)
def test_boxes_are_fractions_at_the_centres_of_bins(text, boxes):
    assert boxes_in(text) == [pytest.approx([(bin + 0.5) / 1000 for bin in box]) for box in boxes]
    assert all(type(box) is Box for box in boxes_in(text))


def test_boxes_are_those_of_the_library(folder):
    processor = model_of(folder).load().processor
    text, token = "dog<loc_1><loc_20><loc_300><loc_999>cat<loc_7><loc_8><loc_9><loc_10>", "<OPEN_VOCABULARY_DETECTION>"
    found = processor.post_process_generation(text, task=token, image_size=(10_000, 20_000))[token]["bboxes"]
    assert [[x / 10_000, y / 20_000, right / 10_000, bottom / 20_000] for x, y, right, bottom in found] == [
        pytest.approx(box) for box in boxes_in(text)
    ]


def test_boxes_of_a_batch_are_those_of_single_requests(folder):
    batch, single = (results(model_of(folder, batch_size=size), detections()) for size in (8, 1))
    assert batch == single and all(isinstance(result, Answer) for result in batch.values())
    assert sum(len(result.objects) for result in batch.values()) > 8
    assert all(0 < number < 1 for result in batch.values() for box in result.objects for number in box)


def test_no_more_boxes_than_asked_for(folder):
    many, few = (results(model_of(folder), detections(max_objects=most)) for most in (6, 1))
    assert all(few[id].objects == result.objects[:1] for id, result in many.items())


def test_the_forced_start_of_an_answer_does_not_count(folder):
    (outcome,) = model_of(folder).answer([Request("a", noise(50, 50, 1), Caption(), Sampling(1, temperature=0))])
    assert outcome.tokens.output == 1 and outcome.result.text


def test_a_prompt_that_fills_the_encoder_is_a_fault(folder):
    asked = [Request("long", noise(50, 50, 1), Query("why " * 200)), Request("short", noise(50, 50, 1), Query("why"))]
    found = results(model_of(folder), asked)
    assert found["long"].error == "PromptTooLong" and isinstance(found["short"], Answer)


def test_a_prompt_template_is_refused(folder):
    with pytest.raises(ValueError, match="Florence-2 has task tokens"):
        model_of(folder, prompt_template="{prompt}")


def test_only_florence_can_be_asked_for_boxes(folder, tmp_path):
    assert model_of(folder).tasks == {Caption, Query, Detect}
    assert model_of(save_checkpoint("llava", tmp_path)).tasks == {Caption, Query}
