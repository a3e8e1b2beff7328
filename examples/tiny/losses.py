"""How far the network is from a batch: words, places and sizes.

Letters of the shapes: B pictures, N crops, T tokens, C channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from moondream_beam.models.moondream.checkpoints.weights import MoondreamModel
from moondream_beam.models.moondream.network.crops import normalize
from moondream_beam.models.moondream.network.region import size_to_fractional_bin

from .lessons import IGNORED, Batch

# Standard deviation, in bins, of the bell around the right bin: near misses are nearly right.
_SPREAD = 4.0


class Losses(NamedTuple):
    """Mean losses: of words in nats; of coordinates and sizes in nats above the least that their bells allow."""

    words: Tensor
    coordinates: Tensor
    sizes: Tensor


def look(model: MoondreamModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """The features of all crops, ``[N, patches, C]``, and the image embeddings, ``[B, patches, C]``."""
    features_NTC = model.vision.encode(normalize(batch.pixels_NHWC, torch.float32))
    return features_NTC, model.vision.project(features_NTC, batch.tilings)


def read(model: MoondreamModel, seen_BTC: Tensor, batch: Batch) -> Tensor:
    """Hidden states of all tokens behind the image prefix, ``[B, T, C]``, from the picture's embeddings."""
    ids, prefix = model.config.tokenizer, model.config.text.prefix_attn
    rows = len(seen_BTC)
    start = model.text.embed(torch.full((rows, 1), ids.bos_id))
    embeds_BTC = torch.cat([start, seen_BTC, _embed(model, batch)], dim=1)
    positions_BT = torch.cat([torch.arange(prefix).expand(rows, -1), batch.positions_BT], dim=1)
    segments_BT = F.pad(batch.segments_BT, (prefix, 0))
    prefixed = segments_BT[:, None, :] == 0
    own = segments_BT[:, :, None] == segments_BT[:, None, :]
    past = positions_BT[:, :, None] >= positions_BT[:, None, :]
    mask_B1TS = (prefixed | (own & past))[:, None]
    return model.text(embeds_BTC, positions_BT, mask_B1TS)[:, prefix:]


def measure(model: MoondreamModel, hidden_BTC: Tensor, batch: Batch) -> Losses:
    """The losses of the hidden states behind the prefix."""
    taught = batch.due_ids_BT != IGNORED
    words = F.cross_entropy(model.text.logits(hidden_BTC[taught]), batch.due_ids_BT[taught])
    located, sized = ~batch.due_BT3[..., 0].isnan(), ~batch.due_BT3[..., 1].isnan()
    coordinate_logits = model.region.decode_coordinate(hidden_BTC[located])
    size_logits = model.region.decode_size(hidden_BTC[sized])
    coordinates = batch.due_BT3[located][:, 0] * coordinate_logits.shape[-1]
    sizes = size_to_fractional_bin(batch.due_BT3[sized][:, 1:], size_logits.shape[-1])
    return Losses(words, _miss(coordinate_logits, coordinates), _miss(size_logits, sizes))


def fraction_right(model: MoondreamModel, hidden_BTC: Tensor, batch: Batch) -> float:
    """The fraction of segments with words all of whose words, and the end, are the likeliest: greedily told right."""
    taught = batch.due_ids_BT != IGNORED
    right = model.text.logits(hidden_BTC[taught]).argmax(-1) == batch.due_ids_BT[taught]
    rows = torch.arange(len(taught))[:, None].expand_as(taught)
    segments = rows[taught] * (int(batch.segments_BT.max()) + 1) + batch.segments_BT[taught]
    numbers, inverse = segments.unique(return_inverse=True)
    wrong = torch.zeros(len(numbers)).index_add(0, inverse, (~right).float())
    return (wrong == 0).float().mean().item()


def _embed(model: MoondreamModel, batch: Batch) -> Tensor:
    ids = model.config.tokenizer
    embeds_BTC = model.text.embed(batch.ids_BT)
    located, sized = batch.ids_BT == ids.coord_id, batch.ids_BT == ids.size_id
    embeds_BTC = embeds_BTC.clone()
    embeds_BTC[located] = model.region.encode_coordinate(batch.given_BT3[located][:, :1])
    embeds_BTC[sized] = model.region.encode_size(batch.given_BT3[sized][:, 1:])
    return embeds_BTC


def _miss(logits: Tensor, right: Tensor) -> Tensor:
    """Divergence of the logits ``[..., bins]`` from a bell around the right bin ``[...]``."""
    away = torch.arange(logits.shape[-1]) - right[..., None]
    bell = torch.softmax(-0.5 * (away / _SPREAD) ** 2, dim=-1)
    return F.kl_div(torch.log_softmax(logits, dim=-1), bell, reduction="none").sum(-1).mean()
