"""Sampled tokens follow the distribution of the reference, and each row depends on its own numbers only."""

import pytest
import torch
from support.data.golden import Golden

from moondream_beam.models.moondream.engine.decoding.sampling import (
    BLOCK_SIZE,
    NUM_CANDIDATES,
    Draws,
    invert_cdf,
    nucleus,
    penalize_repetition,
    probabilities,
    sample_from_nucleus,
    seeded_random,
)
from moondream_beam.models.moondream.engine.decoding.sampling import sample as sample_once

LOGITS = torch.tensor([2.0, -1.0, 1.0, 0.5])


def sample(logits, temperatures, top_ps, uniforms):
    """The token ids of rows, drawn again among all tokens where a nucleus reaches beyond the candidates."""
    draws = Draws.of(temperatures, top_ps, uniforms, logits.device)
    ids, reaches = sample_once(logits, draws, NUM_CANDIDATES)
    again, never = sample_once(logits, draws, logits.shape[-1])
    assert not never.any() and torch.equal(ids[~reaches], again[~reaches])
    return again


def kept_probabilities(logits, temperature, top_p):
    """The distribution over the vocabulary from which a row is sampled."""
    probs = probabilities(logits[None], torch.tensor([temperature]))
    kept, ids = nucleus(probs, torch.tensor([top_p]))
    return torch.zeros_like(probs).scatter(1, ids, kept / kept.sum())[0]


@pytest.mark.parametrize(
    "name, temperature, top_p",
    [
        ("public", 0.5, 0.3),
        ("public", 1.0, 0.9),
        ("public", 0.2, 0.05),
        ("moondream3", 0.5, 0.9),
        ("moondream3", 1.0, 0.9),
        ("moondream3", 1.0, 0.3),
        ("moondream3", 0.2, 0.05),
    ],
)
def test_probabilities_match_the_reference(name, temperature, top_p):
    golden = Golden(name)
    logits = torch.from_numpy(golden.arrays["img0.caption_normal.first_logits"])
    expected = torch.from_numpy(golden.arrays[f"sampling.t{temperature}_p{top_p}.probs"])
    found = kept_probabilities(logits, temperature, top_p)
    assert torch.equal(found > 0, expected > 0)
    assert torch.allclose(found, expected, atol=1e-5)


def test_top_p_keeps_the_first_token_that_exceeds_it():
    # The most likely token has about 0.6, the next 0.22.
    kept = [(kept_probabilities(LOGITS, 1.0, top_p) > 0).sum().item() for top_p in (1e-9, 0.5, 0.7, 0.9)]
    assert kept == [1, 1, 2, 3]


def test_each_row_uses_its_own_temperature_and_top_p():
    temperatures, top_ps, uniforms = [0.3, 2.0, 1.0, 2.0, 0.0], [1.0, 0.5, 0.7, 1.0, 0.1], [0.9, 0.9, 0.99, 0.9, 0.9]
    together = sample(LOGITS.repeat(5, 1), temperatures, top_ps, uniforms)
    alone = [sample(LOGITS[None], [t], [p], [d]) for t, p, d in zip(temperatures, top_ps, uniforms, strict=True)]
    assert together.tolist() == torch.cat(alone).tolist()
    assert len(set(together.tolist())) > 2


@pytest.mark.parametrize("temperature", [1e-3, 1e-20, 1e-38, 1e-60])
def test_a_tiny_temperature_takes_the_most_likely_token(temperature):
    masked = torch.cat([LOGITS, torch.tensor([-torch.inf])])[None]
    assert probabilities(masked, torch.tensor([temperature])).tolist() == [[1, 0, 0, 0, 0]]


def test_evenly_spaced_uniforms_give_tokens_in_proportion_to_probability():
    uniforms = [(index + 0.5) / 1000 for index in range(1000)]
    ids = sample(LOGITS.repeat(1000, 1), [1.0] * 1000, [1.0] * 1000, uniforms)
    shares = ids.bincount(minlength=4) / 1000
    assert torch.allclose(shares, LOGITS.softmax(-1), atol=2e-3)


def test_a_uniform_just_below_one_gives_a_token_of_the_nucleus():
    ids = sample(LOGITS.repeat(2, 1), [1.0] * 2, [0.7] * 2, [1 - 1e-12, 0.0])
    assert ids.tolist() == [2, 0]


def many_probabilities(rows, tokens, sharpness=1.0):
    noise = torch.Generator().manual_seed(rows)
    return (sharpness * torch.randn(rows, tokens, generator=noise)).softmax(-1)


@pytest.mark.parametrize("tokens", [7, BLOCK_SIZE, BLOCK_SIZE + 1, 5 * BLOCK_SIZE - 3])
def test_invert_cdf_matches_a_cumulative_sum_in_float64(tokens):
    """A uniform at the border between two tokens may give either of them."""
    probs, uniforms = many_probabilities(500, tokens), torch.linspace(0, 0.9999, 500)
    reached = probs.double().cumsum(-1)
    goal = uniforms.double() * reached[:, -1]
    found = invert_cdf(probs, uniforms)[:, None]
    after, before = reached.gather(1, found)[:, 0], (reached - probs).gather(1, found)[:, 0]
    assert ((before <= goal + 1e-6) & (goal <= after + 1e-6)).all()
    assert len(found.unique()) > 5


@pytest.mark.parametrize("uniform", [0.0, 0.3, 0.999999])
def test_invert_cdf_never_returns_an_index_of_probability_zero(uniform):
    """Rounding may leave the cumulative sum of a block below the target."""
    probs = many_probabilities(400, 3 * BLOCK_SIZE)
    probs[:, torch.arange(3 * BLOCK_SIZE) % BLOCK_SIZE > 200] = 0
    picked = invert_cdf(probs / 7, torch.full((400,), uniform))
    assert (probs.gather(1, picked[:, None]) > 0).all()


@pytest.mark.parametrize("sharpness", [0.1, 8.0])
def test_sample_from_nucleus_matches_a_full_sort(sharpness):
    """Flat probabilities have a nucleus of most tokens, sharp probabilities one of a few tokens."""
    probs, uniforms = many_probabilities(200, 4 * NUM_CANDIDATES, sharpness), torch.linspace(0, 0.9999, 200)
    top_p = torch.full((200,), 0.6)
    kept, ids = nucleus(probs, top_p)
    assert ((kept > 0).sum(-1) > NUM_CANDIDATES).tolist() == [sharpness < 1] * 200
    drawn, reaches = sample_from_nucleus(probs, top_p, uniforms, NUM_CANDIDATES)
    assert reaches.tolist() == [sharpness < 1] * 200
    if sharpness < 1:
        drawn, reaches = sample_from_nucleus(probs, top_p, uniforms, probs.shape[-1])
    assert torch.equal(drawn, ids.gather(1, invert_cdf(kept, uniforms)[:, None])[:, 0]) and len(drawn.unique()) > 5
    assert not reaches.any()


def test_other_rows_of_a_batch_do_not_change_the_sampled_token():
    """Many probabilities are equal, as in half precision. The nucleus of the last row exceeds the candidates."""
    logits = many_probabilities(8, 4 * NUM_CANDIDATES, 8.0).log().mul(4).round().div(4)
    logits = torch.cat([logits, torch.zeros(1, 4 * NUM_CANDIDATES)])
    for number in range(20):
        uniforms = [(row + number * 0.61) % 1 for row in torch.linspace(0, 1, 9).tolist()]
        together = sample(logits, [1.0] * 9, [0.9] * 9, uniforms).tolist()
        alone = [sample(logits[row : row + 1], [1.0], [0.9], [uniforms[row]]).item() for row in range(9)]
        assert together == alone


def test_rows_of_temperature_zero_in_a_mixed_batch_are_greedy():
    ids = sample(LOGITS.repeat(3, 1), [0.0, 1.0, 0.0], [1.0] * 3, [0.999] * 3)
    assert ids.tolist()[::2] == [0, 0]
    assert ids[1] != 0


def test_a_penalty_divides_positive_logits_and_multiplies_negative_ones():
    penalized = penalize_repetition(LOGITS[None], torch.tensor([[0, 1, 0]]), torch.tensor([2.0]))
    assert penalized.tolist() == [[1.0, -2.0, 1.0, 0.5]]


def test_each_row_has_its_own_penalty_and_its_own_tokens():
    generated, penalties = torch.tensor([[0, 0], [1, 2]]), torch.tensor([4.0, 1.0])
    penalized = penalize_repetition(LOGITS.repeat(2, 1), generated, penalties)
    assert penalized.tolist() == [[0.5, -1.0, 1.0, 0.5], LOGITS.tolist()]


def test_a_request_id_gives_the_same_random_numbers_in_every_process():
    # A fixed number, because Python's own hash of strings differs between processes.
    assert seeded_random("a").random() == pytest.approx(0.71514003, abs=1e-8)
    assert seeded_random("b").random() != seeded_random("a").random()
