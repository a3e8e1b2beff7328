"""Print docs/cli.md: what the command says of itself, as wide as a page.

python docs/cli.py > docs/cli.md
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator

from moondream_beam.pipelines.cli import build_parser

COLUMNS = 120


def page() -> str:
    """The page."""
    # Where argparse looks for the width of a terminal.
    before, os.environ["COLUMNS"] = os.environ.get("COLUMNS"), str(COLUMNS)
    try:
        return "\n".join(lines())
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def lines() -> Iterator[str]:
    """The lines of the page."""
    parser = build_parser()
    yield "# The command\n"
    yield "What `--help` says, made by `python docs/cli.py > docs/cli.md`; a test holds the page to it.\n"
    yield f"```text\n{parser.format_help()}```\n"
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for name, command in commands.choices.items():
        yield f"## {name}\n\n```text\n{command.format_help()}```\n"


if __name__ == "__main__":
    sys.stdout.write(page())
