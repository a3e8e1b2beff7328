"""Moondream 3 in the same engine: outputs of the official code, in any batch, and beside a Moondream 2."""

import random
import threading
from copy import deepcopy

import numpy as np
import pytest
import torch
from support.data.golden import Golden, assert_row_equals, biased_runs, logits_of, run_prompts_of

from moondream_beam.models.moondream.annotator import Moondream
from moondream_beam.models.moondream.network.crops import normalize
from moondream_beam.models.moondream.network.decoder.cache import KVCache
from moondream_beam.models.tasks import Detect, Query, Request, Sampling


def relative(found, expected):
    expected = torch.from_numpy(np.asarray(expected))
    return ((found - expected).norm() / expected.norm()).item()


@pytest.fixture(scope="module")
def large():
    return Golden("moondream3")


def annotator(golden, **options):
    return Moondream(str(golden.folder), tokenizer=str(golden.tokenizer_path), device="cpu", dtype="float32", **options)


def requests_of(golden, runs):
    return [Request(f"{golden.name} {run}", golden.pictures[run.picture], run.task, run.sampling) for run in runs]


def assert_answers(golden, runs, found):
    for run in runs:
        answer = found[f"{golden.name} {run}"]
        assert answer.finish_reason == ("length" if run.is_cut else "stop"), run
        assert (answer.text, answer.reasoning) == (run.wanted.get("text"), run.thoughts.get("text")), run
        places = answer.objects if isinstance(run.task, Detect) else answer.points
        wanted = [[min(1.0, max(0.0, number)) for number in place.values()] for place in run.wanted.get("result", [])]
        assert len(places or []) == len(wanted), run
        assert not wanted or np.allclose(places, wanted, atol=1e-4), run


# The network.


def test_features_and_hidden_states_match_the_reference(golden3):
    model = golden3.engine.model
    for index, (pixels, tiling) in enumerate(golden3.crops):
        features = model.vision.encode(normalize(torch.from_numpy(pixels), torch.float32))
        image_TC = model.vision.project(features, [tiling])[0]
        assert relative(image_TC[::9], golden3.arrays[f"img{index}.features_rows"]) < 1e-4
        opening = model.text.embed(torch.tensor([golden3.engine.config.tokenizer.bos_id]))
        hidden = model.text(torch.cat([opening, image_TC])[None], torch.arange(730)[None])[0]
        assert relative(hidden[::9], golden3.arrays[f"img{index}.prefix_hidden_rows"]) < 1e-4


def test_attention_and_experts_of_each_block_match_the_reference(large):
    model, arrays = large.engine.model, large.arrays
    parts = {}
    for number, block in enumerate(model.text.blocks):
        # The fused products have no output of attention or of the MLP alone.
        block.fused = None
        for name, part in (("attn", block.attn.proj), ("mlp", block.mlp)):
            key = f"img1.block{number}.{name}_rows"
            part.register_forward_hook(lambda part, given, out, key=key: parts.update({key: out[0, :658:73]}))
    pixels, tiling = large.crops[1]
    image = model.vision.project(model.vision.encode(normalize(torch.from_numpy(pixels), torch.float32)), [tiling])
    embeds = torch.cat([model.text.embed(torch.tensor([[0]])), image], dim=1)
    routed = {}
    for number in (2, 3):
        block = model.text.blocks[number]
        block.ln.register_forward_hook(lambda part, given, out, number=number: routed.update({number: out[0]}))
    model.text(embeds, torch.arange(730)[None])
    assert len(parts) == 8
    for key, found in parts.items():
        assert relative(found, arrays[key]) < 1e-4, key
    for number, normed in routed.items():
        shares, chosen = model.text.blocks[number].mlp.route(normed)
        assert np.array_equal(chosen, arrays[f"img1.block{number}.experts"])
        assert np.allclose(shares[:658:73], arrays[f"img1.block{number}.expert_weights_rows"], atol=1e-4)


def test_the_region_parts_match_the_reference(large):
    region, arrays = large.engine.model.region, large.arrays
    hidden = torch.from_numpy(arrays["img0.prefix_hidden_rows"][-1:])
    for found, name in (
        (region.encode_coordinate(torch.from_numpy(arrays["region.coord_values"])), "coord_embeds"),
        (region.encode_size(torch.from_numpy(arrays["region.size_values"])), "size_embeds"),
        (region.decode_coordinate(hidden)[0], "coord_logits"),
        (region.decode_size(hidden)[0], "size_logits"),
    ):
        assert relative(found, arrays[f"region.{name}"]) < 1e-4, name


# Single rows and batches of rows.


@pytest.mark.parametrize("batch_size", [1, 32])
def test_logits_after_the_prompt_match_the_reference(golden3, batch_size):
    runs = [run for run in golden3.runs if golden3.first_logits(run) is not None]
    assert len(runs) >= 10
    for start in range(0, len(runs), batch_size):
        part = runs[start : start + batch_size]
        for logits, run in zip(logits_of(golden3, part), part, strict=True):
            assert relative(logits, golden3.first_logits(run)) < 1e-4, run


@pytest.mark.slow
def test_rows_alone_and_in_shuffled_batches_match_the_reference(golden3):
    for run in golden3.runs[::5]:
        (row,) = golden3.decode([run])
        assert_row_equals(row, run)
    for size in (3, len(golden3.runs)):
        runs = random.Random(size).sample(golden3.runs, len(golden3.runs))
        for row, run in zip(golden3.decode(runs, num_slots=size), runs, strict=True):
            assert_row_equals(row, run)


def test_rows_with_a_biased_head_match_the_reference(large):
    """The biases make answers end at once or never, make a third token the most likely, or make reasonings point."""
    found = list(biased_runs(large))
    biases = {tuple(bias.items()) for bias, _ in found}
    assert len(found) == 42 and len(biases) == 9
    assert sum(bool(run.thoughts.get("grounding")) for _, run in found) == 4
    for bias in biases:
        model = deepcopy(large.engine.model)
        for token, delta in bias:
            model.text.lm_head.bias[token] += delta
        runs = [run for its, run in found if tuple(its.items()) == bias]
        for row, run in zip(large.decode(runs, model), runs, strict=True):
            assert row.thought_ids == run.thoughts.get("ids", []), run
            assert row.token_ids == run.wanted.get("ids", []), run
            assert np.allclose(row.objects, run.places, atol=1e-6) or not run.places, run
            assert len(row.objects) == len(run.places), run


def test_text_without_a_picture_matches_the_reference(large, decode_rows, make_row):
    model = large.engine.model
    nothing = KVCache.empty(model.config.text, 1, 0, like=model.text.wte)
    for index, wanted in enumerate(large.expected["text_only"]):
        row = make_row(Query(), wanted["prompt"])
        logits = model.text.logits(run_prompts_of(model, [row], [nothing]))[0]
        assert relative(logits, large.arrays[f"textonly_{index}.first_logits"]) < 1e-4
        decode_rows(model, [row], [nothing])
        assert row.token_ids == wanted["ids"]
    for wanted in large.expected["text_only_reasoning"]:
        row = make_row(Query(reasoning=True), wanted["reasoning"]["prompt"], Sampling(max_tokens=20, temperature=0))
        decode_rows(model, [row], [nothing])
        assert (row.thought_ids, row.token_ids) == (wanted["reasoning"]["ids"], wanted["answer"]["ids"])


# The engine.


@pytest.mark.slow
def test_answers_of_the_engine_match_the_reference(golden3):
    for batch_size in (64, 5):
        asked = random.Random(batch_size).sample(requests_of(golden3, golden3.runs), len(golden3.runs))
        found = {each.id: each.result for each in annotator(golden3, batch_size=batch_size).answer(asked)}
        assert_answers(golden3, golden3.runs, found)


def test_one_request_alone_matches_the_reference(golden3):
    moondream = annotator(golden3, batch_size=1)
    for run in golden3.runs[::7]:
        found = {each.id: each.result for each in moondream.answer(requests_of(golden3, [run]))}
        assert_answers(golden3, [run], found)


@pytest.mark.slow
def test_engines_of_both_generations_answer_in_one_process(golden, large):
    """Two threads, so that passes of the two networks alternate."""
    found = {}

    def ask(each):
        asked = random.Random(0).sample(requests_of(each, each.runs), len(each.runs))
        found.update({outcome.id: outcome.result for outcome in annotator(each, batch_size=8).answer(asked)})

    threads = [threading.Thread(target=ask, args=(each,)) for each in (golden, large)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in (golden, large):
        assert_answers(each, each.runs, found)


def test_a_sampled_answer_is_the_same_alone_and_in_any_batch(large):
    warm = Sampling(max_tokens=10, temperature=0.8, top_p=0.9)
    tasks = [run.task for run in large.runs if run.picture == 0]
    asked = [Request(str(n), large.pictures[n % 3], task, warm) for n, task in enumerate(tasks)]

    def answers(batch_size, requests):
        return {each.id: each.result for each in annotator(large, batch_size=batch_size).answer(requests)}

    together = answers(64, asked)
    assert together == answers(1, asked) == answers(5, random.Random(0).sample(asked, len(asked)))
    reasoned = [together[request.id] for request in asked if isinstance(request.task, Query) and request.task.reasoning]
    assert reasoned and all(answer.reasoning for answer in reasoned)


def test_experts_in_float8_stay_in_float8(golden3):
    model = golden3.engine.model
    dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items() if ".fc1.weight" in name}
    is_float8 = golden3.name.endswith("fp8-legacy")
    assert (torch.float8_e4m3fn in dtypes.values()) == is_float8


def test_bfloat16_runs(golden3):
    """Only roughly equal: rounding makes some tokens choose another expert, which is a jump."""
    moondream = Moondream(
        str(golden3.folder), tokenizer=str(golden3.tokenizer_path), device="cpu", dtype="bfloat16", batch_size=4
    )
    model = moondream.load().model
    pixels, tiling = golden3.crops[1]
    with torch.inference_mode():
        features = model.vision.encode(normalize(torch.from_numpy(pixels), torch.bfloat16))
        image = model.vision.project(features, [tiling])[0]
    assert relative(image[::9].float(), golden3.arrays["img1.features_rows"]) < 0.02
    asked = requests_of(golden3, golden3.runs[:8])
    assert {type(outcome.result).__name__ for outcome in moondream.answer(asked)} == {"Answer"}
