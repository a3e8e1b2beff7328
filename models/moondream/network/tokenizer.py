"""Text to token ids and back, by the tokenizer.json of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tokenizers

# The token that begins and ends a text in every tokenizer of Moondream 2. Its id differs between generations.
END_OF_TEXT = "<|endoftext|>"


class Tokenizer:
    """A byte-level BPE in a file of the ``tokenizers`` library.

    ``strips_whitespace``: whether ``decode`` removes the whitespace at both ends of a text.

    Raises:
        ValueError: if the file is missing or not such a tokenizer.
    """

    def __init__(self, path: Path, *, strips_whitespace: bool = False) -> None:
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # The library raises nothing narrower.
            raise ValueError(f"tokenizer {path}: cannot be read ({error}); fetch the file again") from error
        self._strips_whitespace = strips_whitespace

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, without ids before or after it.

        Raises:
            ValueError: if the text has half of a surrogate pair, which is not Unicode.
        """
        text.encode()
        return self._tokenizer.encode(text).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, without the tokens that the file marks as special."""
        text = self._tokenizer.decode(list(ids))
        return text.strip() if self._strips_whitespace else text

    def token(self, id: int) -> str | None:
        """Return the token of an id as the file spells it, or None if there is no such id."""
        return self._tokenizer.id_to_token(id)

    @property
    def size(self) -> int:
        """The number of ids, with added tokens."""
        return self._tokenizer.get_vocab_size()
