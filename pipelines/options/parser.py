"""Errors that are found before any work starts: one line on standard error, and exit status 2."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn

from .suggestions import Given, choice_hint, did_you_mean, misspelt_hint, quote_hint

BAD_ARGUMENTS = 2


class StartupError(Exception):
    """An argument is bad, or something that the job needs is missing. The command ends with exit status 2."""


class OneLineParser(argparse.ArgumentParser):
    """An argument parser that reports an error in one line, and suggests a cure for a misspelling.

    ``argparse`` prints the usage of all options above an error. The parsed arguments have an attribute ``given``.
    """

    given = Given()

    def parse_known_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        """Parse as ``argparse`` does, and keep the words for messages: those of the command, not of its parent."""
        words = tuple(sys.argv[1:] if args is None else args)
        self.given = Given(words, tuple(self._option_string_actions))
        found, others = super().parse_known_args(words, namespace)
        if "given" not in found:
            found.given = self.given
        return found, others

    def error(self, message: str) -> NoReturn:
        """Print the message in one line, and exit with status 2."""
        line = one_line(message) + (choice_hint(message) or misspelt_hint(message, self.given))
        self.exit(BAD_ARGUMENTS, f"{self.prog}: {line}{'' if line.endswith('?') else ';'} see {self.prog} --help\n")


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


def reject_unknown_args(args: argparse.Namespace, others: Sequence[str], more_options: Iterable[str] = ()) -> None:
    """Check that the parser of a command has understood every argument.

    Args:
        args: the parsed arguments.
        others: the arguments that were not understood. A ``--`` among them is ignored.
        more_options: options that are accepted besides those of our parser.

    Raises:
        ValueError: if there are any. The message names the first one.
    """
    others = [word for word in others if word != "--"]
    if not others:
        return
    given: Given = getattr(args, "given", Given())
    if others[0].startswith("-"):
        name = others[0].partition("=")[0]
        hint = did_you_mean(name, (*given.options, *more_options)) or ";"
        raise ValueError(f"unknown option {name}{hint} see moondream-beam {args.command} --help")
    cure = "give all INPUTs together" if "inputs" in args else "leave it out"
    hint = quote_hint(given.words, others[0])
    raise ValueError(
        f"unexpected argument {others[0]}: {cure}, and quote values that contain spaces{hint and f': {hint}'}"
    )
