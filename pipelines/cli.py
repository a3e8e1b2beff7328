"""The command ``moondream-beam``."""

from __future__ import annotations

import argparse
import faulthandler
import logging
import sys
from collections.abc import Sequence

from . import annotate, demo, estimate, export, report, status
from .interrupt import not_about_ends_on_purpose
from .progress import AboveTheBar
from .starting import BAD_ARGUMENTS, CannotStartError, OneLineParser

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; the exit status: 0 done, 1 too many failures, 2 bad arguments or nothing could start."""
    parser = build_parser()
    args, others = parser.parse_known_args(argv)
    if not faulthandler.is_enabled():
        # A decoder in C that crashes takes the process with it: let it at least say where.
        faulthandler.enable()
    # Importing Beam leaves a handler behind, and its warnings are about options that nobody gave.
    handler = AboveTheBar()
    handler.addFilter(not_about_ends_on_purpose)
    logging.basicConfig(handlers=[handler], format="%(levelname)s %(name)s: %(message)s", force=True)
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    try:
        status: int = args.run(args, others)
        return status
    except CannotStartError as error:
        print(f"moondream-beam {args.command}: {error}", file=sys.stderr)
        return BAD_ARGUMENTS
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where this one stopped", file=sys.stderr)
        return INTERRUPTED


def build_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands."""
    parser = OneLineParser(
        prog="moondream-beam",
        description="Annotate image datasets with Moondream: captions, answers, boxes and points, in Parquet.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module, summary in (
        ("annotate", annotate, "annotate pictures into a Parquet dataset"),
        ("estimate", estimate, "annotate a sample, and say how long and how much all of it would take"),
        ("status", status, "say how far the runs of an output are"),
        ("report", report, "write one page to look at: pictures, figures, errors, what ran"),
        ("export", export, "write an output in the shapes that training tools read"),
        ("demo", demo, "draw pictures and annotate them with the embedded model"),
    ):
        command = commands.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", allow_abbrev=False
        )
        module.add_options(command)
        command.set_defaults(run=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
