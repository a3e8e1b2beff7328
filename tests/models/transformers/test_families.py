"""Small random models of each family: a batch gives each request the answer that it gets alone."""

import json

import pytest
from support.checkpoints.families import FAMILIES, TEMPLATES, save_checkpoint
from support.checkpoints.requests import mixed_requests

from moondream_beam.models.tasks import Answer, Caption, Query, Request, Sampling
from moondream_beam.models.transformers.annotator import TransformersModel

# The processor of PaliGemma turns tensors into arrays in the manner of NumPy 1.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request, tmp_path_factory):
    return request.param, save_checkpoint(request.param, tmp_path_factory.mktemp(request.param))


def model_of(checkpoint, **options):
    family, folder = checkpoint
    options = {"prompt_template": TEMPLATES.get(family), **options}
    return TransformersModel(str(folder), device="cpu", dtype="float32", **options)


def outcomes_of(annotator, requests):
    return {outcome.id: outcome for outcome in annotator.answer(requests)}


def test_a_batch_of_eight_equals_one_by_one_token_for_token(checkpoint):
    requests = mixed_requests()
    assert len(requests) == 8
    batch = outcomes_of(model_of(checkpoint, batch_size=8), requests)
    single = outcomes_of(model_of(checkpoint, batch_size=1), requests)
    assert all(isinstance(outcome.result, Answer) for outcome in batch.values())
    assert {id: outcome.result for id, outcome in batch.items()} == {id: each.result for id, each in single.items()}
    assert {id: outcome.tokens for id, outcome in batch.items()} == {id: each.tokens for id, each in single.items()}
    # A model that gives everything the same answer would pass the comparison in any case.
    assert len({outcome.result.text for outcome in batch.values()}) >= 6


def test_the_answer_depends_on_the_picture_and_on_the_question(checkpoint):
    pictures = [request.picture for request in mixed_requests()]
    greedy = Sampling(max_tokens=12, temperature=0)
    same = [Request(f"picture {number}", each, Query("What?"), greedy) for number, each in enumerate(pictures)]
    other = Request("other question", pictures[0], Query("How many?"), greedy)
    texts = {id: outcome.result.text for id, outcome in outcomes_of(model_of(checkpoint), [*same, other]).items()}
    assert texts.pop("other question") != texts["picture 0"]
    assert len(set(texts.values())) > 1


def test_each_row_stops_at_its_own_limit(checkpoint):
    picture = mixed_requests()[0].picture
    limits = {"one": 1, "nine": 9, "four": 4}
    requests = [Request(id, picture, Caption(), Sampling(limit, temperature=0)) for id, limit in limits.items()]
    annotator = model_of(checkpoint)
    loaded = annotator.load()
    # Random weights may give an end token at any step.
    loaded.model.generation_config.eos_token_id, loaded.ends = None, frozenset()
    outcomes = outcomes_of(annotator, requests)
    assert {id: outcome.tokens.output for id, outcome in outcomes.items()} == limits
    assert {outcome.result.finish_reason for outcome in outcomes.values()} == {"length"}


def test_an_end_token_stops_a_row_and_is_not_part_of_the_answer(checkpoint, tmp_path):
    family, folder = checkpoint
    picture = mixed_requests()[0].picture
    request = Request("row", picture, Query("What colour?"), Sampling(12, temperature=1.0))
    loaded = model_of(checkpoint).load()
    (free,) = loaded.answer([(request, 0.0)])
    # The configuration of a checkpoint may name several end tokens: here every other one.
    loaded.model.generation_config.eos_token_id = list(range(1, len(loaded.processor.tokenizer), 2))
    loaded.ends = frozenset(loaded.model.generation_config.eos_token_id)
    (ended,) = loaded.answer([(request, 0.0)])
    assert ended.tokens.output < free.tokens.output


def test_fewer_pixels_give_no_longer_prompts(checkpoint):
    family, folder = checkpoint
    request = Request("row", mixed_requests()[4].picture, Caption(), Sampling(1))
    many, few = (
        outcomes_of(model_of(checkpoint, max_pixels=pixels), [request])["row"].tokens.input
        for pixels in (1 << 20, 60 * 60)
    )
    scales = {"qwen2_5_vl", "smolvlm", "idefics3", "internvl"}
    assert few < many if family in scales else few == many


def test_missing_weights_are_refused_rather_than_made_up(checkpoint, tmp_path):
    from safetensors.torch import load_file, save_file

    family, folder = checkpoint
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    # The last layers of the decoder, in all families but Florence-2 and in Florence-2.
    name = [name for name in weights if name.endswith(("mlp.up_proj.weight", "fc1.weight"))][-1]
    del weights[name]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="weights are missing or have another shape, such as .*(up_proj|fc1)"):
        model_of((family, tmp_path)).load()
    assert json.loads((folder / "config.json").read_text())
