"""The command ``moondream-beam``."""

from __future__ import annotations

import argparse
import faulthandler
import logging
import re
import sys
from collections.abc import Sequence

from .commands import annotate, demo, estimate, export, report, status
from .display.progress import AboveTheBar
from .local_runner.signals import ended_as_by_ctrl_c, not_about_ends_on_purpose
from .options.parser import BAD_ARGUMENTS, OneLineParser, StartupError

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; the exit status: 0 done, 1 too many failures, 2 bad arguments or nothing could start."""
    parser, words = build_parser(), list(sys.argv[1:] if argv is None else argv)
    refuse_empty(parser, words)
    args, others = parser.parse_known_args(words)
    if not faulthandler.is_enabled():
        # A decoder in C that crashes takes the process with it: let it at least say where.
        faulthandler.enable()
    # Importing Beam leaves a handler behind, and its warnings are about options that nobody gave.
    handler = AboveTheBar()
    handler.addFilter(not_about_ends_on_purpose)
    logging.basicConfig(handlers=[handler], format="%(levelname)s %(name)s: %(message)s", force=True)
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    # Its own one would say all of it once more, and through the bar.
    logging.getLogger("huggingface_hub").handlers.clear()
    try:
        with ended_as_by_ctrl_c():
            status: int = args.run(args, others)
        return status
    except StartupError as error:
        print(f"moondream-beam {args.command}: {error}", file=sys.stderr)
        return BAD_ARGUMENTS
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where this one stopped", file=sys.stderr)
        return INTERRUPTED


def refuse_empty(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """End where a word is empty, as "$OUT" is when nobody has set it: as a folder it would mean the one we are in."""
    for before, word in zip(("moondream-beam", *words), words, strict=False):
        if not word or re.fullmatch("--[a-z_-]+=", word):
            place = f"for {word[:-1]}" if word else f"after {before}"
            parser.error(f"nothing is given {place}: say what, or leave it out")


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
