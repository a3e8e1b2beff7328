"""Pictures made smaller or larger with Pillow's LANCZOS: by Pillow, or on a device as two matrix products.

The coefficients are those of Pillow's own resampling (src/libImaging/Resample.c of Pillow 12), whole numbers of as
many bits; it goes along rows first and rounds to 8 bits in between, as Pillow does. Floats add up whole numbers exactly
while these are small, so that a device makes the very pixels of Pillow.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image, Resampling
from torch import Tensor

from ...tasks import Size
from ..devices import is_out_of_memory

Resize = Callable[[Image, Sequence[Size]], list[NDArray[np.uint8]]]

LOBES = 3.0
COEFFICIENT_BITS = 22
# Products with so many bits of the coefficients, and with the others, stay below the 2**24 that float32 holds exactly:
# with up to a thousand pixels in a sum, which is a picture made a hundred and seventy times smaller.
LOW_BITS = 7
# Pixels of a picture that are floats at once: 192 MB of three channels.
PIXELS_AT_ONCE = 16 << 20

logger = logging.getLogger(__name__)


def resize(picture: Image, sizes: Sequence[Size]) -> list[NDArray[np.uint8]]:
    """An RGB picture in each of these sizes, ``[height, width, 3]``, by Pillow."""
    return [np.array(picture.resize(size, Resampling.LANCZOS)) for size in sizes]


def resize_on(device: torch.device) -> Resize:
    """The same on a device. Where a picture finds no memory there, Pillow takes it, and the log says so."""

    def resize_there(picture: Image, sizes: Sequence[Size]) -> list[NDArray[np.uint8]]:
        try:
            with torch.inference_mode():
                pixels_HWC = torch.from_numpy(np.array(picture)).to(device)
                return [resize_tensor(pixels_HWC, size).cpu().numpy() for size in sizes]
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            logger.warning("no memory on %s to resize %d x %d pixels: the CPU does it", device, *picture.size)
        return resize(picture, sizes)

    return resize_there


def resize_tensor(pixels_HWC: Tensor, size: Size) -> Tensor:
    """Pixels of 8 bits, ``[H, W, 3]``, in another size, ``[height, width, 3]``, on their own device."""
    height, width, _ = pixels_HWC.shape
    across = coefficients(width, size[0], pixels_HWC.device)
    down = coefficients(height, size[1], pixels_HWC.device)
    rows = max(1, PIXELS_AT_ONCE // width)
    narrow_CHW = torch.cat([_along_rows(part.permute(2, 0, 1), across) for part in pixels_HWC.split(rows)], dim=1)
    return _along_rows(narrow_CHW.transpose(1, 2), down).permute(2, 1, 0).contiguous()


def coefficients(count: int, wanted: int, device: torch.device) -> Tensor:
    """What each of ``count`` pixels in a row gives to each of ``wanted``: whole numbers of ``2**-COEFFICIENT_BITS``,
    float32 ``[wanted, count]``."""
    scale = count / wanted
    stretch = max(scale, 1.0)
    centers = ((torch.arange(wanted, device=device, dtype=torch.float64) + 0.5) * scale)[:, None]
    first = (centers - LOBES * stretch + 0.5).trunc().clamp_min(0)
    end = (centers + LOBES * stretch + 0.5).trunc().clamp_max(count)
    pixels = torch.arange(count, device=device, dtype=torch.float64)
    distances = (pixels + 0.5 - centers) / stretch
    weights = torch.where(distances.abs() < LOBES, torch.sinc(distances) * torch.sinc(distances / LOBES), 0.0)
    weights = torch.where((pixels >= first) & (pixels < end), weights, 0.0)
    weights = weights / weights.sum(-1, keepdim=True)
    # Half a number is rounded away from 0.
    return (weights.sign() * (weights.abs() * 2**COEFFICIENT_BITS + 0.5).floor()).float()


def _along_rows(levels: Tensor, weights: Tensor) -> Tensor:
    """Rows of 8 bits, ``[..., count]``, in another length, ``[..., wanted]``."""
    levels = levels.float()
    high = (weights / 2**LOW_BITS).round()
    low = weights - high * 2**LOW_BITS
    sums = ((levels @ high.T).int() << LOW_BITS) + (levels @ low.T).int()
    return ((sums + (1 << (COEFFICIENT_BITS - 1))) >> COEFFICIENT_BITS).clamp_(0, 255).to(torch.uint8)
