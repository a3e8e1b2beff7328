"""Image prefixes: the pictures of a batch through the vision encoder and the decoder, into a KV cache.

Letters of the shapes: B pictures, T positions, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ..checkpoints.weights import MoondreamModel
from ..devices import from_host, upload
from ..network.crops import Crops, normalize
from ..network.decoder.cache import KVCache
from .jobs import CropsFuture


class Prefixes:
    """The image prefixes of jobs. The one of the last picture is kept: the next jobs may share that picture."""

    def __init__(self) -> None:
        self._last: tuple[CropsFuture, KVCache] | None = None

    def clear(self) -> None:
        """Free the prefix of the last picture."""
        self._last = None

    def of(
        self, pictures: Sequence[CropsFuture], encode: Callable[[Sequence[Crops]], KVCache]
    ) -> tuple[list[KVCache], dict[CropsFuture, float]]:
        """Return the prefix of each picture, a cache of one row, and the cost of each picture in crops.

        ``encode`` is called with the crops of the pictures whose prefix is not known, and returns a row for each.
        A picture whose prefix is known costs 0; if all are known, each costs 1.
        """
        known = dict([self._last] if self._last else [])
        new = [picture for picture in dict.fromkeys(pictures) if picture not in known]
        if new:
            prefixes = encode([picture.result() for picture in new])
            known.update({picture: prefixes.slice_rows(index, index + 1) for index, picture in enumerate(new)})
        last = pictures[-1]
        # A copy, so that the prefixes of the whole batch can be freed.
        self._last = (last, KVCache(known[last].heads.clone()))
        costs = {picture: float(len(picture.result().pixels_NHWC)) for picture in new} or dict.fromkeys(known, 1.0)
        return [known[picture] for picture in pictures], {picture: costs.get(picture, 0.0) for picture in known}


def encode_prefixes(model: MoondreamModel, pictures: Sequence[Crops], max_crops_per_pass: int) -> KVCache:
    """Return keys and values of the image prefixes of B pictures, ``[layers, B, H, prefix_length, D]``."""
    text, config, like = model.text, model.config, model.text.wte
    features = []
    pixels_NHWC = torch.cat([torch.from_numpy(crops.pixels_NHWC) for crops in pictures])
    for part in pixels_NHWC.split(max_crops_per_pass):
        features.append(model.vision.encode(normalize(upload(part, like.device), like.dtype)))
    image_BTC = model.vision.project(torch.cat(features), [crops.tiling for crops in pictures])
    opening = [config.tokenizer.bos_id, *config.tokenizer.before_image]
    opening_BT = from_host(opening, torch.int64, like.device).expand(len(pictures), -1)
    embeds_BTC = torch.cat([text.embed(opening_BT), image_BTC], dim=1)
    length = config.prefix_length
    prefixes = KVCache.empty(config.text, len(pictures), length, like=embeds_BTC)
    positions_BT = torch.arange(length, device=like.device).expand(len(pictures), -1)
    causal = torch.ones(length, length, dtype=torch.bool, device=like.device).tril()[None, None]
    text.prefill(embeds_BTC, positions_BT, None if config.text.prefix_attn else causal, prefixes)
    return prefixes
