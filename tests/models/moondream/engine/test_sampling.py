"""Draws follow the distribution of the reference, each row by its own numbers."""

import pytest
import torch

from moondream_beam.models.moondream.engine.sampling import (
    BLOCK,
    LIKELIEST,
    draw,
    draw_from_nucleus,
    generator,
    nucleus,
    penalize,
    pick,
    probabilities,
)

LOGITS = torch.tensor([2.0, -1.0, 1.0, 0.5])


def kept_probabilities(logits, temperature, top_p):
    """The distribution over the vocabulary that a row is drawn from."""
    probs = probabilities(logits[None], [temperature])
    kept, ids = nucleus(probs, torch.tensor([top_p]))
    return torch.zeros_like(probs).scatter(1, ids, kept / kept.sum())[0]


@pytest.mark.parametrize("temperature, top_p", [(0.5, 0.3), (1.0, 0.9), (0.2, 0.05)])
def test_probabilities_are_those_of_the_reference(golden, temperature, top_p):
    logits = torch.from_numpy(golden.arrays["img0.caption_normal.first_logits"])
    expected = torch.from_numpy(golden.arrays[f"sampling.t{temperature}_p{top_p}.probs"])
    found = kept_probabilities(logits, temperature, top_p)
    assert torch.equal(found > 0, expected > 0)
    assert torch.allclose(found, expected, atol=1e-5)


def test_top_p_keeps_the_token_that_crosses_it():
    # The likeliest has about 0.6, the next 0.22.
    kept = [(kept_probabilities(LOGITS, 1.0, top_p) > 0).sum().item() for top_p in (1e-9, 0.5, 0.7, 0.9)]
    assert kept == [1, 1, 2, 3]


def test_each_row_has_its_own_temperature_and_top_p():
    temperatures, top_ps, draws = [0.3, 2.0, 1.0, 2.0, 0.0], [1.0, 0.5, 0.7, 1.0, 0.1], [0.9, 0.9, 0.99, 0.9, 0.9]
    together = draw(LOGITS.repeat(5, 1), temperatures, top_ps, draws)
    alone = [draw(LOGITS[None], [t], [p], [d]) for t, p, d in zip(temperatures, top_ps, draws, strict=True)]
    assert together.tolist() == torch.cat(alone).tolist()
    assert len(set(together.tolist())) > 2


@pytest.mark.parametrize("temperature", [1e-3, 1e-20, 1e-38, 1e-60])
def test_a_tiny_temperature_takes_the_likeliest(temperature):
    masked = torch.cat([LOGITS, torch.tensor([-torch.inf])])[None]
    assert probabilities(masked, [temperature]).tolist() == [[1, 0, 0, 0, 0]]


def test_draws_fall_where_their_probability_lies():
    draws = [(index + 0.5) / 1000 for index in range(1000)]
    ids = draw(LOGITS.repeat(1000, 1), [1.0] * 1000, [1.0] * 1000, draws)
    shares = ids.bincount(minlength=4) / 1000
    assert torch.allclose(shares, LOGITS.softmax(-1), atol=2e-3)


def test_the_last_draw_below_one_is_a_token_of_the_nucleus():
    ids = draw(LOGITS.repeat(2, 1), [1.0] * 2, [0.7] * 2, [1 - 1e-12, 0.0])
    assert ids.tolist() == [2, 0]


def many_probabilities(rows, tokens, sharpness=1.0):
    noise = torch.Generator().manual_seed(rows)
    return (sharpness * torch.randn(rows, tokens, generator=noise)).softmax(-1)


@pytest.mark.parametrize("tokens", [7, BLOCK, BLOCK + 1, 5 * BLOCK - 3])
def test_a_token_is_picked_where_the_sum_over_all_before_it_says(tokens):
    """The plain way, in double precision; a draw on the border of two tokens may fall to either."""
    probs, draws = many_probabilities(500, tokens), torch.linspace(0, 0.9999, 500)
    reached = probs.double().cumsum(-1)
    goal = draws.double() * reached[:, -1]
    found = pick(probs, draws)[:, None]
    after, before = reached.gather(1, found)[:, 0], (reached - probs).gather(1, found)[:, 0]
    assert ((before <= goal + 1e-6) & (goal <= after + 1e-6)).all()
    assert len(found.unique()) > 5


@pytest.mark.parametrize("draw_", [0.0, 0.3, 0.999999])
def test_nothing_impossible_is_picked(draw_):
    """Rounding may let the sum of a block fall short of what was looked for."""
    probs = many_probabilities(400, 3 * BLOCK)
    probs[:, torch.arange(3 * BLOCK) % BLOCK > 200] = 0
    picked = pick(probs / 7, torch.full((400,), draw_))
    assert (probs.gather(1, picked[:, None]) > 0).all()


@pytest.mark.parametrize("sharpness", [0.1, 8.0])
def test_a_draw_is_the_same_whether_all_are_sorted_or_the_likeliest(sharpness):
    """Flat probabilities have a nucleus of most tokens, sharp ones of a few."""
    probs, draws = many_probabilities(200, 4 * LIKELIEST, sharpness), torch.linspace(0, 0.9999, 200)
    top_p = torch.full((200,), 0.6)
    kept, ids = nucleus(probs, top_p)
    assert ((kept > 0).sum(-1) > LIKELIEST).tolist() == [sharpness < 1] * 200
    drawn = draw_from_nucleus(probs, top_p, draws)
    assert torch.equal(drawn, ids.gather(1, pick(kept, draws)[:, None])[:, 0]) and len(drawn.unique()) > 5


def test_what_shares_a_batch_changes_no_draw_among_equally_likely_tokens():
    """In half precision many are. One row's nucleus reaches beyond the likeliest, which the others need not."""
    logits = many_probabilities(8, 4 * LIKELIEST, 8.0).log().mul(4).round().div(4)
    logits = torch.cat([logits, torch.zeros(1, 4 * LIKELIEST)])
    for number in range(20):
        draws = [(row + number * 0.61) % 1 for row in torch.linspace(0, 1, 9).tolist()]
        together = draw(logits, [1.0] * 9, [0.9] * 9, draws).tolist()
        alone = [draw(logits[row : row + 1], [1.0], [0.9], [draws[row]]).item() for row in range(9)]
        assert together == alone


def test_greedy_rows_among_drawn_ones_take_the_likeliest():
    ids = draw(LOGITS.repeat(3, 1), [0.0, 1.0, 0.0], [1.0] * 3, [0.999] * 3)
    assert ids.tolist()[::2] == [0, 0]
    assert ids[1] != 0


def test_a_penalty_divides_positive_logits_and_multiplies_negative_ones():
    logits = LOGITS.clone()
    penalize(logits, [0, 1, 0], 2.0)
    assert logits.tolist() == [1.0, -2.0, 1.0, 0.5]


@pytest.mark.parametrize("generated, penalty", [([], 2.0), ([0, 1], 1.0)])
def test_nothing_is_penalized_without_a_penalty_or_a_past(generated, penalty):
    logits = LOGITS.clone()
    penalize(logits, generated, penalty)
    assert torch.equal(logits, LOGITS)


def test_a_request_id_draws_the_same_numbers_in_every_process():
    # Stated here, as Python's own hash of strings differs from process to process.
    assert generator("a").random() == pytest.approx(0.71514003, abs=1e-8)
    assert generator("b").random() != generator("a").random()
