"""Decode the next output of each row, and add it to the answer: the test whether an answer ends is here.

The device decodes a whole step, and the host reads its numbers once. One batch may mix texts and objects. After
moondream/torch/moondream.py @ 44146f1. Letters of the shapes: B rows, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ...checkpoints.weights import MoondreamModel
from ...devices import HostCopy
from ...network.config import TokenizerConfig
from .row import Row
from .sampling import NUM_CANDIDATES
from .step import Numbers, Plan, decode

# The largest share of rows for which a step may be for nothing.
MAX_ENDING = 0.25


class Decoding:
    """The next outputs of rows while the device decodes them. ``embeds_BC``: the next input of each row.

    ``hidden_BC`` are hidden states before the last norm, one for each row. The embeddings mean nothing for rows that
    ended.
    """

    def __init__(self, model: MoondreamModel, hidden_BC: Tensor, rows: Sequence[Row]) -> None:
        self.rows, self._model, self._hidden_BC = list(rows), model, hidden_BC
        self._plan = Plan.of(rows, model.config, hidden_BC.device)
        numbers_B4, self.embeds_BC = decode(model, hidden_BC, self._plan, NUM_CANDIDATES)
        self._numbers = HostCopy(numbers_B4)

    def read(self) -> None:
        """Wait for the outputs, and add each to the answer or the reasoning of its row. Rows that ended are left alone.

        ``embeds_BC`` and ``hidden_BC`` must not have been used for the next step yet, unless ``can_lag`` is True.
        """
        numbers = [Numbers(*row) for row in self._numbers.tolist()]
        if any(row.reaches for row in numbers):
            # Seldom: a nucleus of over a thousand tokens. The same draws pick from the whole vocabulary.
            numbers_B4, self.embeds_BC = decode(
                self._model, self._hidden_BC, self._plan, self._model.config.text.vocab_size
            )
            numbers = [Numbers(*row) for row in numbers_B4.tolist()]
        for row, decoded in zip(self.rows, numbers, strict=True):
            if row.finish_reason is None:
                _add_output(row, decoded, self._model.config.tokenizer)


def can_lag(rows: Sequence[Row], num_unread: int) -> bool:
    """Return whether the next step of rows may be queued before its ``num_unread`` outputs of earlier steps are read.

    True if each row continues a text whose tokens depend on no list of earlier tokens, and no nucleus is searched. The
    step is for nothing for a row that has ended, so False if more than ``MAX_ENDING`` of the rows are known to end.
    """
    ending = sum(len(row.token_ids) + num_unread >= row.max_outputs for row in rows)
    return ending <= MAX_ENDING * len(rows) and all(
        row.next_output == "token"
        and row.token_ids
        and row.sampling.repetition_penalty == 1
        and (row.sampling.top_p >= 1 or not row.sampling.temperature)
        for row in rows
    )


def decode_outputs(model: MoondreamModel, hidden_BC: Tensor, rows: Sequence[Row]) -> Tensor:
    """Decode the next output of each row from its hidden state, and add it to the answer or the reasoning of the row.

    Returns:
        The embeddings ``[B, C]`` of the outputs: the next input of each row. They mean nothing for rows that ended.
    """
    decoding = Decoding(model, hidden_BC, rows)
    decoding.read()
    return decoding.embeds_BC


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
