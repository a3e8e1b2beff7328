"""The batched decode loop gives the outputs of the reference, and those of a naive loop over one row."""

import math
import random
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.data.golden import assert_row_equals, biased_runs, logits_of, run_prompts_of

from moondream_beam.models.moondream.engine.decoding.row import Row
from moondream_beam.models.moondream.network.crops import normalize, prepare_crops
from moondream_beam.models.moondream.network.decoder.cache import KVCache
from moondream_beam.models.moondream.network.region import bin_to_coordinate, bin_to_size
from moondream_beam.models.tasks import Caption, Detect, Point, Query, Sampling


def test_one_run_alone_matches_the_reference(golden, run):
    (row,) = golden.decode([run])
    assert_row_equals(row, run)


@pytest.mark.parametrize("batch_size", [1, 32])
def test_logits_after_the_prompt_match_the_reference(golden, batch_size):
    runs = [run for run in golden.runs if golden.first_logits(run) is not None]
    assert len(runs) == 32
    for start in range(0, len(runs), batch_size):
        part = runs[start : start + batch_size]
        for logits, run in zip(logits_of(golden, part), part, strict=True):
            expected = golden.first_logits(run)
            assert (logits - expected).norm() / expected.norm() < 1e-4, run


def test_all_runs_in_one_batch_match_the_reference(golden):
    for row, run in zip(golden.decode(golden.runs), golden.runs, strict=True):
        assert_row_equals(row, run)


@pytest.mark.parametrize("size", [3, 7, 13])
def test_runs_in_shuffled_batches_match_the_reference(golden, size):
    runs = random.Random(size).sample(golden.runs, len(golden.runs))
    for start in range(0, len(runs), size):
        batch = runs[start : start + size]
        for row, run in zip(golden.decode(batch), batch, strict=True):
            assert_row_equals(row, run)


def biased(model, bias):
    model = deepcopy(model)
    for token, delta in bias.items():
        model.text.lm_head.bias[token] += delta
    return model


def corners_of(x, y, width, height):
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


@pytest.mark.parametrize("bias", [{3: 20.0}, {0: -50.0}, {0: 50.0}, {0: 20.0, 6: 20.0}])
def test_runs_with_a_biased_head_match_the_reference(golden, bias):
    found = [run for its, run in biased_runs(golden) if its == bias]
    assert len(found) >= 3
    rows = golden.decode(found, biased(golden.engine.model, bias))
    for row, run in zip(rows, found, strict=True):
        wanted = run.wanted
        assert row.thought_ids == run.thoughts.get("ids", []), run
        assert row.token_ids == wanted.get("ids", []), run
        assert row.finish_reason == run.finish_reason, run
        corners = [corners_of(*place) for place in row.objects] if row.has_size else row.objects
        results = [list(place.values()) for place in wanted.get("result", [])]
        assert len(corners) == len(results), run
        assert np.allclose(corners, results, atol=1e-6) or not results, run


def test_the_answer_id_is_the_first_token_or_does_not_occur(golden):
    rows = golden.decode(golden.runs, biased(golden.engine.model, {3: 20.0}))
    words = [row.token_ids for row in rows if row.next_output == "token"]
    assert all(ids[0] == 3 and 3 not in ids[1:] for ids in words)
    assert any(len(ids) > 1 for ids in words)


def test_text_without_a_picture_matches_the_reference(golden, make_row, decode_rows):
    model = golden.engine.model
    nothing = KVCache.empty(model.config.text, 1, 0, like=golden.prefixes.keys)
    for index, wanted in enumerate(golden.expected["text_only"]):
        ids = torch.tensor([wanted["prompt"]])
        length = ids.shape[1]
        causal = torch.ones(length, length).tril().bool()[None, None]
        hidden = model.text(model.text.embed(ids), torch.arange(length)[None], causal)
        expected = torch.from_numpy(golden.arrays[f"textonly_{index}.first_logits"])
        assert (model.text.logits(hidden[0, -1]) - expected).norm() / expected.norm() < 1e-4
        row = make_row(Query(), wanted["prompt"], max_tokens=24)
        decode_rows(model, [row], [nothing])
        assert row.token_ids == wanted["ids"]


# The naive loop: one row, no cache, the whole sequence again in every step.


def naive(model, image_TC, task, prompt, limit):
    """Token ids and objects of one greedy answer, and its finish reason."""
    text, region, special = model.text, model.region, model.config.tokenizer
    embeds = torch.cat([text.embed(torch.tensor([special.bos_id])), image_TC, text.embed(torch.tensor(prompt))])
    ids, places = [], []

    def hidden():
        length, prefix = len(embeds), model.config.text.prefix_attn
        mask = torch.ones(length, length).tril().bool()
        mask[:prefix, :prefix] = True
        return text(embeds[None], torch.arange(length)[None], mask[None, None])[0, -1]

    def feed(embed):
        nonlocal embeds
        embeds = torch.cat([embeds, embed.reshape(1, -1)])

    def coordinate():
        logits = region.decode_coordinate(hidden()[None])
        value = bin_to_coordinate(logits.argmax(-1), logits.shape[-1])
        feed(region.encode_coordinate(value[:, None]))
        return value.item()

    def size():
        logits = region.decode_size(hidden()[None])
        values = bin_to_size(logits.argmax(-1), logits.shape[-1])
        feed(region.encode_size(values))
        return values[0].tolist()

    while True:
        logits = text.logits(hidden())
        if ids:
            logits[special.answer_id] = -math.inf
        token = logits.argmax().item()
        if token == special.eos_id:
            return ids, places, "stop"
        if isinstance(task, Detect | Point):
            if len(places) == limit:
                return ids, places, "length"
            places.append([coordinate(), coordinate(), *(size() if isinstance(task, Detect) else [])])
        else:
            ids.append(token)
            if len(ids) == limit:
                return ids, places, "length"
            feed(text.embed(torch.tensor(token)))


class Scene:
    """A toy network, its pictures, and a mix of tasks with prompts and limits of many lengths."""

    def __init__(self, engine, pictures, make_row, decode_rows):
        self.model, vision = deepcopy(engine.model), engine.model.vision
        # Makes the end token likely enough that some answers end by it.
        self.model.text.lm_head.bias[0] += 1.2
        crops = [prepare_crops(picture, engine.config.vision) for picture in pictures]
        self.images = [
            vision.project(vision.encode(normalize(torch.from_numpy(pixels), torch.float32)), [tiling])[0]
            for pixels, tiling in crops
        ]
        self.prefixes, self.make_row, self.decode_rows = engine.encode(crops), make_row, decode_rows
        dice = random.Random(5)
        tasks = (Caption(), Query(), Detect("a", 4), Point("a", 5), Detect("a", 1), Point("a", 2))
        self.asked = [
            (
                picture,
                tasks[dice.randrange(len(tasks))],
                [dice.randrange(7, 600) for _ in range(dice.randint(1, 12))],
                dice.randint(1, 16),
            )
            for _ in range(16)
            for picture in range(len(pictures))
        ]

    def rows(self, asked):
        return [self.make_row(task, prompt, max_tokens=max_tokens) for _, task, prompt, max_tokens in asked]

    def prefixes_of(self, asked):
        return [self.prefixes.slice_rows(picture, picture + 1) for picture, *_ in asked]

    def decode(self, asked, **slots):
        rows = self.rows(asked)
        self.decode_rows(self.model, rows, self.prefixes_of(asked), **slots)
        return [decoded(row) for row in rows]


def decoded(row):
    return row.token_ids, [[round(number, 6) for number in place] for place in row.objects], row.finish_reason


@pytest.fixture(scope="module")
def scene(toy, toy_pictures, make_row, decode_rows):
    return Scene(toy, toy_pictures, make_row, decode_rows)


@pytest.fixture(scope="module")
def expected(scene):
    answers = []
    for picture, task, prompt, max_tokens in scene.asked:
        limit = task.max_objects if isinstance(task, Detect | Point) else max_tokens
        ids, places, reason = naive(scene.model, scene.images[picture], task, prompt, limit)
        answers.append((ids, [[round(number, 6) for number in place] for place in places], reason))
    return answers


def test_the_naive_answers_end_in_every_way(scene, expected):
    """This guards the comparisons below: they need answers of all kinds."""
    kinds = {(type(asked[1]), answer[2]) for asked, answer in zip(scene.asked, expected, strict=True)}
    assert kinds == {(kind, end) for kind in (Caption, Query, Detect, Point) for end in ("stop", "length")}
    assert len({len(ids) + len(places) for ids, places, _ in expected}) > 5


def test_one_row_with_a_cache_equals_no_cache(scene, expected):
    assert [scene.decode([asked])[0] for asked in scene.asked] == expected


def test_all_rows_together_equal_each_row_without_a_cache(scene, expected):
    assert scene.decode(scene.asked) == expected


@pytest.mark.parametrize("size", [2, 5, 11])
def test_shuffled_batches_equal_each_row_without_a_cache(scene, expected, size):
    order = random.Random(size).sample(range(len(expected)), len(expected))
    for start in range(0, len(order), size):
        part = order[start : start + size]
        assert scene.decode([scene.asked[index] for index in part]) == [expected[index] for index in part]


@pytest.mark.parametrize(("num_slots", "copies"), [(2, 0), (1, 1)])
def test_an_answer_is_copied_to_its_slot_only_if_no_slot_was_free_at_its_prompt(
    scene, expected, monkeypatch, num_slots, copies
):
    made, copy_row = [], KVCache.copy_row
    monkeypatch.setattr(KVCache, "copy_row", lambda self, *args: made.append(args) or copy_row(self, *args))
    # Two equal answers end together, so that none has to fill the gap of another one.
    asked = [next(each for each, (ids, *_) in zip(scene.asked, expected, strict=True) if len(ids) > 3)] * 2
    first, second = scene.decode(asked, num_slots=num_slots)
    assert first == second and len(made) == copies


@pytest.mark.parametrize("num_slots, num_prefill_rows", [(1, 1), (2, 3), (7, 2), (30, 30)])
def test_rows_in_reused_slots_equal_each_row_without_a_cache(scene, expected, num_slots, num_prefill_rows):
    order = random.Random(num_slots).sample(range(len(expected)), len(expected))
    found = scene.decode(
        [scene.asked[index] for index in order], num_slots=num_slots, num_prefill_rows=num_prefill_rows
    )
    assert found == [expected[index] for index in order]


def test_padded_prompts_equal_prompts_without_padding(scene):
    rows, prefixes = scene.rows(scene.asked), scene.prefixes_of(scene.asked)
    assert len({len(row.prompt) for row in rows}) > 5
    together = run_prompts_of(scene.model, rows, prefixes)
    alone = [run_prompts_of(scene.model, [row], [prefix]) for row, prefix in zip(rows, prefixes, strict=True)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def test_decoding_does_not_change_the_shared_prefixes(scene):
    before = scene.prefixes.keys.clone()
    scene.decode(scene.asked)
    assert torch.equal(scene.prefixes.keys, before)


def test_the_decision_for_another_object_is_greedy_at_any_temperature(scene, decode_rows):
    """The end token is nearly as likely as the other, and the temperature is high."""
    model = biased(scene.model, {9: 1000.0, 0: 990.0})
    rows = [
        Row([9, 8], 4, Sampling(temperature=50.0), random.Random(seed), "object", has_size=True) for seed in range(8)
    ]
    decode_rows(model, rows, [scene.prefixes.slice_rows(0, 1)] * len(rows))
    assert {row.finish_reason for row in rows} == {"length"}
    assert all(row.objects == rows[0].objects for row in rows)


def test_a_repetition_penalty_reduces_repeated_tokens(golden, decode_rows):
    """With a head that never ends, an answer repeats itself."""
    model = biased(golden.engine.model, {0: -50.0})

    def repeats(penalty):
        runs = [run for run in golden.runs if isinstance(run.task, Caption)]
        rows = [golden.row(run) for run in runs]
        for row in rows:
            row.sampling = replace(row.sampling, repetition_penalty=penalty)
        decode_rows(model, rows, [golden.prefix_of(run) for run in runs])
        return sum(len(row.token_ids) - len(set(row.token_ids)) for row in rows)

    assert repeats(1.0) > repeats(1.3) > repeats(100.0) == 0
