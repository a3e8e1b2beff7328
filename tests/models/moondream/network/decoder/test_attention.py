"""The ways to attend in a step give the result of a loop over rows and heads, and the rule takes the fastest one."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from support.data.golden import Golden

from moondream_beam.models.moondream.network.config import TextConfig
from moondream_beam.models.moondream.network.decoder import attention
from moondream_beam.models.moondream.network.decoder.attention import products, sdpa, varlen
from moondream_beam.models.moondream.network.decoder.attention_choice import (
    choose_attention,
    fastest,
    measure_ways,
    random_step,
)
from moondream_beam.models.moondream.network.decoder.text import Text

ROWS = 5
CONFIG = TextConfig(dim=64, ff_dim=64, n_layers=1, n_heads=4, n_kv_heads=4, vocab_size=8, max_context=512)


def naive_varlen(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, seqused_k, block_table, **_):
    """Attend as the documentation of ``varlen_attn`` says, by a loop. Its kernel exists on CUDA only."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == seqused_k.dtype == block_table.dtype == torch.int32
    assert max_q == 1 and max_k >= seqused_k.max() and key.shape[1] % attention.PAGE_MULTIPLE == 0
    assert cu_seq_q.tolist() == list(range(len(query) + 1)) and query.stride(-1) == key.stride(-1) == 1
    out = torch.zeros_like(query)
    group = query.shape[1] // key.shape[2]
    for row, length in enumerate(seqused_k.tolist()):
        for head in range(query.shape[1]):
            keys, values = (part[block_table[row]].flatten(0, 1)[:length, head // group] for part in (key, value))
            scores = (keys.float() @ query[row, head].float()) * query.shape[-1] ** -0.5
            out[row, head] = (scores.softmax(-1) @ values.float()).to(query.dtype)
    return out


def attended(way, config, dtype):
    """Return what a way attends to in a random step, and what a loop gives, both in float64."""
    q, visible = random_step(Text(config).to(dtype), ROWS)
    keys, values = visible.cache.heads[0][:, :, : visible.num_visible].chunk(2, dim=1)
    found = way(q, keys, values, 0, visible).double()
    wanted, group = torch.zeros_like(found), config.n_heads // config.n_kv_heads
    for row in range(ROWS):
        end = int(visible.positions_BT[row, 0]) + 1
        for head in range(config.n_heads):
            k, v = (part[row, head // group, :end].double() for part in (keys, values))
            wanted[row, head, 0] = (k @ q[row, head, 0].double() * config.head_dim**-0.5).softmax(-1) @ v
    return found, wanted


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
@pytest.mark.parametrize("way", [sdpa, products, varlen])
def test_a_way_gives_the_result_of_a_loop_over_rows_and_heads(way, dtype, tolerance, kv_heads, monkeypatch):
    monkeypatch.setattr(attention, "varlen_attn", naive_varlen)
    found, wanted = attended(way, replace(CONFIG, n_kv_heads=kv_heads), dtype)
    assert (found - wanted).norm() <= tolerance * wanted.norm()


@pytest.mark.parametrize("way", [products, varlen])
@pytest.mark.parametrize("name", ["public", "moondream3"])
def test_answers_by_another_way_match_the_reference(way, name, monkeypatch):
    calls: Counter[str] = Counter()

    def noted(*args, **options):
        calls["varlen"] += 1
        return naive_varlen(*args, **options)

    monkeypatch.setattr(attention, "varlen_attn", noted)
    # The caches of the goldens are short.
    monkeypatch.setattr(attention, "PAGE_MULTIPLE", 1)
    golden = Golden(name)
    golden.engine.model.text.step_attention = way
    rows = golden.decode(golden.runs[:4], num_slots=2)
    assert [row.token_ids for row in rows] == [run.wanted.get("ids", []) for run in golden.runs[:4]]
    assert (calls["varlen"] > 0) == (way is varlen)


def test_ways_that_fail_or_differ_have_a_reason_in_place_of_a_time():
    def reads_all(q, keys, values, layer, visible):
        return sdpa(q, keys, values, layer, visible._replace(mask_B1TS=None))

    figures = measure_ways(
        Text(CONFIG), ROWS, lambda work: work, {"varlen": varlen, "all": reads_all, "products": products}
    )
    assert isinstance(figures["sdpa"], float) and isinstance(figures["products"], float)
    # A CPU has no such kernel.
    assert str(figures["varlen"]).startswith("NotImplementedError") and str(figures["all"]).startswith("differs by ")


def test_a_device_that_fails_while_ways_are_measured_is_an_error():
    def fails(*_):
        raise torch.AcceleratorError("CUDA error: an illegal memory access")

    with pytest.raises(torch.AcceleratorError):
        measure_ways(Text(CONFIG), ROWS, lambda work: work, {"fails": fails})


@pytest.mark.parametrize(
    ("figures", "chosen"),
    [
        ({"sdpa": 10.0, "varlen": 8.0, "products": 8.5}, "varlen"),
        ({"sdpa": 10.0, "varlen": 9.5}, "sdpa"),
        ({"sdpa": 10.0, "varlen": "differs by 0.3"}, "sdpa"),
        ({}, "sdpa"),
    ],
)
def test_another_way_is_chosen_only_if_it_is_faster_by_a_tenth(figures, chosen):
    assert fastest(figures) == chosen


def test_a_cpu_keeps_its_attention():
    text = Text(CONFIG)
    assert choose_attention(text, ROWS, None) == "" and text.step_attention is sdpa
