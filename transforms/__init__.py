"""Floor 2, Beam: images in, rows out. No argument parsing here."""

import logging


def _not_about_google(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("apitools not found")


# Where Google's libraries are not installed Beam says so to everybody who imports it, whatever they are about to do.
logging.getLogger().addFilter(_not_about_google)
import apache_beam  # noqa: E402, F401

logging.getLogger().removeFilter(_not_about_google)
