"""llama.cpp's own server with a small random model: what it tells, rejects and enforces."""

import json
import runpy

import pytest
from support.hosted.pictures import numbered
from support.hosted.queries import requests
from support.servers.chat.processes import GGUF, llama_cpp_server

from moondream_beam import OpenAIServer
from moondream_beam.models.structured.answers import answer_structured
from moondream_beam.models.tasks import Answer, Query, Request, Sampling

SCHEMA = {
    "type": "object",
    "properties": {"is_day": {"type": "boolean"}, "colour": {"enum": ["red", "green"]}},
    "required": ["is_day", "colour"],
    "additionalProperties": False,
}


def test_the_carried_model_is_what_its_script_makes(tmp_path):
    gguf = pytest.importorskip("gguf")
    runpy.run_path(str(GGUF / "make.py"))["make"](tmp_path)
    for name in ("model.gguf", "mmproj.gguf"):
        carried, made = (gguf.GGUFReader(folder / name) for folder in (GGUF, tmp_path))
        assert carried.fields.keys() == made.fields.keys()
        assert all(carried.fields[key].contents() == made.fields[key].contents() for key in made.fields)
        tensors = [{each.name: each.data.tolist() for each in reader.tensors} for reader in (carried, made)]
        assert tensors[0] == tensors[1]


def test_the_server_tells_model_and_revision(real_llama_cpp):
    annotator = OpenAIServer(real_llama_cpp.url)
    assert annotator.name == "random"
    # The size that llama.cpp reports is that of the tensors.
    tensors = int(annotator.revision.removeprefix("model.gguf of ").removesuffix(" bytes"))
    assert 0.9 < tensors / (GGUF / "model.gguf").stat().st_size < 1
    annotator.check_servers()


def test_tokens_and_times_are_those_of_the_server(real_llama_cpp):
    asked = Request("a", numbered(3), Query("What?"), Sampling(max_tokens=6, temperature=0))
    (outcome,) = OpenAIServer(real_llama_cpp.url).answer([asked])
    assert outcome.result.finish_reason == "length" and outcome.tokens.output == 6
    assert outcome.tokens.input > 20 and outcome.timings.encode_ms > 0 and outcome.timings.generate_ms > 0


def test_a_prompt_that_is_too_long_is_rejected_and_the_others_are_answered(real_llama_cpp):
    asked = [*requests(3), Request("long", numbered(9), Query("why " * 2000))]
    results = {outcome.id: outcome.result for outcome in OpenAIServer(real_llama_cpp.url).answer(asked)}
    fault = results.pop("long")
    assert fault.error == "Rejected" and "context" in fault.message
    assert len(results) == 3 and all(isinstance(result, Answer) for result in results.values())


def test_the_server_enforces_a_schema_on_a_model_that_writes_random_characters(real_llama_cpp):
    annotator = OpenAIServer(real_llama_cpp.url)
    asked = [Request(f"r{number}", numbered(number), Query("When?", schema=SCHEMA)) for number in range(4)]
    first = [outcome.result.text for outcome in annotator.answer(asked)]
    assert all(set(json.loads(text)) == {"is_day", "colour"} for text in first)
    checked = list(answer_structured(annotator.answer, asked))
    assert all(json.loads(outcome.result.text)["colour"] in ("red", "green") for outcome in checked)


def test_a_server_without_the_projector_of_pictures_is_refused(tmp_path):
    with (
        llama_cpp_server(tmp_path / "log", "--no-mmproj") as server,
        pytest.raises(ValueError, match="image input is not supported.*mmproj"),
    ):
        OpenAIServer(server.url).check_servers()
