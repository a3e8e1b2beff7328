"""Errors that are found before any work starts: one line on standard error, and exit status 2."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from typing import NoReturn

BAD_ARGUMENTS = 2


class StartupError(Exception):
    """An argument is bad, or something that the job needs is missing. The command ends with exit status 2."""


class OneLineParser(argparse.ArgumentParser):
    """An argument parser that reports an error in one line. ``argparse`` prints the usage of all options above it."""

    def error(self, message: str) -> NoReturn:
        """Print the message in one line, and exit with status 2."""
        self.exit(BAD_ARGUMENTS, f"{self.prog}: {one_line(message)}; see {self.prog} --help\n")


@contextlib.contextmanager
def startup_errors() -> Iterator[None]:
    """Within this block, translate the errors of bad arguments and missing requirements.

    Raises:
        StartupError: in place of a ValueError, RuntimeError, OSError or ImportError, with its message in one line.
    """
    try:
        yield
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        raise StartupError(one_line(str(error))) from error


def one_line(message: str) -> str:
    """Return the lines of a message joined by spaces."""
    return " ".join(message.splitlines())


def reject_unknown_args(args: argparse.Namespace, others: Sequence[str]) -> None:
    """Check that the parser of a command has understood every argument.

    Args:
        args: the parsed arguments.
        others: the arguments that were not understood. A ``--`` among them is ignored.

    Raises:
        ValueError: if there are any. The message names the first one.
    """
    others = [word for word in others if word != "--"]
    if not others:
        return
    if others[0].startswith("-"):
        raise ValueError(f"unknown option {others[0]}: see moondream-beam {args.command} --help")
    cure = "give all INPUTs together" if "inputs" in args else "leave it out"
    raise ValueError(f"unexpected argument {others[0]}: {cure}, and quote values that contain spaces")
