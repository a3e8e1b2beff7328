"""Image prefixes: the pictures of a batch through the vision encoder and the decoder, into a KV cache.

Letters of the shapes: B pictures, T positions, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..checkpoints.weights import MoondreamModel
from ..network.crops import Crops, normalize
from ..network.decoder.cache import KVCache


def encode_prefixes(model: MoondreamModel, pictures: Sequence[Crops], max_crops_per_pass: int) -> KVCache:
    """Return keys and values of the image prefixes of B pictures, ``[layers, B, H, prefix_length, D]``."""
    text, config, like = model.text, model.config, model.text.wte
    features = []
    pixels_NHWC = torch.cat([torch.from_numpy(crops.pixels_NHWC) for crops in pictures])
    for part in pixels_NHWC.split(max_crops_per_pass):
        features.append(model.vision.encode(normalize(part.to(like.device), like.dtype)))
    image_BTC = model.vision.project(torch.cat(features), [crops.tiling for crops in pictures])
    opening = [config.tokenizer.bos_id, *config.tokenizer.before_image]
    opening_BT = torch.tensor(opening, device=like.device).expand(len(pictures), -1)
    embeds_BTC = torch.cat([text.embed(opening_BT), image_BTC], dim=1)
    length = config.prefix_length
    prefixes = KVCache.empty(config.text, len(pictures), length, like=embeds_BTC)
    positions_BT = torch.arange(length, device=like.device).expand(len(pictures), -1)
    causal = torch.ones(length, length, dtype=torch.bool, device=like.device).tril()[None, None]
    text.prefill(embeds_BTC, positions_BT, None if config.text.prefix_attn else causal, prefixes)
    return prefixes
