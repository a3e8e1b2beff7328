"""Words to token ids and back, through the checkpoint's own tokenizer.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tokenizers


class Tokenizer:
    """A byte-level BPE in the format of the ``tokenizers`` library."""

    def __init__(self, path: Path) -> None:
        self._tokenizer = tokenizers.Tokenizer.from_file(str(path))

    def encode(self, text: str) -> list[int]:
        """Text, taken as it is, to token ids.

        Raises:
            ValueError: the text is not Unicode: it holds half of a surrogate pair.
        """
        text.encode()
        return self._tokenizer.encode(text).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Token ids to text; control tokens vanish."""
        return self._tokenizer.decode(list(ids))
