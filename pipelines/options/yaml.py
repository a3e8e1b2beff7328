"""Arguments as Beam YAML gives them: tasks, sampling, paths, and where failures go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from ...models.tasks import DEFAULT_SAMPLING, Query, Sampling, Task

KINDS: dict[str, type[Any]] = {kind.name: kind for kind in get_args(Task)}
# What Beam YAML calls the output that is not for errors.
GOOD = "good"


def tasks_of(given: Sequence[Any] | None) -> tuple[Task, ...]:
    """The tasks of a list that YAML can say; without one, the default question.

    Raises:
        ValueError: one of them is none.
    """
    if given is None:
        return (Query(),)
    if isinstance(given, str | Mapping) or not isinstance(given, Sequence):
        raise ValueError("tasks: give a list, such as [{caption: short}, {detect: dog}]")
    return tuple(map(_task_of, given))


def sampling_of(given: Mapping[str, Any] | None) -> Sampling:
    """The sampling of a mapping that YAML can say.

    Raises:
        ValueError: there is no such number, or it is out of range.
    """
    if given is None:
        return DEFAULT_SAMPLING
    names = list(vars(DEFAULT_SAMPLING))
    if not isinstance(given, Mapping) or set(given) - set(names):
        raise ValueError(f"sampling: give a mapping of {', '.join(names)}")
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"sampling: {name} {value!r} is no number")
    return Sampling(**given)


def errors_of(given: Mapping[str, str] | None) -> str | None:
    """The name of the output for failures, if one is asked for.

    Raises:
        ValueError: it names none, or asks for more.
    """
    if given is None:
        return None
    if not isinstance(given, Mapping) or set(given) != {"output"} or not isinstance(given["output"], str):
        raise ValueError("error_handling: give {output: NAME}, nothing else")
    if given["output"] == GOOD:
        raise ValueError(f"error_handling: {GOOD} is the name of the other output, choose another")
    return given["output"]


def texts_of(name: str, given: str | Sequence[str]) -> list[str]:
    """A text, or several.

    Raises:
        ValueError: it is neither.
    """
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) and text for text in texts):
        raise ValueError(f"{name}: give a text or a list of them, not {given!r}")
    return list(texts)


def _task_of(given: Any) -> Task:
    if isinstance(given, str):
        if given in KINDS:
            raise ValueError(f"tasks: of {given}, say what, as in {{{given}: ...}}")
        return Query(given)
    if not isinstance(given, Mapping) or len(given) != 1 or next(iter(given)) not in KINDS:
        raise ValueError(f"tasks: {given!r} is none: give a question, or one of {', '.join(KINDS)} with what is asked")
    ((kind, what),) = given.items()
    if not isinstance(what, str):
        raise ValueError(
            f"tasks: {kind} {what!r} is no text: YAML takes words such as yes and 7 for others, quote them"
        )
    task: Task = KINDS[kind](what)
    return task
