"""Tasks on the command line: one option for each kind, repeatable, in the order that they were given."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from ...models.tasks import DEFAULT_PROMPT, DEFAULT_SAMPLING, Caption, Detect, Length, Point, Query, Sampling, Task


def add_task_options(parser: argparse.ArgumentParser) -> None:
    """``--caption``, ``--query``, ``--detect``, ``--point`` and ``--prompts``."""
    group = parser.add_argument_group("tasks", f'repeatable; none at all asks "{DEFAULT_PROMPT}"')
    lengths = "|".join(get_args(Length))
    group.add_argument(
        "--caption",
        dest="tasks",
        action="append",
        nargs="?",
        const=Caption(),
        # The length may be left out, and then the word that follows is taken for it.
        type=_task(lambda text: Caption(text), ", and give INPUTs before --caption"),  # type: ignore[arg-type]
        metavar=lengths,
        help="describe the picture",
    )
    group.add_argument(
        "--query", dest="tasks", action="append", type=_task(Query), metavar="TEXT", help="answer a question"
    )
    group.add_argument(
        "--detect", dest="tasks", action="append", type=_task(Detect), metavar="OBJECT", help="a box around each OBJECT"
    )
    group.add_argument(
        "--point", dest="tasks", action="append", type=_task(Point), metavar="OBJECT", help="the centre of each OBJECT"
    )
    group.add_argument(
        "--prompts",
        dest="tasks",
        action="extend",
        type=_questions,
        metavar="FILE",
        help="a file of questions, one a line",
    )


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """``--max-tokens``, ``--temperature``, ``--top-p`` and ``--repetition-penalty``."""
    group = parser.add_argument_group("sampling", "how words are drawn; boxes and points are always the likeliest")
    group.add_argument(
        "--max-tokens", type=int, metavar="N", help="new tokens at most (64; captions: short 64, normal 256, long 512)"
    )
    group.add_argument(
        "--temperature",
        type=float,
        default=DEFAULT_SAMPLING.temperature,
        metavar="T",
        help="0 takes the likeliest token (%(default)s)",
    )
    group.add_argument(
        "--top-p",
        type=float,
        default=DEFAULT_SAMPLING.top_p,
        metavar="P",
        help="mass of the tokens drawn from (%(default)s)",
    )
    group.add_argument(
        "--repetition-penalty",
        type=float,
        default=DEFAULT_SAMPLING.repetition_penalty,
        metavar="R",
        help="above 1 avoids repeats (%(default)s)",
    )


def sampling_of(args: argparse.Namespace) -> Sampling:
    """The sampling that the options ask for.

    Raises:
        ValueError: a number is out of range.
    """
    return Sampling(args.max_tokens, args.temperature, args.top_p, args.repetition_penalty)


def _task(kind: Callable[[str], Task], cure: str = "") -> Callable[[str], Task]:
    def parse(text: str) -> Task:
        try:
            return kind(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{error}{cure}") from error

    return parse


def _questions(path: str) -> list[Task]:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(f"can't read {path}: {error}") from error
    questions = [Query(line.strip()) for line in lines if line.strip()]
    if not questions:
        raise argparse.ArgumentTypeError(f"{path} has no question in it")
    return list(questions)
