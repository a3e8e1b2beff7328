"""A limit on pixels, set on the image processors of transformers: each family bounds its pictures in its own way."""

from __future__ import annotations

import math
from typing import Any


def limit_pixels(image_processor: Any, max_pixels: int) -> None:
    """Lower the limits of an image processor so that a picture takes at most about ``max_pixels`` pixels.

    Limits are never raised. A processor that scales each picture to one fixed size is left alone.
    """
    size = image_processor.size
    if hasattr(image_processor, "max_soft_tokens"):
        _limit_soft_tokens(image_processor, max_pixels)
    elif getattr(image_processor, "image_grid_pinpoints", None):
        _limit_pinpoints(image_processor, max_pixels)
    elif getattr(image_processor, "crop_to_patches", False):
        crop = size["height"] * size["width"]
        image_processor.max_patches = max(1, min(image_processor.max_patches, max_pixels // crop))
        image_processor.min_patches = min(image_processor.min_patches, image_processor.max_patches)
    elif hasattr(image_processor, "merge_size"):
        # Qwen2-VL and its successors call numbers of pixels "edges".
        for edge in ("shortest_edge", "longest_edge"):
            size[edge] = min(size[edge], max_pixels)
    elif size and size.get("longest_edge"):
        _limit_edge(image_processor, max_pixels)


def _limit_soft_tokens(image_processor: Any, max_pixels: int) -> None:
    """Choose the largest number of tokens of Gemma 4 that stays below the limit; the smallest if none does."""
    # modeling of Gemma 4: a token stands for a square of pooled patches. The processor accepts these numbers only.
    supported = (70, 140, 280, 560, 1120)
    pixels = (image_processor.patch_size * image_processor.pooling_kernel_size) ** 2
    fitting = [count for count in supported if count * pixels <= max_pixels]
    image_processor.max_soft_tokens = min(image_processor.max_soft_tokens, fitting[-1] if fitting else supported[0])


def _limit_pinpoints(image_processor: Any, max_pixels: int) -> None:
    """Leave out the resolutions of LLaVA-NeXT above the limit; keep the smallest one in any case."""
    points = sorted(image_processor.image_grid_pinpoints, key=math.prod)
    image_processor.image_grid_pinpoints = [point for point in points if math.prod(point) <= max_pixels] or points[:1]


def _limit_edge(image_processor: Any, max_pixels: int) -> None:
    """Lower the longest edge. That of Idefics3 and SmolVLM is a multiple of the edge of the tiles that they cut."""
    tile = getattr(image_processor, "max_image_size", None)
    step = tile["longest_edge"] if tile else 1
    edge = max(1, math.isqrt(max_pixels) // step) * step
    image_processor.size["longest_edge"] = min(image_processor.size["longest_edge"], edge)
