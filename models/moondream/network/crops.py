"""A picture cut into crops, and the features of its crops put together again.

After moondream/torch/image_crops.py @ 44146f1. Letters of the shapes: N crops, H W pixels or patches, C channels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image, Resampling
from torch import Tensor
from torch.nn import functional as F

from ...tasks import Size
from .config import VisionConfig
from .resize import Resize, resize

# Pixels of a longer side below which the generations of 2024 see a picture whole.
SMALL = 512
# Pixels, a side, of a reduced picture for each that is made of it: with so many the crops hardly differ.
DETAIL = 2


class Tiling(NamedTuple):
    """How many local crops cover a picture."""

    rows: int
    columns: int


class Crops(NamedTuple):
    """The crops of one picture, ``[N, crop_size, crop_size, 3]`` in [0, 255]: the whole, then the tiles row by row.

    uint8, or float32 in 2024, where the whole may be the mean of the tiles' pixels. A picture of one tile has one crop
    here, where the reference encodes the same pixels twice.
    """

    pixels_NHWC: NDArray[np.uint8] | NDArray[np.float32]
    tiling: Tiling


def select_tiling(height: int, width: int, config: VisionConfig) -> Tiling:
    """The tiles for a picture of ``height`` x ``width`` pixels.

    They are ``max_crops`` at most, but for a picture more than ten times as long as wide: the reference rounds
    its short side up to one tile after it has shared them out.
    """
    h, w = height - 2 * config.margin, width - 2 * config.margin
    window, most = config.window, config.max_crops
    if h <= window or w <= window:
        return Tiling(1, 1)
    least_rows, least_columns = math.ceil(h / window), math.ceil(w / window)
    if least_rows * least_columns > most:
        ratio = math.sqrt(most / (least_rows * least_columns))
        return Tiling(max(1, math.floor(least_rows * ratio)), max(1, math.floor(least_columns * ratio)))
    rows = max(math.floor(math.sqrt(most * h / w)), least_rows)
    columns = max(math.floor(math.sqrt(most * w / h)), least_columns)
    if rows * columns > most:
        if columns > rows:
            columns = math.floor(most / rows)
        else:
            rows = math.floor(most / columns)
    return Tiling(max(1, rows), max(1, columns))


def select_size(height: int, width: int, config: VisionConfig) -> Tiling:
    """The tiles, one or two a side, for a picture of ``height`` x ``width`` pixels, as in 2024.

    After moondream/vision_encoder.py @ ffbf822, whose second wish compares heights with widths.
    """
    side = config.crop_size
    if max(height, width) < SMALL:
        return Tiling(1, 1)
    sizes = [Tiling(rows, columns) for rows in (1, 2) for columns in (1, 2)]
    return min(
        sizes,
        key=lambda size: (
            abs(size.columns / size.rows - width / height),
            abs(size.rows * side - width) + abs(size.columns * side - height),
        ),
    )


def select(height: int, width: int, config: VisionConfig) -> Tiling:
    """The tiles for a picture of ``height`` x ``width`` pixels, as its generation has them."""
    if config.tiling == "overlapping":
        return select_tiling(height, width, config)
    return select_size(height, width, config) if config.tiling == "four sizes" else Tiling(1, 1)


def size_of(tiling: Tiling, config: VisionConfig) -> Size:
    """The size in which a picture is cut into tiles."""
    if config.tiling != "overlapping" or tiling == (1, 1):
        return tiling.columns * config.crop_size, tiling.rows * config.crop_size
    return tiling.columns * config.window + 2 * config.margin, tiling.rows * config.window + 2 * config.margin


def keeps_crops(size: Size, reduced: Size, config: VisionConfig) -> bool:
    """Whether the crops of a picture of ``size`` are made of ``reduced`` pixels as well."""
    wanted = size_of(select(size[1], size[0], config), config)
    return all(has >= DETAIL * needs for has, needs in zip(reduced, wanted, strict=True))


def prepare_crops(picture: Image, config: VisionConfig, resize: Resize = resize, size: Size | None = None) -> Crops:
    """Resize an RGB picture (its proportions are not kept) and cut it into tiles, as its generation does.

    ``resize`` is for the overlapping tiles; the others are few, and always made by Pillow. ``size``: of the whole
    picture, where it came in fewer pixels; the tiles are as many as if it had not.
    """
    width, height = size or picture.size
    side, tiling = config.crop_size, select(height, width, config)
    if config.tiling == "overlapping":
        return _overlapping_crops(picture, tiling, config, resize)
    resized = np.asarray(picture.resize(size_of(tiling, config), Resampling.BICUBIC), dtype=np.float32)
    if tiling == (1, 1):
        return Crops(resized[None], tiling)
    tiles = resized.reshape(tiling.rows, side, tiling.columns, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)
    blocks = resized.reshape(side, tiling.rows, side, tiling.columns, 3)
    whole = blocks.mean((1, 3))
    return Crops(np.concatenate([whole[None], tiles]), tiling)


def _overlapping_crops(picture: Image, tiling: Tiling, config: VisionConfig, resize: Resize) -> Crops:
    side, window = config.crop_size, config.window
    if tiling == (1, 1):
        (whole,) = resize(picture, [(side, side)])
        return Crops(whole[None], tiling)
    whole, resized = resize(picture, [(side, side), size_of(tiling, config)])
    tiles = [
        resized[row * window : row * window + side, column * window : column * window + side]
        for row in range(tiling.rows)
        for column in range(tiling.columns)
    ]
    return Crops(np.stack([whole, *tiles]), tiling)


def normalize(pixels_NHWC: Tensor, dtype: torch.dtype) -> Tensor:
    """Pixels in [0, 255] to ``[N, C, H, W]`` in [-1, 1]."""
    # Means of grey levels would lose in half precision what makes them means; grey levels are all in it.
    if pixels_NHWC.dtype == torch.uint8:
        pixels_NHWC = pixels_NHWC.to(dtype)
    return ((pixels_NHWC / 255 - 0.5) / 0.5).to(dtype).permute(0, 3, 1, 2)


def merge_crops(features_NTC: Tensor, tiling: Tiling, config: VisionConfig) -> Tensor:
    """Features of one picture's crops to ``[T, 2C]``: the whole beside the tiles, pooled to the grid of one crop.

    Where the generation has no tiles it is the whole alone, ``[T, C]``.

    Each tile gives up the margin that it shares with a neighbour and keeps that at the border of the picture.
    """
    grid, margin = config.grid, config.overlap_margin
    whole_TC = features_NTC[0]
    if config.tiling == "none":
        return whole_TC
    if tiling == (1, 1):
        return torch.cat([whole_TC, whole_TC], dim=-1)
    tiles = features_NTC[1:].unflatten(1, (grid, grid))
    kept_rows = []
    for row in range(tiling.rows):
        top, bottom = 0 if row == 0 else margin, grid if row == tiling.rows - 1 else grid - margin
        kept = []
        for column in range(tiling.columns):
            left, right = 0 if column == 0 else margin, grid if column == tiling.columns - 1 else grid - margin
            kept.append(tiles[row * tiling.columns + column, top:bottom, left:right])
        kept_rows.append(torch.cat(kept, dim=1))
    stitched_CHW = torch.cat(kept_rows, dim=0).permute(2, 0, 1)
    # Metal has no pooling to a grid that does not divide the other.
    device = torch.device("cpu") if stitched_CHW.device.type == "mps" else stitched_CHW.device
    pooled_CHW = F.adaptive_avg_pool2d(stitched_CHW.to(device), (grid, grid))
    return torch.cat([whole_TC, pooled_CHW.to(whole_TC.device).flatten(1).T], dim=-1)
