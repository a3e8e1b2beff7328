"""What goes wrong before any work starts, told in one line and apart from what goes wrong later."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Sequence


class CannotStartError(Exception):
    """Bad arguments, or something that the job needs is not there: exit status 2."""


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Within this block, the errors that bad arguments raise mean that nothing has been done."""
    try:
        yield
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        raise CannotStartError(str(error)) from error


def no_others(args: argparse.Namespace, others: Sequence[str]) -> None:
    """Refuse what a command's parser left over, where no Beam option may follow.

    Raises:
        ValueError: there is something.
    """
    if others:
        raise ValueError(f"unknown option {others[0]}: see moondream-beam {args.command} --help")
