"""Floor 2: Beam transforms from pictures to rows. It parses no arguments."""

import logging


def _is_not_about_apitools(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("apitools not found")


# Without Google's libraries, every import of Beam logs a warning about them, also for users who do not need them. The
# modules of this floor import Beam later, and some of them never.
logging.getLogger().addFilter(_is_not_about_apitools)
