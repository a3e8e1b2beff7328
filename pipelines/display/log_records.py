"""Which log records the command prints, and how: warnings, errors, and reports about memory and about kept rows."""

from __future__ import annotations

import logging

from ...models.moondream.names import MEMORY_LOGGER

# The engine reports its memory, and the plan reports what it publishes of a run that was stopped.
REPORTS = (MEMORY_LOGGER, f"{__package__.removesuffix('.pipelines.display')}.transforms.planning.plan")


class ShownRecords(logging.Filter):
    """Keep warnings, errors, and the reports of ``REPORTS``; of equal reports of several workers the first."""

    def __init__(self) -> None:
        super().__init__()
        self._shown: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to print a record."""
        if record.levelno >= logging.WARNING:
            return True
        text = record.getMessage()
        if record.name not in REPORTS or text in self._shown:
            return False
        self._shown.add(text)
        return True


class LineFormatter(logging.Formatter):
    """Format warnings and errors with their level and their module, and all other records as their message."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        return super().formatMessage(record) if record.levelno >= logging.WARNING else record.message
