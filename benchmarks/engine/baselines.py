"""Baselines for the engine, on the same network: one picture at a time, and static batches."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from moondream_beam.models.moondream.engine.decoding.outputs import decode_outputs
from moondream_beam.models.moondream.engine.engine import Engine
from moondream_beam.models.moondream.engine.jobs import new_row
from moondream_beam.models.moondream.engine.slots import run_prompts
from moondream_beam.models.moondream.network.crops import Crops, Tiling, normalize, prepare_crops
from moondream_beam.models.moondream.network.decoder.cache import KVCache
from moondream_beam.models.tasks import Request


def answer_naively(engine: Engine, requests: Sequence[Request]) -> int:
    """Answer one picture at a time, like the reference. Return the number of new tokens.

    A picture of one tile is encoded twice, and every pass attends to the whole context through a mask.
    """
    with torch.inference_mode():
        return sum(_one(engine, request) for request in requests)


def _one(engine: Engine, request: Request) -> int:
    model, config = engine.model, engine.config
    context, length = config.text.max_context, config.prefix_length
    crops = prepare_crops(request.picture, config.vision)
    pixels = crops.pixels_NHWC if len(crops.pixels_NHWC) > 1 else crops.pixels_NHWC.repeat(2, axis=0)
    features = model.vision.encode(normalize(torch.from_numpy(pixels).to(engine.device), engine.dtype))
    if crops.tiling == Tiling(1, 1):
        features = features[:1]
    image_BTC = model.vision.project(features, [crops.tiling])
    bos = torch.full((1, 1), config.tokenizer.bos_id, device=engine.device)
    cache = KVCache.empty(config.text, 1, context, like=image_BTC)
    positions = torch.arange(context, device=engine.device)
    prefix_mask = (positions < length).expand(1, 1, length, context)
    embeds_BTC = torch.cat([model.text.embed(bos), image_BTC], dim=1)
    model.text(embeds_BTC, positions[None, :length], prefix_mask, cache)
    row = new_row(request, config, engine.tokenizer)
    embeds_BTC = model.text.embed(torch.tensor([row.prompt], device=engine.device))
    tokens, position = 0, length
    while True:
        fed = positions[None, position : position + embeds_BTC.shape[1]]
        hidden_BTC = model.text(embeds_BTC, fed, positions <= fed[:, None, :, None], cache)
        position += embeds_BTC.shape[1]
        embeds_BTC = decode_outputs(model, hidden_BTC[:, -1], [row])[:, None]
        tokens += 1
        if row.finish_reason:
            return tokens


def answer_in_static_batches(engine: Engine, requests: Sequence[Request], size: int) -> int:
    """Answer batches of ``size`` requests, each until its longest answer ends. Return the number of new tokens.

    Threads make the crops of a batch before the batch starts.
    """
    tokens = 0
    with torch.inference_mode(), ThreadPoolExecutor(4) as threads:
        for start in range(0, len(requests), size):
            batch = requests[start : start + size]
            crops = list(threads.map(lambda r: prepare_crops(r.picture, engine.config.vision), batch))
            tokens += _batch(engine, batch, crops)
    return tokens


def _batch(engine: Engine, requests: Sequence[Request], crops: Sequence[Crops]) -> int:
    model, length = engine.model, engine.config.prefix_length
    prefixes = engine.encode(crops)
    rows = [new_row(request, engine.config, engine.tokenizer) for request in requests]
    width = length + max(row.num_positions for row in rows) + 1
    cache = KVCache.empty(engine.config.text, len(rows), width, like=model.text.wte)
    cache.copy_from(prefixes, range(len(rows)), length)
    embeds_BC = decode_outputs(
        model, run_prompts(model, [row.prompt for row in rows], [length] * len(rows), cache), rows
    )
    positions_BT = torch.tensor([[length + len(row.prompt)] for row in rows], device=engine.device)
    last = torch.tensor([[length + row.num_positions] for row in rows], device=engine.device)
    while alive := [index for index, row in enumerate(rows) if row.finish_reason is None]:
        seen = torch.arange(int(positions_BT.max()) + 1, device=engine.device)
        hidden_BC = model.text(embeds_BC[:, None], positions_BT, seen <= positions_BT[:, None, :, None], cache)[:, 0]
        embeds_BC[alive] = decode_outputs(model, hidden_BC[alive], [rows[index] for index in alive])
        # A row that ended repeats its last token at its last position until all rows have ended.
        positions_BT = torch.minimum(positions_BT + 1, last)
    return sum(len(row.token_ids) + row.positions_per_output * len(row.objects) for row in rows)
