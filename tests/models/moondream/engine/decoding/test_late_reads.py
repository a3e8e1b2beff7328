"""Steps whose outputs the host reads one step late: the same answers, and the device has work while the host reads."""

from __future__ import annotations

import pytest
import torch
from support.data.golden import decode_rows, new_row

from moondream_beam.models.moondream.engine.decoder_steps import EagerSteps
from moondream_beam.models.moondream.engine.decoding.outputs import Decoding, can_lag
from moondream_beam.models.moondream.network.crops import prepare_crops
from moondream_beam.models.tasks import Caption, Point, Sampling

WARM = Sampling(temperature=0.8)
LENGTHS = (5, 17, 2, 9, 30, 1, 12, 40)


def rows_of(sampling=WARM, lengths=LENGTHS):
    return [
        new_row(Caption(), [5, 6 + number], sampling, max_tokens=length, seed=number)
        for number, length in enumerate(lengths)
    ]


@pytest.fixture
def prefixes(toy, toy_pictures):
    with torch.inference_mode():
        return [toy.encode([prepare_crops(toy_pictures[1], toy.config.vision)])] * len(LENGTHS)


@pytest.fixture
def events(monkeypatch):
    """Steps that are queued and outputs that are read, in their order."""
    noted = []
    run, read = EagerSteps.run, Decoding.read
    monkeypatch.setattr(EagerSteps, "run", lambda self, positions: noted.append("run") or run(self, positions))
    monkeypatch.setattr(Decoding, "read", lambda self: noted.append("read") or read(self))
    return noted


def texts(rows):
    return [(row.token_ids, row.finish_reason) for row in rows]


@pytest.mark.parametrize("num_slots", [1, 3, 8])
@pytest.mark.parametrize("sampling", [WARM, Sampling(temperature=0)], ids=["warm", "greedy"])
def test_answers_are_those_of_reads_at_once(toy, prefixes, num_slots, sampling):
    expected, late = rows_of(sampling), rows_of(sampling)
    decode_rows(toy.model, expected, prefixes, num_slots)
    decode_rows(toy.model, late, prefixes, num_slots, lags=True)
    assert texts(late) == texts(expected) and all(row.finish_reason for row in late)


def test_a_step_is_queued_before_the_last_one_is_read(toy, prefixes, events):
    decode_rows(toy.model, rows_of(lengths=[40] * 8), prefixes, lags=True)
    # The first read is that of the prefill.
    assert events[:6] == ["read", "run", "run", "read", "run", "read"]


def test_at_most_one_step_is_for_nothing(toy, prefixes, events):
    decode_rows(toy.model, rows_of(lengths=[9] * 8), prefixes, lags=True)
    late = events.count("run")
    events.clear()
    decode_rows(toy.model, rows_of(lengths=[9] * 8), prefixes)
    assert late <= events.count("run") + 1


@pytest.mark.parametrize(
    "row",
    [
        new_row(Caption(), [5], Sampling(temperature=0.8, top_p=0.9)),
        new_row(Caption(), [5], Sampling(repetition_penalty=1.2)),
        new_row(Caption(), [5], WARM, max_tokens=2),
        new_row(Point("dog"), [5], WARM),
    ],
    ids=["a nucleus", "a penalty", "the end", "points"],
)
def test_rows_that_need_their_last_output_are_read_at_once(row):
    plain = new_row(Caption(), [5], WARM)
    plain.token_ids = row.token_ids = [7]
    assert can_lag([plain], num_unread=1)
    assert not can_lag([row], num_unread=1) and not can_lag([plain, row], num_unread=1)
