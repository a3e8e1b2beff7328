"""Captions, answers, boxes and points of a scene agree with its shapes and with its pixels."""

from __future__ import annotations

import re
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from moondream_beam.models.moondream.checkpoints.files import CONFIG_FILE
from moondream_beam.models.moondream.checkpoints.sources import EMBEDDED
from moondream_beam.models.moondream.network.config import MoondreamConfig, read_json
from moondream_beam.models.moondream.network.crops import select_tiling
from moondream_beam.models.tiny.scenes import (
    EVALUATION_SEEDS,
    TEST_SEEDS,
    TRAINING_SEEDS,
    VALIDATION_SEEDS,
    Scene,
    draw,
)
from moondream_beam.models.tiny.shapes import COLOURS, GROUNDS, KINDS, SIZES, Shape

SCENES = [draw(seed) for seed in TEST_SEEDS[:300]]


def named(name: str, scene: Scene) -> list[Shape]:
    """The shapes that a name in words fits, found word by word."""
    words = name.removesuffix("s").split()
    if words[-2:] == ["the", "left"] or words[-1] == "left" or words[0] == "leftmost":
        return [scene.shapes[0]]
    if words[-1] == "right" or words[0] == "rightmost":
        return [scene.shapes[-1]]
    known = {"shape", "one", *KINDS, *COLOURS, *SIZES}
    if not known.issuperset(words):
        return []
    said = set(words) - {"shape", "one"}
    return [shape for shape in scene.shapes if said <= {shape.size, shape.colour, shape.kind}]


def answer(question: str, scene: Scene) -> str:
    """The answer to a question, found from its words."""
    text = question.lower().replace("color", "colour").rstrip("?.")
    if "background" in text:
        return scene.ground
    if found := re.fullmatch(r"(?:how many|count the) (.+?)(?: are there| do you see| are in th.*)?", text):
        return str(len(named(found[1], scene)))
    if found := re.fullmatch(r"(?:is there|do you see) an? (.+?)(?: in th.*)?", text):
        return "yes" if named(found[1], scene) else "no"
    if found := re.fullmatch(r"what is on the (?:far )?(left|right)", text):
        (shape,) = named(found[1], scene)
        return f"{'an' if shape.colour == 'orange' else 'a'} {shape.colour} {shape.kind}"
    if found := re.fullmatch(
        r"(what shape|which shape|.* colour|is|what size|how big|where)(?: of| is)*(?: on)? (?:the )?(.+)", text
    ):
        (shape,) = named(re.sub(r" (large or small|small or large)$", "", found[2]), scene)
        about = {"shape": shape.kind, "olour": shape.colour, "where": shape.band}
        return about.get(found[1][-5:], shape.size)
    return scene.captions["normal"]


def test_a_seed_always_draws_the_same_scene() -> None:
    one, two = draw(TEST_SEEDS[7]), draw(TEST_SEEDS[7])
    assert one == two
    assert one.image.tobytes() == two.image.tobytes()
    assert one != draw(TEST_SEEDS[8])


def test_ranges_of_seeds_do_not_overlap() -> None:
    ranges = sorted((TRAINING_SEEDS, VALIDATION_SEEDS, TEST_SEEDS, EVALUATION_SEEDS), key=lambda seeds: seeds.start)
    assert all(before.stop <= after.start for before, after in zip(ranges, ranges[1:], strict=False))
    assert len(EVALUATION_SEEDS) == 500


def test_shapes_lie_in_the_picture_in_order_and_do_not_overlap() -> None:
    for scene in SCENES:
        for shape in scene.shapes:
            assert 0 < shape.box.x_min < shape.box.x_max < 1 and 0 < shape.box.y_min < shape.box.y_max < 1
        for one, two in combinations(scene.shapes, 2):
            assert two.centre.x - one.centre.x >= 0.12
            a, b = one.box, two.box
            assert a.x_max < b.x_min or b.x_max < a.x_min or a.y_max < b.y_min or b.y_max < a.y_min
            assert (one.colour, one.kind) != (two.colour, two.kind)


def test_every_large_shape_has_a_larger_area_than_every_small_one() -> None:
    areas: dict[str, list[float]] = {size: [] for size in SIZES}
    for shape in (shape for scene in SCENES for shape in scene.shapes):
        areas[shape.size].append((shape.box.x_max - shape.box.x_min) * (shape.box.y_max - shape.box.y_min))
    assert min(areas["large"]) > 1.1 * max(areas["small"])


def test_pixels_have_the_named_colours() -> None:
    for scene in SCENES[:100]:
        pixels = np.asarray(scene.image).astype(int)
        assert pixels.shape == (scene.size[1], scene.size[0], 3)
        assert np.abs(pixels[0, 0] - GROUNDS[scene.ground]).max() <= 8
        for shape in scene.shapes:
            x, y = int(shape.centre.x * scene.size[0]), int(shape.centre.y * scene.size[1])
            assert np.abs(pixels[y, x] - COLOURS[shape.colour]).max() <= 8


def test_boxes_fit_the_painted_pixels() -> None:
    for scene in SCENES[:100]:
        width, height = scene.size
        pixels = np.asarray(scene.image).astype(int)
        painted = np.abs(pixels - pixels[0, 0]).max(axis=2) > 12
        rows, columns = np.flatnonzero(painted.any(axis=1)), np.flatnonzero(painted.any(axis=0))
        edges = (columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height)
        boxes = np.array([shape.box for shape in scene.shapes])
        truth = (*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0))
        assert np.abs(np.array(edges) - truth).max() < 2.5 / min(width, height)


def test_captions_name_every_shape_from_left_to_right() -> None:
    for scene in SCENES:
        for caption in scene.captions.values():
            assert re.findall("|".join(KINDS), caption) == [shape.kind for shape in scene.shapes]
        normal = scene.captions["normal"].removesuffix(f" on a {scene.ground} background")
        parts = [re.sub(r"^an? ", "", part).split() for part in re.split(", | and ", normal)]
        assert parts == [[shape.size, shape.colour, shape.kind] for shape in scene.shapes]


def test_every_answer_agrees_with_the_shapes() -> None:
    for scene in SCENES:
        for question, right in scene.questions:
            assert answer(question, scene) == right, (question, scene.captions["normal"])


def test_yes_and_no_are_about_equally_frequent() -> None:
    said = Counter(right for scene in SCENES for _, right in scene.questions)
    assert 0.8 < said["yes"] / said["no"] < 1.25


def test_things_to_find_agree_with_their_names_and_some_are_absent() -> None:
    absent = 0
    for scene in SCENES:
        for name, shapes in scene.things:
            assert list(shapes) == named(name.lower().replace("people", "person"), scene), name
            absent += not shapes
    assert 0.2 < absent / sum(len(scene.things) for scene in SCENES) < 0.5


def test_pictures_have_all_tilings_from_1_x_1_to_2_x_2() -> None:
    vision = MoondreamConfig().with_overrides(read_json(EMBEDDED["tiny"] / CONFIG_FILE)).vision
    tilings = Counter(tuple(select_tiling(scene.size[1], scene.size[0], vision)) for scene in SCENES)
    assert min(tilings[tiling] for tiling in ((1, 1), (1, 2), (2, 1), (2, 2))) >= 5
    assert all(1 <= max(scene.size) / min(scene.size) <= 2 for scene in SCENES)


def test_a_picture_has_the_given_size() -> None:
    assert draw(TEST_SEEDS[0], (320, 200)).image.size == (320, 200)


@pytest.mark.parametrize("size", [(63, 100), (100, 201)])
def test_a_bad_size_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least 64 pixels"):
        draw(TEST_SEEDS[0], size)
