"""The log handler of the command, which leaves the progress bar whole."""

from __future__ import annotations

import logging

from tqdm import tqdm


class AboveBarHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Log handler that writes records to its stream, above the progress bar if there is one on the same terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        """Clear the bar, write one record, and draw the bar again below it."""
        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)
