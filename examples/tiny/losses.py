"""The losses of a batch: of tokens, coordinates and sizes.

Letters of the shapes: B pictures, N crops, T tokens, C channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from moondream_beam.models.moondream.checkpoints.weights import MoondreamModel
from moondream_beam.models.moondream.network.crops import normalize
from moondream_beam.models.moondream.network.region import SIZE_OCTAVES

from .lessons import IGNORED, Batch

# Standard deviation, in bins, of the target distribution around the right bin, so that near bins cost little.
_BELL_STD = 4.0


class Losses(NamedTuple):
    """Mean losses in nats: cross-entropy of tokens, Kullback-Leibler divergence of coordinates and sizes."""

    tokens: Tensor
    coordinates: Tensor
    sizes: Tensor


def encode_pictures(model: MoondreamModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the features of all crops, ``[N, patches, C]``, and the image embeddings, ``[B, patches, C]``."""
    features_NTC = model.vision.encode(normalize(batch.pixels_NHWC, torch.float32))
    return features_NTC, model.vision.project(features_NTC, batch.tilings)


def run_decoder(model: MoondreamModel, image_BTC: Tensor, batch: Batch) -> Tensor:
    """Return the hidden states of all tokens after the image prefix, ``[B, T, C]``.

    A token attends to the prefix and to the tokens of its own segment up to itself.
    """
    ids, prefix = model.config.tokenizer, model.config.text.prefix_attn
    rows = len(image_BTC)
    start = model.text.embed(torch.full((rows, 1), ids.bos_id))
    embeds_BTC = torch.cat([start, image_BTC, _embed(model, batch)], dim=1)
    positions_BT = torch.cat([torch.arange(prefix).expand(rows, -1), batch.positions_BT], dim=1)
    segments_BT = F.pad(batch.segments_BT, (prefix, 0))
    prefixed = segments_BT[:, None, :] == 0
    own = segments_BT[:, :, None] == segments_BT[:, None, :]
    past = positions_BT[:, :, None] >= positions_BT[:, None, :]
    mask_B1TS = (prefixed | (own & past))[:, None]
    return model.text(embeds_BTC, positions_BT, mask_B1TS)[:, prefix:]


def compute_losses(model: MoondreamModel, hidden_BTC: Tensor, batch: Batch) -> Losses:
    """Return the losses of the hidden states ``[B, T, C]`` after the prefix."""
    has_target = batch.target_ids_BT != IGNORED
    tokens = F.cross_entropy(model.text.logits(hidden_BTC[has_target]), batch.target_ids_BT[has_target])
    located, sized = ~batch.targets_BT3[..., 0].isnan(), ~batch.targets_BT3[..., 1].isnan()
    coordinate_logits = model.region.decode_coordinate(hidden_BTC[located])
    size_logits = model.region.decode_size(hidden_BTC[sized])
    coordinates = batch.targets_BT3[located][:, 0] * coordinate_logits.shape[-1]
    sizes = size_to_bin(batch.targets_BT3[sized][:, 1:], size_logits.shape[-1])
    return Losses(tokens, _bell_loss(coordinate_logits, coordinates), _bell_loss(size_logits, sizes))


def exact_match(model: MoondreamModel, hidden_BTC: Tensor, batch: Batch) -> float:
    """Return the fraction of text segments of which every token, with the end, is the most likely one: in [0, 1]."""
    has_target = batch.target_ids_BT != IGNORED
    right = model.text.logits(hidden_BTC[has_target]).argmax(-1) == batch.target_ids_BT[has_target]
    rows = torch.arange(len(has_target))[:, None].expand_as(has_target)
    segments = rows[has_target] * (int(batch.segments_BT.max()) + 1) + batch.segments_BT[has_target]
    numbers, inverse = segments.unique(return_inverse=True)
    wrong = torch.zeros(len(numbers)).index_add(0, inverse, (~right).float())
    return (wrong == 0).float().mean().item()


def _embed(model: MoondreamModel, batch: Batch) -> Tensor:
    ids = model.config.tokenizer
    embeds_BTC = model.text.embed(batch.ids_BT)
    located, sized = batch.ids_BT == ids.coord_id, batch.ids_BT == ids.size_id
    embeds_BTC = embeds_BTC.clone()
    embeds_BTC[located] = model.region.encode_coordinate(batch.inputs_BT3[located][:, :1])
    embeds_BTC[sized] = model.region.encode_size(batch.inputs_BT3[sized][:, 1:])
    return embeds_BTC


def size_to_bin(size: Tensor, count: int) -> Tensor:
    """Return the inverse of ``bin_to_size``, a float in [0, count-1]. Sizes are clamped to [1/1024, 1] first."""
    octaves = torch.log2(size.clamp(2.0**-SIZE_OCTAVES, 1.0)) + SIZE_OCTAVES
    return octaves / SIZE_OCTAVES * (count - 1)


def _bell_loss(logits: Tensor, right: Tensor) -> Tensor:
    """Return the mean divergence of logits ``[..., bins]`` from a normal distribution around the bin ``right``."""
    distance = torch.arange(logits.shape[-1]) - right[..., None]
    bell = torch.softmax(-0.5 * (distance / _BELL_STD) ** 2, dim=-1)
    return F.kl_div(torch.log_softmax(logits, dim=-1), bell, reduction="none").sum(-1).mean()
