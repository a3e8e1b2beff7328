"""Crops match the reference, and merged features lie where their tile was."""

import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from moondream_beam.models.moondream.network.config import VisionConfig
from moondream_beam.models.moondream.network.crops import Tiling, merge_crops, normalize, prepare_crops, select_tiling

SMALL = VisionConfig(crop_size=56, overlap_margin=1, enc_dim=6)


def test_tilings_match_the_reference(golden):
    pairs = golden.expected["select_tiling"]
    assert [list(select_tiling(*size, VisionConfig())) for size, _ in pairs] == [tiling for _, tiling in pairs]


def test_pictures_up_to_ten_times_as_long_as_wide_have_at_most_twelve_tiles():
    long, short = np.random.default_rng(0).integers(1, 6000, (2, 2000)).tolist()
    sizes = [(a, max(b, a // 10 + 1)) for a, b in zip(long, short, strict=True)]
    assert max(math.prod(select_tiling(*size, VisionConfig())) for size in sizes) == 12


def test_a_longer_picture_has_more_tiles_as_in_the_reference():
    assert select_tiling(10_000, 400, VisionConfig()) == (15, 1)


def test_every_pixel_of_the_crops_matches_the_reference(golden, picture):
    pixels, tiling = golden.crops[picture]
    expected = golden.expected["images"][picture]
    assert list(tiling) == expected["tiling_hw"]
    # The reference makes a global crop and one tile of the same pixels.
    both = np.concatenate([pixels, pixels]) if tiling == (1, 1) else pixels
    assert hashlib.sha256(both.tobytes()).hexdigest() == expected["crops_sha256"]


def test_a_picture_of_one_tile_has_one_crop(golden):
    assert [len(pixels) for pixels, _ in golden.crops] == [1, 9, 1, 10]


def test_a_picture_of_one_pixel_has_a_crop():
    pixels, tiling = prepare_crops(Image.new("RGB", (1, 1), "red"), SMALL)
    assert tiling == (1, 1)
    assert (pixels == (255, 0, 0)).all()


def test_neighbouring_tiles_share_two_margins_of_pixels():
    ramp = Image.linear_gradient("L").resize((500, 500)).convert("RGB")
    pixels, tiling = prepare_crops(ramp, SMALL)
    assert tiling.rows > 1
    upper, lower = pixels[1], pixels[1 + tiling.columns]
    assert np.array_equal(upper[SMALL.tile_stride :], lower[: 2 * SMALL.margin_pixels])


def test_normalize_maps_pixels_to_minus_one_to_one():
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 1, 1, 3)
    normalized = normalize(pixels, torch.float32)
    assert normalized.shape == (1, 3, 1, 1)
    assert normalized.flatten().tolist() == pytest.approx([-1, -0.6, 1], abs=1e-6)


def merge_cell_by_cell(features, tiling, config):
    """The result of merge_crops, with each cell of the stitched grid computed alone."""
    grid, margin = config.grid, config.overlap_margin
    step = grid - 2 * margin

    def source(cell, tiles):
        """The number of the tile from which a cell of the stitched grid comes, and the cell in that tile."""
        tile = min(max(0, (cell - margin) // step), tiles - 1)
        return tile, cell - tile * step

    height, width = step * tiling.rows + 2 * margin, step * tiling.columns + 2 * margin
    stitched = np.zeros((height, width, features.shape[-1]))
    for y in range(height):
        for x in range(width):
            (row, v), (column, u) = source(y, tiling.rows), source(x, tiling.columns)
            stitched[y, x] = features[1 + row * tiling.columns + column, v * grid + u]
    merged = []
    for y in range(grid):
        for x in range(grid):
            rows = slice(y * height // grid, -(-(y + 1) * height // grid))
            columns = slice(x * width // grid, -(-(x + 1) * width // grid))
            merged.append([*features[0, y * grid + x], *stitched[rows, columns].mean((0, 1))])
    return np.array(merged)


@pytest.mark.parametrize("tiling", [(1, 2), (2, 1), (2, 3), (3, 3), (1, 6)])
@pytest.mark.parametrize("margin", [1, 0])
def test_merge_crops_equals_a_merge_cell_by_cell(tiling, margin):
    config, tiling = replace(SMALL, overlap_margin=margin), Tiling(*tiling)
    features = torch.randn(1 + math.prod(tiling), 16, 6, generator=torch.Generator().manual_seed(1))
    merged = merge_crops(features, tiling, config)
    assert np.allclose(merged.numpy(), merge_cell_by_cell(features.numpy(), tiling, config), atol=1e-6)


def test_the_features_of_one_tile_are_used_for_global_crop_and_tiles():
    features = torch.randn(1, 16, 6)
    merged = merge_crops(features, Tiling(1, 1), SMALL)
    twice = merge_cell_by_cell(features.repeat(2, 1, 1).numpy(), Tiling(1, 1), SMALL)
    assert np.allclose(merged.numpy(), twice, atol=1e-6)
