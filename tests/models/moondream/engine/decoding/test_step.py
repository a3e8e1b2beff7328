"""A step as a GPU needs it: few operations, one read of the host, and shapes that can be traced."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from support.data.golden import decode_rows, new_row
from torch.utils._python_dispatch import TorchDispatchMode

from moondream_beam.models.moondream.engine.decoder_steps import run_decoder
from moondream_beam.models.moondream.engine.decoding import outputs
from moondream_beam.models.moondream.engine.decoding.step import Plan, decode
from moondream_beam.models.moondream.network.config import TextConfig
from moondream_beam.models.moondream.network.decoder.cache import KVCache
from moondream_beam.models.moondream.network.decoder.text import Text
from moondream_beam.models.tasks import Caption, Detect, Point, Sampling

HOST_READS = {"aten._local_scalar_dense.default", "aten.nonzero.default", "aten.is_nonzero.default"}
MAX_OPERATIONS_PER_LAYER = 14


class CountedOperations(TorchDispatchMode):
    """Counts the operations that compute or copy. Views are none: they launch nothing."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not func.is_view:
            self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))


def text_of(num_layers, **changes):
    config = TextConfig(dim=64, ff_dim=128, n_layers=num_layers, n_heads=4, n_kv_heads=4, vocab_size=64, **changes)
    text = Text(config).requires_grad_(False).eval()
    for parameter in text.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    text.fuse()
    return text


@torch.no_grad()
def operations(text, dtype=torch.float32):
    """The operations of one step of the decoder."""
    text = text.to(dtype)
    cache = KVCache.empty(text.config, 3, 16, like=text.wte)
    embeds, positions = torch.randn(3, 1, 64).to(dtype), torch.tensor([[4], [9], [2]])
    mask = torch.arange(10) <= positions[:, None, :, None]
    text(embeds, positions, mask, cache)
    with CountedOperations() as counted:
        text(embeds, positions, mask, cache)
    return counted.counts


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_of_a_step_has_at_most_14_operations(dtype):
    few, many = operations(text_of(2), dtype), operations(text_of(5), dtype)
    per_layer = {name: (many[name] - few[name]) / 3 for name in many if many[name] != few[name]}
    assert 8 < sum(per_layer.values()) <= MAX_OPERATIONS_PER_LAYER, per_layer
    assert per_layer["aten.addmm.default"] == 2


def rows_of_each_kind():
    """Rows of texts, greedy, warm, penalized and with a narrow nucleus, and rows of objects in each of their steps."""
    warm = Sampling(temperature=0.7, top_p=0.8, repetition_penalty=1.3)
    texts = [
        new_row(Caption(), [1, 2]),
        new_row(Caption(), [1], warm),
        new_row(Caption(), [3], replace(warm, top_p=1.0)),
    ]
    texts[1].token_ids = [5, 6, 5]
    objects = [new_row(Detect("dog"), [1]) for _ in range(3)] + [new_row(Point("dog"), [1])]
    for row, kind, found in zip(
        objects[1:], ("y", "size", "object"), ([[0.5]], [[0.5, 0.25]], [[0.5, 0.25]]), strict=True
    ):
        row.next_output, row.objects = kind, found
    return [*texts, *objects]


def step_of(golden, rows):
    """The two parts of a step that run on the device, as one function of tensors."""
    model, config = golden.engine.model, golden.engine.config.text
    noise = torch.Generator().manual_seed(0)
    cache = KVCache.empty(config, len(rows), 32, like=model.text.wte)
    cache.heads.copy_(torch.randn(cache.heads.shape, generator=noise))
    embeds = torch.randn(len(rows), 1, config.dim, generator=noise)
    positions = torch.arange(len(rows))[:, None] + 3
    plan = Plan.of(rows, golden.engine.config, embeds.device)

    def step():
        hidden_BTC = run_decoder(model, embeds, positions, 24, cache)
        return decode(model, hidden_BTC[:, 0], plan, outputs.NUM_CANDIDATES)

    return step


@torch.no_grad()
def test_a_step_reads_nothing_back_to_the_host(golden):
    step = step_of(golden, rows_of_each_kind())
    step()
    with CountedOperations() as counted:
        step()
    assert counted.counts and not HOST_READS & counted.counts.keys()


@torch.no_grad()
def test_the_host_reads_once_a_step(golden):
    rows = rows_of_each_kind()
    hidden = torch.randn(len(rows), golden.engine.config.text.dim, generator=torch.Generator().manual_seed(0))
    reads = []
    with pytest.MonkeyPatch.context() as patch:
        tolist = torch.Tensor.tolist
        patch.setattr(torch.Tensor, "tolist", lambda tensor: reads.append(tensor.shape) or tolist(tensor))
        with CountedOperations() as counted:
            outputs.decode_outputs(golden.engine.model, hidden, rows)
    assert reads == [(len(rows), 4)] and not HOST_READS & counted.counts.keys()


def test_a_step_is_traced_whole(golden):
    step = step_of(golden, rows_of_each_kind())
    with torch.no_grad():
        wanted_numbers, wanted_embeds = step()
        numbers, embeds = torch.compile(step, fullgraph=True, backend="eager")()
    assert torch.equal(numbers, wanted_numbers) and torch.equal(embeds, wanted_embeds)


def test_a_nucleus_beyond_the_candidates_is_drawn_from_all_tokens(golden, monkeypatch):
    runs = [run for run in golden.runs if isinstance(run.task, Caption)][:4]
    flat = Sampling(temperature=4.0, top_p=0.95)

    def texts():
        rows = [replace(golden.row(run), sampling=flat) for run in runs]
        decode_rows(golden.engine.model, rows, [golden.prefix_of(run) for run in runs])
        return [row.token_ids for row in rows]

    wanted = texts()
    monkeypatch.setattr(outputs, "NUM_CANDIDATES", 2)
    assert texts() == wanted and len({tuple(ids) for ids in wanted}) > 1
