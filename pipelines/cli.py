"""The command ``moondream-beam``."""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import re
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from ..transforms.output.run_record import installed_version
from .display.log_handler import AboveBarHandler
from .display.log_records import LineFormatter, ShownRecords
from .local_runner.signals import MUST_EXIT, ExpectedExitFilter, Interrupt, interruptible
from .options.commands import COMMANDS
from .options.parser import BAD_ARGUMENTS, OneLineParser, StartupError, reject_unknown_args, startup_errors

# As Python ends after an exception.
UNEXPECTED_ERROR = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit status.

    Args:
        argv: the arguments after the program name; ``sys.argv[1:]`` by default.

    Returns:
        0 if all is well, and 1 if the work stopped early or is incomplete. 2 if the arguments are bad or a requirement
        is missing: then no work was done. 130 after Ctrl-C, and 143 after SIGTERM.

    Raises:
        SystemExit: with status 2 if argparse rejects the arguments, and with 0 after ``--help``.
    """
    parser, words = build_parser(), list(sys.argv[1:] if argv is None else argv)
    reject_empty_words(parser, words)
    args, others = parser.parse_known_args(words)
    if not faulthandler.is_enabled():
        # A crash in a C library ends the process without an exception. This prints a traceback first.
        faulthandler.enable()
    # Without a handler, Beam installs its own. Its warnings are about options that the user did not give.
    handler = AboveBarHandler()
    handler.addFilter(ExpectedExitFilter())
    handler.addFilter(ShownRecords())
    handler.setFormatter(LineFormatter())
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    try:
        status = _run_interruptible(args, others)
    except Exception:
        if argv is not None or not MUST_EXIT.is_set():
            raise
        traceback.print_exc()
        status = UNEXPECTED_ERROR
    if argv is None and MUST_EXIT.is_set():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _run_interruptible(args: argparse.Namespace, others: Sequence[str]) -> int:
    """Run a command, and return its exit status. Print the message of a startup error or of an interrupt."""
    try:
        with interruptible():
            return _run(args, others)
    except StartupError as error:
        print(f"moondream-beam {args.command}: {error}", file=sys.stderr)
        return BAD_ARGUMENTS
    except Interrupt as interrupt:
        print(interrupt.message, file=sys.stderr)
        return interrupt.status


def _run(args: argparse.Namespace, others: Sequence[str]) -> int:
    """Import and run a command: only now, so that help and mistakes in arguments take no second.

    Raises:
        StartupError: if an argument is bad or a requirement is missing.
    """
    checked: list[object] = []
    with startup_errors():
        if args.command == "annotate":
            # What is no option of ours is one of Beam's, or a mistake.
            arguments = import_module(".building.arguments", __package__)
            checked = [others, arguments.check_annotate(args, others)]
        else:
            reject_unknown_args(args, others)
        if args.command == "estimate":
            checked = [import_module(".building.arguments", __package__).check_estimate(args)]
        command = import_module(f".commands.{args.command}", __package__)
    status: int = command.run(args, *checked)
    return status


def reject_empty_words(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Exit with status 2 if an argument is empty, such as ``--output ""`` or ``--output=``.

    An unset shell variable gives an empty argument. As a path it would mean the current folder.
    """
    for before, word in zip(("moondream-beam", *words), words, strict=False):
        if not word or re.fullmatch("--[a-z_-]+=", word):
            place = f"{word[:-1]} has an empty value" if word else f"the argument after {before} is empty"
            parser.error(f"{place}: give a value (an unset shell variable is empty)")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all subcommands."""
    parser = OneLineParser(
        prog="moondream-beam",
        description="Annotate image datasets with Moondream: captions, answers, boxes and points, in Parquet.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_PrintVersion, nargs=0, help="show the version of this package and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary, add_options in COMMANDS:
        described = f"{summary[0].upper()}{summary[1:]}."
        add_options(commands.add_parser(name, help=summary, description=described, allow_abbrev=False))
    return parser


class _PrintVersion(argparse.Action):
    """Prints the installed version, which is looked up only if the option is given."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        print(f"{parser.prog} {installed_version('moondream-beam')}")
        parser.exit()


if __name__ == "__main__":
    sys.exit(main())
