"""Models of transformers: which checkpoints are refused, what the revision names, and bad requests and memory."""

import json
import logging
import pickle
import shutil

import pytest
import torch
from PIL import Image
from support.checkpoints.families import save_checkpoint
from support.checkpoints.requests import mixed_requests, noise

from moondream_beam.models.tasks import Answer, Caption, Detect, Fault, Query, Request, Sampling
from moondream_beam.models.transformers.annotator import TransformersModel
from moondream_beam.models.transformers.loading import model_dtype

TOKENS = Sampling(max_tokens=3)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_checkpoint("qwen2_5_vl", tmp_path_factory.mktemp("qwen"))


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoint")


def model_of(folder, **options):
    return TransformersModel(str(folder), device="cpu", **options)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": 0}, "batch size 0: give 1 or more"),
        ({"max_pixels": 0}, "max pixels 0: give 1 or more"),
        ({"dtype": "int8"}, "dtype int8"),
        ({"caption_prompts": {"tiny": "?"}}, "caption prompt 'tiny'"),
        ({"prompt_template": "<image>"}, "put {prompt} where"),
        ({"revision": "main"}, "--revision main"),
    ],
    ids=lambda value: str(value),
)
def test_bad_arguments_are_refused(saved, options, message):
    with pytest.raises(ValueError) as error:
        model_of(saved, **options)
    assert message in str(error.value)


def test_a_model_that_is_neither_a_folder_nor_a_repository_is_refused():
    with pytest.raises(ValueError, match="no such folder; give a folder, or OWNER/NAME"):
        TransformersModel("./no/such/folder")


def test_pickled_weights_are_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"no model.safetensors \(pickles are not read\)"):
        model_of(folder)


def test_code_of_the_repository_is_not_run(folder):
    config = json.loads((folder / "config.json").read_text())
    auto_map = {"AutoConfig": "code.Config", "AutoModelForImageTextToText": "code.Model"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": auto_map}))
    (folder / "code.py").write_text("raise SystemExit('this code was run')")
    with pytest.raises(ValueError, match="it needs code from its repository, which is not run"):
        model_of(folder).check()


def test_a_model_of_another_kind_is_refused(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ValueError, match="no image-text-to-text model of type llama"):
        model_of(folder).check()


def test_a_model_without_chat_template_needs_a_prompt_template(folder):
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="has no chat template: give --prompt-template"):
        model_of(folder).check()
    model_of(folder, prompt_template="<|vision_start|><|image_pad|><|vision_end|>{prompt}").check()


def test_the_revision_names_the_files_and_what_changes_the_answers(folder):
    plain = model_of(folder)
    assert plain.revision.endswith("; images by torchvision")
    options = ({"max_pixels": 99}, {"caption_prompts": {"short": "What?"}}, {"prompt_template": "<image>{prompt}"})
    revisions = {plain.revision, *(model_of(folder, **each).revision for each in options)}
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    revisions.add(model_of(folder).revision)
    assert len(revisions) == 5


def test_files_that_change_after_planning_stop_the_run(folder):
    arrived = pickle.loads(pickle.dumps(model_of(folder)))
    (folder / "generation_config.json").write_text("{}")
    with pytest.raises(RuntimeError, match="the files changed after planning"):
        list(arrived.answer(mixed_requests()[:1]))


def test_bad_requests_are_faults_and_the_others_are_answered(saved):
    picture = noise(60, 60, 1)
    requests = [
        Request("good", picture, Query("What?"), TOKENS),
        # The processor of Qwen raises for sides of more than 200 to 1.
        Request("too long", Image.new("RGB", (6000, 2)), Query("What?"), TOKENS),
        Request("palette", picture.convert("P"), Query("What?"), TOKENS),
        Request("detect", picture, Detect("dog"), TOKENS),
        Request("reasoning", picture, Query("What?", reasoning=True), TOKENS),
        Request("context", picture, Query("why " * 2000), TOKENS),
        Request("also good", picture, Caption(), TOKENS),
    ]
    results = {outcome.id: outcome.result for outcome in model_of(saved).answer(requests)}
    assert {id for id, result in results.items() if isinstance(result, Answer)} == {"good", "also good"}
    assert "aspect ratio" in results["too long"].message
    assert results["context"].error == "PromptTooLong" and "takes 4096" in results["context"].message
    assert all(isinstance(results[id], Fault) for id in ("palette", "detect", "reasoning"))


def test_out_of_memory_halves_the_batch_for_the_rest_of_the_run(saved, monkeypatch, caplog):
    annotator, sizes = model_of(saved, batch_size=8), []
    model = annotator.load().model
    generate = model.generate

    def generate_up_to_two(**inputs):
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(**inputs)

    monkeypatch.setattr(model, "generate", generate_up_to_two)
    with caplog.at_level(logging.WARNING):
        outcomes = list(annotator.answer([*mixed_requests(), *mixed_requests()]))
    assert len(outcomes) == 16 and all(isinstance(outcome.result, Answer) for outcome in outcomes)
    assert sizes == [8, 4, 2, 2, 4, 2, 2, *[2] * 4]
    assert "batches have 2 requests from now on" in caplog.text


def test_one_request_that_does_not_fit_into_memory_is_a_fault(saved, monkeypatch):
    annotator = model_of(saved)

    def fail(**inputs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(annotator.load().model, "generate", fail)
    (outcome,) = annotator.answer(mixed_requests()[:1])
    assert outcome.result.error == "OutOfMemory" and outcome.result.retryable


def test_auto_takes_float32_where_bfloat16_is_missing():
    cpu, metal = torch.device("cpu"), torch.device("mps")
    assert model_dtype("auto", cpu, torch.bfloat16) == torch.float32
    assert model_dtype("auto", metal, torch.bfloat16) == torch.float32
    assert model_dtype("auto", metal, torch.float16) == torch.float16
    assert model_dtype("bfloat16", cpu, torch.float32) == torch.bfloat16
