"""What goes wrong before any work starts, told in one line and apart from what goes wrong later."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from typing import NoReturn

BAD_ARGUMENTS = 2


class StartupError(Exception):
    """Bad arguments, or something that the job needs is not there: exit status 2."""


class OneLineParser(argparse.ArgumentParser):
    """A parser that tells what is wrong with the words it got in one line, not below all of its options."""

    def error(self, message: str) -> NoReturn:
        """End with that line."""
        self.exit(BAD_ARGUMENTS, f"{self.prog}: {one_line(message)}; see {self.prog} --help\n")


@contextlib.contextmanager
def startup_errors() -> Iterator[None]:
    """Within this block, the errors that bad arguments raise mean that nothing has been done."""
    try:
        yield
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        raise StartupError(one_line(str(error))) from error


def one_line(message: str) -> str:
    """A message in one line, whatever words of others are in it."""
    return " ".join(message.splitlines())


def reject_unknown_args(args: argparse.Namespace, others: Sequence[str]) -> None:
    """Refuse what a command's parser left over, and where Beam's options may follow, Beam's did too.

    Raises:
        ValueError: there is something.
    """
    # Behind two dashes stand words that are no options.
    others = [word for word in others if word != "--"]
    if not others:
        return
    if others[0].startswith("-"):
        raise ValueError(f"unknown option {others[0]}: see moondream-beam {args.command} --help")
    cure = "give all INPUTs together" if "inputs" in args else "give no more than is asked for"
    raise ValueError(f"{others[0]} is one word too many: {cure}, and quote what has spaces")
