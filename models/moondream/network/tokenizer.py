"""Words to token ids and back, through the tokenizer.json that belongs to a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tokenizers

# What all tokenizers of Moondream 2 call the token that begins and ends a text; its id tells them apart.
END = "<|endoftext|>"


class Tokenizer:
    """A byte-level BPE in the format of the ``tokenizers`` library. ``strips``: blanks around a text are cut off.

    Raises:
        ValueError: the file holds no such tokenizer.
    """

    def __init__(self, path: Path, *, strips: bool = False) -> None:
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # The library raises nothing narrower.
            raise ValueError(f"tokenizer {path}: it can't be read ({error}); fetch it again") from error
        self._strips = strips

    def encode(self, text: str) -> list[int]:
        """Text, taken as it is, to token ids.

        Raises:
            ValueError: the text is not Unicode: it holds half of a surrogate pair.
        """
        text.encode()
        return self._tokenizer.encode(text).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Token ids to text; control tokens vanish."""
        text = self._tokenizer.decode(list(ids))
        return text.strip() if self._strips else text

    def token(self, id: int) -> str | None:
        """The token of an id, in the tokenizer's own letters; None where there is none."""
        return self._tokenizer.id_to_token(id)

    @property
    def size(self) -> int:
        """Ids, added tokens included."""
        return self._tokenizer.get_vocab_size()
