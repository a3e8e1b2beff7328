"""The batched decode loop writes what the reference writes, and what a naive loop of one row writes."""

import math
import random
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from moondream_beam.models.moondream.engine.generate import Row
from moondream_beam.models.moondream.engine.slots import run_prompts
from moondream_beam.models.moondream.network.crops import normalize, prepare_crops
from moondream_beam.models.moondream.network.region import bin_to_coordinate, bin_to_size
from moondream_beam.models.moondream.network.text import Cache
from moondream_beam.models.tasks import Caption, Detect, Point, Query, Sampling


def assert_row_is(row, run):
    assert row.ids == run.wanted.get("ids", []), run
    assert len(row.places) == len(run.places), run
    assert np.allclose(row.places, run.places, atol=1e-6) or not run.places, run
    assert row.finish_reason == run.finish_reason, run


def test_one_run_alone_is_that_of_the_reference(golden, run):
    (row,) = golden.write([run])
    assert_row_is(row, run)


@pytest.mark.parametrize("batch_size", [1, 32])
def test_logits_behind_the_prompt_are_those_of_the_reference(golden, batch_size):
    model, runs = golden.engine.model, [run for run in golden.runs if run.logits]
    assert len(runs) == 32
    for start in range(0, len(runs), batch_size):
        part = runs[start : start + batch_size]
        hidden = behind_prompts(model, [golden.row(run) for run in part], [prefix_of(golden, run) for run in part])
        for logits, run in zip(model.text.logits(hidden), part, strict=True):
            expected = torch.from_numpy(golden.arrays[f"img{run.picture}.{run.logits}.first_logits"])
            assert (logits - expected).norm() / expected.norm() < 1e-4, run


def prefix_of(golden, run):
    return golden.prefixes.rows(run.picture, run.picture + 1)


def behind_prompts(model, rows, prefixes):
    """The hidden states behind the prompts of rows, run together."""
    length = prefixes[0].keys.shape[3]
    cache = Cache.empty(model.config.text, len(rows), length + max(row.room for row in rows), like=model.text.wte)
    for index, prefix in enumerate(prefixes):
        cache.copy([index], prefix, length)
    return run_prompts(model, [row.prompt for row in rows], [length] * len(rows), cache)


def test_all_runs_in_one_batch_are_those_of_the_reference(golden):
    for row, run in zip(golden.write(golden.runs), golden.runs, strict=True):
        assert_row_is(row, run)


@pytest.mark.parametrize("size", [3, 7, 13])
def test_runs_in_shuffled_batches_are_those_of_the_reference(golden, size):
    runs = random.Random(size).sample(golden.runs, len(golden.runs))
    for start in range(0, len(runs), size):
        batch = runs[start : start + size]
        for row, run in zip(golden.write(batch), batch, strict=True):
            assert_row_is(row, run)


def biased_runs(golden):
    """The runs of the reference with a bias on the head, by that bias; a bias decides how the places end."""
    kinds = {kind.name: kind for kind in (Caption, Detect, Point)}
    for wanted in golden.expected["bias_runs"]:
        bias = {int(token): delta for token, delta in wanted["lm_head_bias_delta"].items()}
        key = "length" if wanted["call"] == "caption" else "object"
        task = kinds[wanted["call"]](wanted[key], *([6] if key == "object" else []))
        stops = bias.get(0, 0) > 0
        name = f"img{wanted['image']}.{wanted['call']} {bias}"
        yield (
            bias,
            wanted,
            replace(
                golden.runs[0],
                name=name,
                picture=wanted["image"],
                task=task,
                wanted={"ended_by": "eos" * stops, **wanted},
            ),
        )


def biased(model, bias):
    model = deepcopy(model)
    for token, delta in bias.items():
        model.text.lm_head.bias[token] += delta
    return model


def corners_of(x, y, width, height):
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


@pytest.mark.parametrize("bias", [{3: 20.0}, {0: -50.0}, {0: 50.0}], ids=["answer id", "never ends", "ends at once"])
def test_a_biased_head_writes_as_in_the_reference(golden, bias):
    found = [(wanted, run) for its, wanted, run in biased_runs(golden) if its == bias]
    assert len(found) >= 3
    rows = golden.write([run for _, run in found], biased(golden.engine.model, bias))
    for row, (wanted, run) in zip(rows, found, strict=True):
        assert row.ids == wanted.get("ids", []), run
        assert row.finish_reason == run.finish_reason, run
        corners = [corners_of(*place) for place in row.places] if row.sized else row.places
        results = [list(place.values()) for place in wanted.get("result", [])]
        assert len(corners) == len(results), run
        assert np.allclose(corners, results, atol=1e-6) or not results, run


def test_the_answer_id_comes_first_or_never(golden):
    rows = golden.write(golden.runs, biased(golden.engine.model, {3: 20.0}))
    words = [row.ids for row in rows if row.next_output == "word"]
    assert all(ids[0] == 3 and 3 not in ids[1:] for ids in words)
    assert any(len(ids) > 1 for ids in words)


def test_text_without_a_picture_is_that_of_the_reference(golden, make_row, write_rows):
    model = golden.engine.model
    nothing = Cache.empty(model.config.text, 1, 0, like=golden.prefixes.keys)
    for index, wanted in enumerate(golden.expected["text_only"]):
        ids = torch.tensor([wanted["prompt"]])
        length = ids.shape[1]
        causal = torch.ones(length, length).tril().bool()[None, None]
        hidden = model.text(model.text.embed(ids), torch.arange(length)[None], causal)
        expected = torch.from_numpy(golden.arrays[f"textonly_{index}.first_logits"])
        assert (model.text.logits(hidden[0, -1]) - expected).norm() / expected.norm() < 1e-4
        row = make_row(Query(), wanted["prompt"], max_tokens=24)
        write_rows(model, [row], [nothing])
        assert row.ids == wanted["ids"]


# The naive loop: one row, no cache, the whole sequence again for every step.


def naive(model, image_TC, task, prompt, limit):
    """Ids and places of one greedy answer, and why it ended."""
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

    def __init__(self, engine, pictures, make_row, write_rows):
        self.model, vision = deepcopy(engine.model), engine.model.vision
        # So that answers end, now and then, by themselves.
        self.model.text.lm_head.bias[0] += 1.2
        crops = [prepare_crops(picture, engine.config.vision) for picture in pictures]
        self.images = [
            vision.project(vision.encode(normalize(torch.from_numpy(pixels), torch.float32)), [tiling])[0]
            for pixels, tiling in crops
        ]
        self.prefixes, self.make_row, self.write_rows = engine.encode(crops), make_row, write_rows
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
        return [self.prefixes.rows(picture, picture + 1) for picture, *_ in asked]

    def write(self, asked, **slots):
        rows = self.rows(asked)
        self.write_rows(self.model, rows, self.prefixes_of(asked), **slots)
        return [written(row) for row in rows]


def written(row):
    return row.ids, [[round(number, 6) for number in place] for place in row.places], row.finish_reason


@pytest.fixture(scope="module")
def scene(toy, toy_pictures, make_row, write_rows):
    return Scene(toy, toy_pictures, make_row, write_rows)


@pytest.fixture(scope="module")
def expected(scene):
    answers = []
    for picture, task, prompt, max_tokens in scene.asked:
        limit = task.max_objects if isinstance(task, Detect | Point) else max_tokens
        ids, places, reason = naive(scene.model, scene.images[picture], task, prompt, limit)
        answers.append((ids, [[round(number, 6) for number in place] for place in places], reason))
    return answers


def test_the_naive_answers_end_in_every_way(scene, expected):
    """Otherwise the comparisons below would prove little."""
    kinds = {(type(asked[1]), answer[2]) for asked, answer in zip(scene.asked, expected, strict=True)}
    assert kinds == {(kind, end) for kind in (Caption, Query, Detect, Point) for end in ("stop", "length")}
    assert len({len(ids) + len(places) for ids, places, _ in expected}) > 5


def test_one_row_with_a_cache_is_as_without(scene, expected):
    assert [scene.write([asked])[0] for asked in scene.asked] == expected


def test_all_rows_together_are_as_each_without_a_cache(scene, expected):
    assert scene.write(scene.asked) == expected


@pytest.mark.parametrize("size", [2, 5, 11])
def test_shuffled_batches_are_as_each_without_a_cache(scene, expected, size):
    order = random.Random(size).sample(range(len(expected)), len(expected))
    for start in range(0, len(order), size):
        part = order[start : start + size]
        assert scene.write([scene.asked[index] for index in part]) == [expected[index] for index in part]


@pytest.mark.parametrize("count, spare", [(1, 1), (2, 3), (7, 2), (30, 30)])
def test_slots_that_are_filled_again_write_as_each_without_a_cache(scene, expected, count, spare):
    order = random.Random(count).sample(range(len(expected)), len(expected))
    found = scene.write([scene.asked[index] for index in order], count=count, spare=spare)
    assert found == [expected[index] for index in order]


def test_prompts_padded_to_the_widest_end_as_unpadded(scene):
    rows, prefixes = scene.rows(scene.asked), scene.prefixes_of(scene.asked)
    assert len({len(row.prompt) for row in rows}) > 5
    together = behind_prompts(scene.model, rows, prefixes)
    alone = [behind_prompts(scene.model, [row], [prefix]) for row, prefix in zip(rows, prefixes, strict=True)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def test_the_shared_prefixes_are_not_written_to(scene):
    before = scene.prefixes.keys.clone()
    scene.write(scene.asked)
    assert torch.equal(scene.prefixes.keys, before)


def test_whether_there_is_another_object_is_no_matter_of_chance(scene, write_rows):
    """The end is hardly less likely than going on, and the temperature high."""
    model = biased(scene.model, {9: 1000.0, 0: 990.0})
    rows = [Row([9, 8], 4, Sampling(temperature=50.0), random.Random(seed), "object", sized=True) for seed in range(8)]
    write_rows(model, rows, [scene.prefixes.rows(0, 1)] * len(rows))
    assert {row.finish_reason for row in rows} == {"length"}
    assert all(row.places == rows[0].places for row in rows)


def test_a_penalty_makes_repeats_rarer(golden, write_rows):
    """A head that never ends goes in circles."""
    model = biased(golden.engine.model, {0: -50.0})

    def repeats(penalty):
        runs = [run for run in golden.runs if isinstance(run.task, Caption)]
        rows = [golden.row(run) for run in runs]
        for row in rows:
            row.sampling = replace(row.sampling, repetition_penalty=penalty)
        write_rows(model, rows, [prefix_of(golden, run) for run in runs])
        return sum(len(row.ids) - len(set(row.ids)) for row in rows)

    assert repeats(1.0) > repeats(1.3) > repeats(100.0) == 0
