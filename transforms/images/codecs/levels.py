"""Scale pixels of more or fewer than 8 bits to 8 bits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def gray_to_eight_bits(image: Image.Image, black: int = 0, white: int = 65_535) -> Image.Image:
    """Return gray pixels of up to 16 bits in mode L: ``black`` becomes 0 and ``white`` 255.

    Pillow's own conversion clips values above 255.
    """
    scale = 255 / (white - black)
    offset = 0.5 - black * scale
    return image.convert("I").point(lambda value: value * scale + offset).convert("L")


def from_array(pixels: NDArray[Any], bits: int) -> Image.Image:
    """Return pixels of 0 to ``2**bits - 1``, [height, width] or [height, width, channels], as an image of 8 bits.

    The channels are gray, gray and alpha, RGB, or RGB and alpha. ``bits`` is at most 16.

    Raises:
        IndexError: if a pixel is larger.
    """
    top = (1 << bits) - 1
    # A table of all values needs no copy of the pixels in floating point.
    table = (np.arange(top + 1) * (255 / top) + 0.5).astype(np.uint8)
    levels = table[pixels]
    return Image.fromarray(levels[..., 0] if levels.ndim == 3 and levels.shape[2] == 1 else levels)
