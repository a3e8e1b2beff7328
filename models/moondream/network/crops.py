"""Crops: a picture cut into a global crop and tiles, and the features of the crops merged again.

After moondream/torch/image_crops.py @ 44146f1. Letters of the shapes: N crops, H W pixels or patches, T patches,
C channels.
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

# Pixels. The generations of 2024 cut no tiles if the longer side is shorter.
MIN_TILED_SIDE = 512
# Each side of a reduced picture must have this many times the pixels to which it is resized: the crops hardly differ.
MIN_REDUCED_SCALE = 2


class Tiling(NamedTuple):
    """The numbers of tiles, down and across, that a picture is cut into."""

    rows: int
    columns: int


class Crops(NamedTuple):
    """The crops of one picture, ``[N, crop_size, crop_size, 3]`` in [0, 255].

    The first is the global crop: the whole picture resized. The tiles follow row by row. A picture of one tile has only
    the global crop; the reference encodes the same pixels twice. The dtype is uint8 with overlapping tiles, else
    float32, because the global crop may be a mean of pixels.
    """

    pixels_NHWC: NDArray[np.uint8] | NDArray[np.float32]
    tiling: Tiling


def select_tiling(height: int, width: int, config: VisionConfig) -> Tiling:
    """Return the overlapping tiles for a picture of ``height`` x ``width`` pixels.

    There are at most ``max_crops`` tiles. A picture more than about ten times as long as wide may get more, because
    the reference rounds the number along the short side up to 1 after it has divided the tiles.
    """
    h, w = height - 2 * config.margin_pixels, width - 2 * config.margin_pixels
    stride, max_tiles = config.tile_stride, config.max_crops
    if h <= stride or w <= stride:
        return Tiling(1, 1)
    min_rows, min_columns = math.ceil(h / stride), math.ceil(w / stride)
    if min_rows * min_columns > max_tiles:
        ratio = math.sqrt(max_tiles / (min_rows * min_columns))
        return Tiling(max(1, math.floor(min_rows * ratio)), max(1, math.floor(min_columns * ratio)))
    rows = max(math.floor(math.sqrt(max_tiles * h / w)), min_rows)
    columns = max(math.floor(math.sqrt(max_tiles * w / h)), min_columns)
    if rows * columns > max_tiles:
        if columns > rows:
            columns = math.floor(max_tiles / rows)
        else:
            rows = math.floor(max_tiles / columns)
    return Tiling(max(1, rows), max(1, columns))


def select_tiling_2024(height: int, width: int, config: VisionConfig) -> Tiling:
    """Return the tiles of 2024 for a picture of ``height`` x ``width`` pixels: 1 or 2 in each direction.

    A picture whose longer side is below ``MIN_TILED_SIDE`` has 1 tile. Otherwise the nearest aspect ratio wins, then
    the nearest size. After moondream/vision_encoder.py @ ffbf822, which compares heights with widths in the second
    criterion; so does this function.
    """
    side = config.crop_size
    if max(height, width) < MIN_TILED_SIDE:
        return Tiling(1, 1)
    tilings = [Tiling(rows, columns) for rows in (1, 2) for columns in (1, 2)]
    return min(
        tilings,
        key=lambda tiling: (
            abs(tiling.columns / tiling.rows - width / height),
            abs(tiling.rows * side - width) + abs(tiling.columns * side - height),
        ),
    )


def tiling_for(height: int, width: int, config: VisionConfig) -> Tiling:
    """Return the tiles for a picture of ``height`` x ``width`` pixels, by the rule of ``config.tiling``."""
    if config.tiling == "overlapping":
        return select_tiling(height, width, config)
    return select_tiling_2024(height, width, config) if config.tiling == "four sizes" else Tiling(1, 1)


def resized_size(tiling: Tiling, config: VisionConfig) -> Size:
    """Return the width and height in pixels to which a picture is resized before it is cut into tiles."""
    if config.tiling != "overlapping" or tiling == (1, 1):
        return tiling.columns * config.crop_size, tiling.rows * config.crop_size
    margins = 2 * config.margin_pixels
    return tiling.columns * config.tile_stride + margins, tiling.rows * config.tile_stride + margins


def accepts_reduced(size: Size, reduced: Size, config: VisionConfig) -> bool:
    """Return whether a picture of ``size`` may come in ``reduced`` pixels, both (width, height).

    True if each side of ``reduced`` is at least twice the side to which the picture is resized for its tiles.
    """
    needed = resized_size(tiling_for(size[1], size[0], config), config)
    return all(has >= MIN_REDUCED_SCALE * needs for has, needs in zip(reduced, needed, strict=True))


def prepare_crops(picture: Image, config: VisionConfig, resize: Resize = resize, size: Size | None = None) -> Crops:
    """Resize an RGB picture, without keeping its proportions, and cut it into crops.

    ``resize`` is used for overlapping tiles; Pillow resizes for the generations of 2024. ``size``: width and height of
    the full picture if ``picture`` is reduced; they decide the number of tiles.
    """
    width, height = size or picture.size
    side, tiling = config.crop_size, tiling_for(height, width, config)
    if config.tiling == "overlapping":
        return _overlapping_crops(picture, tiling, config, resize)
    resized_HWC = np.asarray(picture.resize(resized_size(tiling, config), Resampling.BICUBIC), dtype=np.float32)
    if tiling == (1, 1):
        return Crops(resized_HWC[None], tiling)
    tiles = resized_HWC.reshape(tiling.rows, side, tiling.columns, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)
    global_HWC = resized_HWC.reshape(side, tiling.rows, side, tiling.columns, 3).mean((1, 3))
    return Crops(np.concatenate([global_HWC[None], tiles]), tiling)


def _overlapping_crops(picture: Image, tiling: Tiling, config: VisionConfig, resize: Resize) -> Crops:
    side, stride = config.crop_size, config.tile_stride
    if tiling == (1, 1):
        (global_HWC,) = resize(picture, [(side, side)])
        return Crops(global_HWC[None], tiling)
    global_HWC, resized_HWC = resize(picture, [(side, side), resized_size(tiling, config)])
    tiles = [
        resized_HWC[row * stride : row * stride + side, column * stride : column * stride + side]
        for row in range(tiling.rows)
        for column in range(tiling.columns)
    ]
    return Crops(np.stack([global_HWC, *tiles]), tiling)


def normalize(pixels_NHWC: Tensor, dtype: torch.dtype) -> Tensor:
    """Map pixels in [0, 255] to ``[N, C, H, W]`` in [-1, 1], in ``dtype``."""
    # float16 holds every uint8 exactly, and rounds float32 means of them: means are normalized in float32.
    if pixels_NHWC.dtype == torch.uint8:
        pixels_NHWC = pixels_NHWC.to(dtype)
    return ((pixels_NHWC / 255 - 0.5) / 0.5).to(dtype).permute(0, 3, 1, 2)


def merge_crops(features_NTC: Tensor, tiling: Tiling, config: VisionConfig) -> Tensor:
    """Merge the features of one picture's crops to ``[T, 2C]``: first the global crop, then the tiles.

    The tiles are stitched together and average-pooled to the grid of one crop. A tile loses its margin where it meets
    another tile and keeps it at the border of the picture. With ``config.tiling`` "none" the result is ``[T, C]``.
    """
    grid, margin = config.grid, config.overlap_margin
    global_TC = features_NTC[0]
    if config.tiling == "none":
        return global_TC
    if tiling == (1, 1):
        return torch.cat([global_TC, global_TC], dim=-1)
    tiles_NHWC = features_NTC[1:].unflatten(1, (grid, grid))
    kept_rows = []
    for row in range(tiling.rows):
        top, bottom = 0 if row == 0 else margin, grid if row == tiling.rows - 1 else grid - margin
        kept = []
        for column in range(tiling.columns):
            left, right = 0 if column == 0 else margin, grid if column == tiling.columns - 1 else grid - margin
            kept.append(tiles_NHWC[row * tiling.columns + column, top:bottom, left:right])
        kept_rows.append(torch.cat(kept, dim=1))
    stitched_CHW = torch.cat(kept_rows, dim=0).permute(2, 0, 1)
    # PyTorch on Metal cannot pool to a size that does not divide the input's.
    device = torch.device("cpu") if stitched_CHW.device.type == "mps" else stitched_CHW.device
    pooled_CHW = F.adaptive_avg_pool2d(stitched_CHW.to(device), (grid, grid))
    return torch.cat([global_TC, pooled_CHW.to(global_TC.device).flatten(1).T], dim=-1)
