"""Draws follow the distribution of the reference, each row by its own numbers."""

import pytest
import torch

from moondream_beam.models.moondream.sampling import draw, generator, penalize, probabilities

LOGITS = torch.tensor([2.0, -1.0, 1.0, 0.5])


@pytest.mark.parametrize("temperature, top_p", [(0.5, 0.3), (1.0, 0.9), (0.2, 0.05)])
def test_probabilities_are_those_of_the_reference(golden, temperature, top_p):
    logits = torch.from_numpy(golden.arrays["img0.caption_normal.first_logits"])[None]
    expected = torch.from_numpy(golden.arrays[f"sampling.t{temperature}_p{top_p}.probs"])
    found = probabilities(logits, [temperature], [top_p])[0]
    assert torch.equal(found > 0, expected > 0)
    assert torch.allclose(found, expected, atol=1e-5)


def test_top_p_one_keeps_every_token():
    assert torch.allclose(probabilities(LOGITS[None], [1.0], [1.0])[0], LOGITS.softmax(-1))


def test_top_p_keeps_the_token_that_crosses_it():
    # The likeliest has about 0.6, the next 0.22.
    kept = [(probabilities(LOGITS[None], [1.0], [top_p])[0] > 0).sum().item() for top_p in (1e-9, 0.5, 0.7, 0.9)]
    assert kept == [1, 1, 2, 3]


def test_each_row_has_its_own_temperature_and_top_p():
    temperatures, top_ps = [0.3, 2.0, 1.0], [1.0, 0.5, 0.7]
    together = probabilities(LOGITS.repeat(3, 1), temperatures, top_ps)
    alone = [probabilities(LOGITS[None], [t], [p])[0] for t, p in zip(temperatures, top_ps, strict=True)]
    assert torch.equal(together, torch.stack(alone))


@pytest.mark.parametrize("temperature", [1e-3, 1e-20, 1e-38, 1e-60])
def test_a_tiny_temperature_takes_the_likeliest(temperature):
    masked = torch.cat([LOGITS, torch.tensor([-torch.inf])])[None]
    assert probabilities(masked, [temperature], [0.9]).tolist() == [[1, 0, 0, 0, 0]]


def test_draws_fall_where_their_probability_lies():
    draws = [(index + 0.5) / 1000 for index in range(1000)]
    ids = draw(LOGITS.repeat(1000, 1), [1.0] * 1000, [1.0] * 1000, draws)
    shares = ids.bincount(minlength=4) / 1000
    assert torch.allclose(shares, LOGITS.softmax(-1), atol=2e-3)


def test_the_last_draw_below_one_is_a_token_of_the_nucleus():
    ids = draw(LOGITS.repeat(2, 1), [1.0] * 2, [0.7] * 2, [1 - 1e-12, 0.0])
    assert ids.tolist() == [2, 0]


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
