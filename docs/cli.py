"""Print docs/cli.md: the help of each command, 120 columns wide.

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
    """Return the text of docs/cli.md."""
    # argparse reads the width of the terminal from this variable.
    before, os.environ["COLUMNS"] = os.environ.get("COLUMNS"), str(COLUMNS)
    try:
        return "\n".join(lines())
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def lines() -> Iterator[str]:
    """Yield the parts of the page: the help of the command, and that of each subcommand."""
    parser = build_parser()
    yield "# The command\n"
    yield "The output of `--help`. A test checks it. To update this page, run `python docs/cli.py > docs/cli.md`.\n"
    yield f"```text\n{parser.format_help()}```\n"
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for name, command in commands.choices.items():
        yield f"## {name}\n\n```text\n{command.format_help()}```\n"


if __name__ == "__main__":
    sys.stdout.write(page())
