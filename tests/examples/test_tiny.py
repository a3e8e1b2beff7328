"""The embedded checkpoint answers well on unseen scenes, and its training can be reproduced."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from tiny import train
from tiny.evaluate import evaluate, overlap
from tiny.lessons import Batch, Teacher
from tiny.losses import encode_pictures, run_decoder, size_to_bin
from tiny.vocabulary import build_config, build_tokenizer
from tokenizers import Tokenizer

from moondream_beam.models.moondream.annotator import Moondream
from moondream_beam.models.moondream.checkpoints.files import CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE
from moondream_beam.models.moondream.checkpoints.sources import EMBEDDED
from moondream_beam.models.moondream.checkpoints.weights import Checkpoint, MoondreamModel
from moondream_beam.models.moondream.network.config import MoondreamConfig, read_json
from moondream_beam.models.moondream.network.region import bin_to_size
from moondream_beam.models.moondream.network.tokenizer import Tokenizer as Words
from moondream_beam.models.tasks import DEFAULT_PROMPT, Box, Query, Request
from moondream_beam.models.tiny.scenes import EVALUATION_SEEDS, TEST_SEEDS, draw

FOLDER = EMBEDDED["tiny"]
MIN_SCORES = {
    "captions, short": 0.90,
    "captions, normal": 0.90,
    "captions, long": 0.90,
    "answers": 0.95,
    "boxes, mean overlap": 0.75,
    "points inside": 0.95,
    "objects pointed at": 0.95,
}


@pytest.fixture(scope="module")
def tiny() -> MoondreamModel:
    return Checkpoint.at(FOLDER).load(torch.device("cpu"), torch.float32)


def teacher() -> Teacher:
    return Teacher(MoondreamConfig().with_overrides(read_json(FOLDER / CONFIG_FILE)), Words(FOLDER / TOKENIZER_FILE))


def test_the_checkpoint_has_at_most_eight_megabytes() -> None:
    assert sum((FOLDER / name).stat().st_size for name in (CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE)) <= 8_000_000


def test_forty_unseen_scenes_reach_the_minimum_scores() -> None:
    tallies = evaluate(Moondream("tiny"), map(draw, EVALUATION_SEEDS[:40]))
    for heading, minimum in MIN_SCORES.items():
        # Two standard errors of a sample of this size.
        tolerance = 2 * math.sqrt(minimum * (1 - minimum) / tallies[heading].possible)
        assert tallies[heading].share >= minimum - tolerance, heading


@pytest.mark.slow
def test_five_hundred_unseen_scenes_reach_the_minimum_scores() -> None:
    tallies = evaluate(Moondream("tiny"), map(draw, EVALUATION_SEEDS))
    assert {heading for heading, minimum in MIN_SCORES.items() if tallies[heading].share < minimum} == set()
    assert tallies.keys() == MIN_SCORES.keys()


def test_the_default_prompt_gives_the_caption_of_a_320_x_240_picture() -> None:
    scenes = [draw(seed, (320, 240)) for seed in TEST_SEEDS[:20]]
    requests = [Request(str(n), scene.image, Query(DEFAULT_PROMPT)) for n, scene in enumerate(scenes)]
    answers = {outcome.id: getattr(outcome.result, "text", None) for outcome in Moondream("tiny").answer(requests)}
    assert sum(answers[str(n)] == scene.captions["normal"] for n, scene in enumerate(scenes)) >= 16


def test_each_word_of_the_scenes_is_one_token_and_other_text_round_trips() -> None:
    tokenizer = Tokenizer.from_file(str(FOLDER / TOKENIZER_FILE))
    for scene in map(draw, TEST_SEEDS[:50]):
        for text in (*scene.captions.values(), *(part for pair in scene.questions for part in pair)):
            words = tokenizer.pre_tokenizer.pre_tokenize_str(text)
            assert len(tokenizer.encode(text).ids) == len(words)
    for text in ("Überraschung! 日本 🌙", "\x00\n\t  ", "<|endoftext|>?"):
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_tokenizer_and_configuration_equal_those_of_the_training_script() -> None:
    tokenizer = build_tokenizer()
    assert tokenizer.to_str() == Tokenizer.from_file(str(FOLDER / TOKENIZER_FILE)).to_str()
    assert build_config(tokenizer) == json.loads((FOLDER / CONFIG_FILE).read_text(encoding="utf-8"))


def test_segments_behind_one_picture_do_not_attend_to_each_other(tiny: MoondreamModel) -> None:
    batch = teacher().batch([draw(TEST_SEEDS[3])])
    _, image_BTC = encode_pictures(tiny, batch)
    together = run_decoder(tiny, image_BTC, batch)
    for segment in batch.segments_BT.unique():
        own = (batch.segments_BT == segment)[0]
        parts = {name: getattr(batch, name)[:, own] for name in Batch._fields if "_BT" in name}
        torch.testing.assert_close(
            run_decoder(tiny, image_BTC, batch._replace(**parts)), together[:, own], atol=1e-4, rtol=1e-4
        )


def test_size_to_bin_inverts_bin_to_size() -> None:
    bins = torch.arange(1024)
    assert torch.equal(size_to_bin(bin_to_size(bins, 1024), 1024).round().long(), bins)


def test_sizes_out_of_range_are_clamped() -> None:
    assert size_to_bin(torch.tensor([0.0, 1e-6, 1.0, 3.0]), 1024).tolist() == [0, 0, 1023, 1023]


def test_overlap_is_intersection_over_union() -> None:
    assert overlap(Box(0, 0, 0.5, 0.5), Box(0.25, 0, 0.75, 0.5)) == pytest.approx(1 / 3)
    assert overlap(Box(0, 0, 0.5, 0.5), Box(0.5, 0.5, 1, 1)) == 0


@pytest.mark.slow
def test_a_resumed_training_gives_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(folder: str, *more: str) -> bytes:
        options = {"steps": 4, "looking": 2, "batch": 4, "save-every": 2, "log-every": 4, "validation": 2}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        monkeypatch.setattr(sys, "argv", ["train", "--output", str(tmp_path / folder), *words, *more])
        train.main()
        return (tmp_path / folder / WEIGHTS_FILE).read_bytes()

    whole = run("whole")
    run("parts", "--stop", "2")
    assert run("parts") == whole
