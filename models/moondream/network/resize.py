"""LANCZOS resizing of pictures: by Pillow, or on a device as two matrix products.

The device version takes the coefficients of Pillow 12 (src/libImaging/Resample.c): integers of ``COEFFICIENT_BITS``
bits, first along rows, then along columns, rounded to 8 bits in between. All sums are integers that float32 holds
exactly, so both versions give the same pixels.
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

# Pillow's filter reaches over this many source pixels on each side, times the scale of a reduction.
LANCZOS_SUPPORT = 3.0
COEFFICIENT_BITS = 22
# The product is split into the low 7 bits of the coefficients and the rest. Each part stays below 2**24, which float32
# holds exactly, for up to a thousand source pixels in a sum: a reduction by a factor of 170.
LOW_BITS = 7
# Pixels of a picture that are float32 at once: 192 MB of three channels.
MAX_FLOAT_PIXELS = 16 << 20

logger = logging.getLogger(__name__)


def resize(picture: Image, sizes: Sequence[Size]) -> list[NDArray[np.uint8]]:
    """Return an RGB picture in each of these sizes (width, height), each ``[height, width, 3]``, made by Pillow."""
    return [np.array(picture.resize(size, Resampling.LANCZOS)) for size in sizes]


def resize_on(device: torch.device) -> Resize:
    """Return a function that does the same as ``resize`` on a device.

    If the device has no memory for a picture, the function logs a warning and resizes that picture by Pillow.
    """

    def resize_on_device(picture: Image, sizes: Sequence[Size]) -> list[NDArray[np.uint8]]:
        try:
            with torch.inference_mode():
                pixels_HWC = torch.from_numpy(np.array(picture)).to(device)
                return [resize_tensor(pixels_HWC, size).cpu().numpy() for size in sizes]
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            logger.warning("no memory on %s to resize %d x %d pixels: resized on the CPU", device, *picture.size)
        return resize(picture, sizes)

    return resize_on_device


def resize_tensor(pixels_HWC: Tensor, size: Size) -> Tensor:
    """Resize uint8 pixels ``[H, W, 3]`` to ``[height, width, 3]`` on their device. ``size`` is (width, height)."""
    height, width, _ = pixels_HWC.shape
    across = coefficients(width, size[0], pixels_HWC.device)
    down = coefficients(height, size[1], pixels_HWC.device)
    num_rows = max(1, MAX_FLOAT_PIXELS // width)
    parts = [_resize_rows(part.permute(2, 0, 1), across) for part in pixels_HWC.split(num_rows)]
    narrow_CHW = torch.cat(parts, dim=1)
    return _resize_rows(narrow_CHW.transpose(1, 2), down).permute(2, 1, 0).contiguous()


def coefficients(count: int, wanted: int, device: torch.device) -> Tensor:
    """Return Pillow's coefficients for rows resized from ``count`` to ``wanted`` pixels, float32 ``[wanted, count]``.

    They are integers. The coefficients of one wanted pixel sum to about 2 ** COEFFICIENT_BITS, which stands for 1.
    """
    scale = count / wanted
    stretch = max(scale, 1.0)
    centers = ((torch.arange(wanted, device=device, dtype=torch.float64) + 0.5) * scale)[:, None]
    first = (centers - LANCZOS_SUPPORT * stretch + 0.5).trunc().clamp_min(0)
    end = (centers + LANCZOS_SUPPORT * stretch + 0.5).trunc().clamp_max(count)
    pixels = torch.arange(count, device=device, dtype=torch.float64)
    distances = (pixels + 0.5 - centers) / stretch
    weights = torch.where(
        distances.abs() < LANCZOS_SUPPORT, torch.sinc(distances) * torch.sinc(distances / LANCZOS_SUPPORT), 0.0
    )
    weights = torch.where((pixels >= first) & (pixels < end), weights, 0.0)
    weights = weights / weights.sum(-1, keepdim=True)
    # Halves are rounded away from 0, as in Pillow.
    return (weights.sign() * (weights.abs() * 2**COEFFICIENT_BITS + 0.5).floor()).float()


def _resize_rows(pixels: Tensor, weights: Tensor) -> Tensor:
    """Resize rows of uint8 pixels ``[..., count]`` to ``[..., wanted]`` with coefficients ``[wanted, count]``."""
    pixels = pixels.float()
    high = (weights / 2**LOW_BITS).round()
    low = weights - high * 2**LOW_BITS
    sums = ((pixels @ high.T).int() << LOW_BITS) + (pixels @ low.T).int()
    return ((sums + (1 << (COEFFICIENT_BITS - 1))) >> COEFFICIENT_BITS).clamp_(0, 255).to(torch.uint8)
