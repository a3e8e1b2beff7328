"""The command ``moondream-beam``."""

from __future__ import annotations

import argparse
import faulthandler
import logging
import re
import sys
from collections.abc import Sequence

from .commands import annotate, demo, env, estimate, export, push, report, status
from .display.log_records import LineFormatter, ShownRecords
from .display.progress import AboveBarHandler
from .local_runner.signals import ExpectedExitFilter, Interrupt, interruptible
from .options.parser import BAD_ARGUMENTS, OneLineParser, StartupError


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
    # Importing Beam installs a log handler. Its warnings are about options that the user did not give.
    handler = AboveBarHandler()
    handler.addFilter(ExpectedExitFilter())
    handler.addFilter(ShownRecords())
    handler.setFormatter(LineFormatter())
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    # The handler of this library would print each record a second time, and over the progress bar.
    logging.getLogger("huggingface_hub").handlers.clear()
    try:
        with interruptible():
            status: int = args.run(args, others)
        return status
    except StartupError as error:
        print(f"moondream-beam {args.command}: {error}", file=sys.stderr)
        return BAD_ARGUMENTS
    except Interrupt as interrupt:
        print(interrupt.message, file=sys.stderr)
        return interrupt.status


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
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module, summary in (
        ("annotate", annotate, "annotate pictures, and write the answers to Parquet files"),
        ("estimate", estimate, "annotate a sample, and estimate the time and the cost of the whole input"),
        ("status", status, "show the progress of all runs that write to an output folder"),
        ("report", report, "write an HTML page with pictures, statistics, errors and runs of an output folder"),
        ("export", export, "write the answers in a format that training tools read"),
        ("push", push, "upload the answers to a dataset on the Hugging Face hub, with or without the pictures"),
        ("demo", demo, "draw pictures, and annotate them with the embedded model"),
        ("env", env, "print versions, devices, extras and which credentials were found, for a bug report"),
    ):
        command = commands.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", allow_abbrev=False
        )
        module.add_options(command)
        command.set_defaults(run=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
