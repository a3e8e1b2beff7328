"""Options for tasks and sampling. Tasks keep the order of the command line."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from ...models.structured.schema import schema_text
from ...models.tasks import DEFAULT_PROMPT, DEFAULT_SAMPLING, Caption, Detect, Length, Point, Query, Sampling, Task
from .suggestions import did_you_mean

# It is invisible, and white space to no function of Python.
BYTE_ORDER_MARK = "\ufeff"


def add_task_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--caption``, ``--query``, ``--detect``, ``--point``, ``--prompts``, ``--json-schema``, ``--reasoning``."""
    group = parser.add_argument_group("tasks", f'repeatable; without any task, the question is "{DEFAULT_PROMPT}"')
    lengths = "|".join(get_args(Length))
    group.add_argument(
        "--caption",
        dest="tasks",
        action="append",
        nargs="?",
        const=Caption(),
        # The length is optional. In "--caption INPUT", argparse takes INPUT for the length.
        type=_caption,
        metavar=lengths,
        help="describe the picture (default length: normal)",
    )
    group.add_argument(
        "--query",
        dest="tasks",
        action="append",
        type=_task(Query),
        metavar="TEXT",
        help="answer a question about the picture",
    )
    for option, kind, help in (
        ("--detect", Detect, "find a box around each OBJECT; A,B is two objects"),
        ("--point", Point, "find the centre of each OBJECT; A,B is two objects"),
    ):
        group.add_argument(option, dest="tasks", action="extend", type=_objects(kind), metavar="OBJECT", help=help)
    _add_query_options(group)


def _add_query_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--prompts",
        dest="tasks",
        action="extend",
        type=_read_questions,
        metavar="FILE",
        help="text file with one question on each line",
    )
    group.add_argument(
        "--json-schema",
        type=_read_schema,
        metavar="FILE",
        help="JSON schema that the answers to all queries must fit; export makes a column of each of its fields",
    )
    group.add_argument("--reasoning", action="store_true", help="let the model reason before it answers a query")


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--max-tokens``, ``--temperature``, ``--top-p`` and ``--repetition-penalty``."""
    group = parser.add_argument_group(
        "sampling", "how texts are sampled; boxes and points are always the most likely ones"
    )
    group.add_argument(
        "--max-tokens",
        type=int,
        metavar="N",
        help="maximum number of tokens in an answer (default: 64; captions: short 64, normal 256, long 512; with "
        "--json-schema 512), and in a reasoning (default: 768)",
    )
    group.add_argument(
        "--temperature",
        type=float,
        default=DEFAULT_SAMPLING.temperature,
        metavar="T",
        help="randomness of the tokens; 0 always takes the most likely one (default: %(default)s)",
    )
    group.add_argument(
        "--top-p",
        type=float,
        default=DEFAULT_SAMPLING.top_p,
        metavar="P",
        help="sample from the most likely tokens whose probabilities add up to P (default: %(default)s)",
    )
    group.add_argument(
        "--repetition-penalty",
        type=float,
        default=DEFAULT_SAMPLING.repetition_penalty,
        metavar="R",
        help="values above 1 make repetitions less likely (default: %(default)s)",
    )


def with_reasoning(tasks: Sequence[Task], args: argparse.Namespace) -> tuple[Task, ...]:
    """Return the tasks of a job, with ``reasoning`` for each query if ``--reasoning`` is given.

    Raises:
        ValueError: if ``--reasoning`` is given and none of the tasks is a query.
    """
    if not args.reasoning:
        return tuple(tasks)
    if not any(isinstance(task, Query) for task in tasks):
        raise ValueError("--reasoning: none of the tasks is a query; add --query TEXT, or omit --reasoning")
    return tuple(replace(task, reasoning=True) if isinstance(task, Query) else task for task in tasks)


def with_schema(tasks: Sequence[Task], args: argparse.Namespace) -> tuple[Task, ...]:
    """Return the tasks of a job, with the schema of ``--json-schema``, if it is given, for each query.

    Raises:
        ValueError: if ``--json-schema`` is given and none of the tasks is a query.
    """
    if args.json_schema is None:
        return tuple(tasks)
    if not any(isinstance(task, Query) for task in tasks):
        raise ValueError("--json-schema: none of the tasks is a query; add --query TEXT, or omit --json-schema")
    return tuple(replace(task, schema=args.json_schema) if isinstance(task, Query) else task for task in tasks)


def build_sampling(args: argparse.Namespace) -> Sampling:
    """Return the sampling of the options.

    Raises:
        ValueError: if a number is out of range.
    """
    return Sampling(args.max_tokens, args.temperature, args.top_p, args.repetition_penalty)


def split_objects(text: str) -> list[str]:
    """Return the objects of a text such as ``person,car``.

    A comma before white space or between braces is a part of an object's name.
    """
    return re.split(r",(?!\s)(?![^{}]*\})", text)


def comma_note(tasks: Sequence[Task]) -> str:
    """Return a line that names the first object with a comma in its name, which may be meant as several, or ""."""
    for task in tasks:
        if isinstance(task, Detect | Point) and re.search(r",\s", task.object):
            parts = " ".join(f"--{task.name} '{part.strip()}'" for part in task.object.split(",") if part.strip())
            return f"--{task.name} '{task.object}' asks for one object of this name; for several objects give {parts}"
    return ""


def _objects(kind: Callable[[str], Task]) -> Callable[[str], list[Task]]:
    """Return an argparse type that makes a task of each object that its value names."""
    return lambda text: list(map(_task(kind), split_objects(text)))


def _caption(text: str) -> Task:
    """Return the caption of the length that ``text`` names; an argparse type."""
    cure = did_you_mean(text, get_args(Length)) or "; give INPUTs before --caption"
    return _task(lambda length: Caption(length), cure)(text)  # type: ignore[arg-type]


def _task(kind: Callable[[str], Task], cure: str = "") -> Callable[[str], Task]:
    """Return an argparse type that makes a task of its value. ``cure`` is appended to the message of an error."""

    def parse(text: str) -> Task:
        try:
            # The text may come from a file, as in "$(cat FILE)".
            return kind(text.strip(BYTE_ORDER_MARK))
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{error}{cure}") from error

    return parse


def _read_schema(path: str) -> str:
    """Return the JSON schema in a file as text."""
    try:
        return schema_text(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(f"cannot read {path}: {error}; give a JSON file in UTF-8") from error
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{path}: {error}") from error


def _read_questions(path: str) -> list[Task]:
    """Return one query for each line of a file that is not blank."""
    try:
        # Windows begins a file with a byte order mark. Files that were joined have one inside.
        lines = [
            line.strip(f"{BYTE_ORDER_MARK} \t")
            for line in Path(path).expanduser().read_text(encoding="utf-8").splitlines()
        ]
    except (OSError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(f"cannot read {path}: {error}; give a text file in UTF-8") from error
    questions = [Query(line.strip()) for line in lines if line.strip()]
    if not questions:
        raise argparse.ArgumentTypeError(f"{path} has no question: write one on each line")
    return list(questions)
