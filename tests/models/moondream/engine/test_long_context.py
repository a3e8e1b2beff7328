"""Long prompts: run in parts, with a cache that is as long as the requests need and no longer."""

import pytest
import torch
from PIL import Image
from support.data.golden import Golden

from moondream_beam.models.moondream.annotator import Moondream
from moondream_beam.models.moondream.checkpoints.releases import RELEASES
from moondream_beam.models.moondream.checkpoints.weights import Checkpoint
from moondream_beam.models.moondream.engine import slots as module
from moondream_beam.models.moondream.engine.engine import Engine
from moondream_beam.models.moondream.engine.slots import run_prompts
from moondream_beam.models.moondream.network.decoder.cache import KVCache
from moondream_beam.models.tasks import Caption, Query, Request, Sampling

CPU = torch.device("cpu")
BRIEF = Sampling(max_tokens=3, temperature=0)


@pytest.fixture(scope="module")
def long_toy(make_toy):
    """A toy with a context of 4,096 positions."""
    return make_toy(max_context=4096)


@pytest.fixture
def engine(long_toy):
    return Engine(Checkpoint.at(long_toy), CPU, torch.float32)


def prompts_of(lengths):
    noise = torch.Generator().manual_seed(0)
    return [torch.randint(7, 600, (length,), generator=noise).tolist() for length in lengths]


@torch.inference_mode()
def test_prompts_in_parts_equal_whole_prompts(engine, monkeypatch):
    prompts = prompts_of([1, 7, 8, 9, 16, 30])

    def run():
        cache = KVCache.empty(engine.config.text, len(prompts), 40, like=engine.model.text.wte)
        return run_prompts(engine.model, prompts, [0] * len(prompts), cache), cache

    whole, whole_cache = run()
    monkeypatch.setattr(module, "MAX_PROMPT_PART", 8)
    parts, parts_cache = run()
    assert torch.allclose(parts, whole, atol=1e-5)
    for row, prompt in enumerate(prompts):
        ours, theirs = parts_cache.keys[:, row, :, : len(prompt)], whole_cache.keys[:, row, :, : len(prompt)]
        assert torch.allclose(ours, theirs, atol=1e-5)


def request(id, words, picture):
    return Request(id, picture, Query("dog " * words) if words else Caption(), BRIEF)


def test_the_cache_is_as_long_as_needed_and_short_again_after_a_long_prompt(engine):
    picture = Image.new("RGB", (56, 56), "red")

    def ask(*requests):
        return {each.id: each.result.text for each in engine.answer(requests)}

    short = request("short", 0, picture)
    alone = ask(short)
    assert engine._slots.num_positions == 256
    ask(request("long", 1500, picture))
    assert engine._slots.num_positions >= 1536
    assert ask(short) == alone
    assert engine._slots.num_positions == 256


def test_short_requests_after_a_long_one_in_a_stream_get_short_slots_again(long_toy):
    engine = Engine(Checkpoint.at(long_toy), CPU, torch.float32, batch_size=4)
    picture = Image.new("RGB", (56, 56), "red")
    requests = [request(str(number), 1500 if number == 10 else 0, picture) for number in range(40)]
    found = {each.id: each.result.text for each in engine.answer(requests)}
    assert len(found) == 40 and engine._slots.num_positions == 256
    assert len({text for id, text in found.items() if id != "10"}) == 1


def test_the_context_of_moondream_3_has_32768_positions():
    config = RELEASES["3-preview-2026-02-10"].config
    assert config.text.max_context == 32768 and config.prefix_length == 730


@pytest.mark.slow
def test_a_prompt_of_thousands_of_tokens_is_answered_by_moondream_3(tmp_path):
    """The weights do not limit the context: config.json of the reference checkpoint does."""
    large = Golden("moondream3")
    for path in (large.folder / "model.safetensors", large.tokenizer_path):
        (tmp_path / path.name).symlink_to(path)
    text = (large.folder / "config.json").read_text().replace('"max_context": 1024', '"max_context": 32768')
    (tmp_path / "config.json").write_text(text)
    moondream = Moondream(str(tmp_path), device="cpu", dtype="float32", batch_size=2)
    requests = [request("long", 4000, large.pictures[0]), request("short", 0, large.pictures[0])]
    found = {each.id: each for each in moondream.answer(requests)}
    assert found["long"].tokens.input > 4730 and found["long"].result.finish_reason in ("stop", "length")
    ids = large.expected["images"][0]["caption"]["normal"]["ids"][: BRIEF.max_tokens]
    assert found["short"].result.text == large.engine.tokenizer.decode(ids)
