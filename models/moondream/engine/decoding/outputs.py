"""Decode the next output of each row, and add it to the answer: the test whether an answer ends is here.

The device decodes a whole step, and the host reads its numbers once. One batch may mix texts and objects. After
moondream/torch/moondream.py @ 44146f1. Letters of the shapes: B rows, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ...checkpoints.weights import MoondreamModel
from ...network.config import TokenizerConfig
from .row import Row
from .sampling import NUM_CANDIDATES
from .step import Numbers, Plan, decode


def decode_outputs(model: MoondreamModel, hidden_BC: Tensor, rows: Sequence[Row]) -> Tensor:
    """Decode the next output of each row from its hidden state, and add it to the answer or the reasoning of the row.

    ``hidden_BC`` are hidden states before the last norm, one for each row.

    Returns:
        The embeddings ``[B, C]`` of the outputs: the next input of each row. They mean nothing for rows that ended.
    """
    plan = Plan.of(rows, model.config, hidden_BC.device)
    numbers_B4, embeds_BC = decode(model, hidden_BC, plan, NUM_CANDIDATES)
    numbers = [Numbers(*row) for row in numbers_B4.tolist()]
    if any(row.reaches for row in numbers):
        # Seldom: a nucleus of over a thousand tokens. The same draws pick from the whole vocabulary.
        numbers_B4, embeds_BC = decode(model, hidden_BC, plan, model.config.text.vocab_size)
        numbers = [Numbers(*row) for row in numbers_B4.tolist()]
    for row, decoded in zip(rows, numbers, strict=True):
        _add_output(row, decoded, model.config.tokenizer)
    return embeds_BC


def _add_output(row: Row, decoded: Numbers, special: TokenizerConfig) -> None:
    """Add what was decoded to a row, and set its next output."""
    kind = row.next_output
    if kind in ("thought", "token", "object"):
        _add_token(row, int(decoded.token), special)
    if row.finish_reason is not None:
        return
    if kind == "object":
        row.objects.append([decoded.first])
        row.next_output = "y"
    elif kind == "y":
        row.objects[-1].append(decoded.first)
        row.next_output = "size" if row.has_size else "object"
    elif kind == "size":
        row.objects[-1].extend((decoded.first, decoded.second))
        row.next_output = "object"


def _add_token(row: Row, token: int, special: TokenizerConfig) -> None:
    """Append a sampled token to the reasoning or the answer of a row, and set ``finish_reason`` if the answer ends.

    An end token gives "stop" and is not appended. ``max_outputs`` tokens, or one more object than that, give "length".
    The id that starts an answer ends a reasoning and is not appended.
    """
    if row.next_output == "thought":
        if token == special.answer_id:
            row.next_output = "token"
        else:
            row.thought_ids.append(token)
    elif token == special.eos_id or (token in special.end_ids and row.next_output == "token"):
        row.finish_reason = "stop"
    elif row.next_output == "token":
        row.token_ids.append(token)
        if len(row.token_ids) == row.max_outputs:
            row.finish_reason = "length"
    elif len(row.objects) == row.max_outputs:
        # Any id other than the end announces another object.
        row.finish_reason = "length"
